"""What charts show, apart from who draws them."""

from pathlib import Path
from typing import Any

import pytest
from folders import write_paused

from moco.analysis import charts
from moco.analysis.configurations import AtRung, Configuration, configurations, in_order
from moco.analysis.numbers import Reached
from moco.analysis.records import look, read
from moco.analysis.report_charts import _cost
from moco.analysis.statistics import Score
from moco.runs.run import Run


@pytest.mark.parametrize(
    "values, kind",
    [
        ([0.05, 0.5], "log"),
        ([512, 1024, 4096], "log"),
        ([0.05, 0.1, 0.2], "log"),
        ([256, 512, 1024], "log"),
        ([1e-4, 2e-4, 4e-4, 8e-4], "log"),
        ([1, 2, 3, 4], "linear"),
        ([100, 200, 300, 400, 500], "linear"),
        ([512, 65536], "log"),
        ([0.0, 0.9, 0.99, 0.999], "category"),
        (["sgd", "adam"], "category"),
        ([1, None], "category"),
        ([0.07, 0.1, 0.2], "linear"),
        ([3], "linear"),
        ([i / 1000 for i in range(1, 9)] + [1.0], "log"),
        ([0, *(0.5 + i / 1000 for i in range(20))], "linear"),
    ],
)
def test_axes(values: list[Any], kind: str) -> None:
    assert charts.axis(values) == kind


def test_the_key_of_a_chart_numbers_what_the_chart_has() -> None:
    """A configuration without a cost, such as weights from elsewhere, has no point."""
    made = _cost([(None, 90.0, "w"), *((float(i), 80.0 - i, f"m={i}") for i in range(1, 11))], "title", "name", "label")
    assert made and made["key"] == made["data"][0]["customdata"] == [f"m={i}" for i in range(1, 11)]


def test_values_of_an_axis_in_order() -> None:
    assert charts.ordered(["adam", "10", "9", "0.5", "sgd"]) == ["0.5", "9", "10", "adam", "sgd"]
    assert charts.ticks(1, 10_000, "log") == [1, 10, 100, 1000, 10_000]
    assert charts.ticks(0, 2, "linear") == [0, 0.5, 1, 1.5, 2]


@pytest.fixture
def grid(finish) -> list[Configuration]:
    """Temperature by m, one point of the grid not finished."""
    folders = []
    for i, (t, m) in enumerate([(0.1, 512), (0.1, 4096), (0.2, 512), (0.2, 4096), (0.4, 512)]):
        folders.append(finish(f"temperature={t}", f"m={m}", top1=50.0 + i))
    folders.append(finish("temperature=0.4", "m=4096", epochs=3))
    return configurations([read(Run(folder)) for folder in folders])


def test_a_heat_map_has_the_setting_with_more_values_along_x(grid: list[Configuration]) -> None:
    heat = charts.heat(grid, "knn/top1")
    z, none = [[50, 52, 54], [51, 53, None]], [[None] * 3] * 2
    assert heat == charts.Heat("temperature", "m", [0.1, 0.2, 0.4], [512, 4096], z, none)
    assert charts.heat(grid[:2], "knn/top1") is None  # one setting varies


def test_along_a_line_one_setting_varies(grid: list[Configuration]) -> None:
    panels = {panel.key: panel for panel in charts.panels(grid, "knn/top1")}
    assert set(panels) == {"temperature", "m"}
    panel = panels["temperature"]
    assert (panel.axis, panel.alone, panel.joined, panel.places, panel.words) == (
        "log",
        True,
        True,
        [0.1, 0.2, 0.4],
        [],
    )
    lines = {line.label: line for line in panel.lines}
    assert (lines["m=512"].x, lines["m=512"].y, lines["m=512"].deviation) == ([0.1, 0.2, 0.4], [50, 52, 54], [None] * 3)
    assert lines["m=4096"].y == [51, 53]


def test_of_many_lines_the_best_few_have_a_colour() -> None:
    assert charts.coloured("abc") == [("a", 0), ("b", 1), ("c", 2)]
    many = charts.coloured(range(charts.LINES + 1))
    assert [colour for _, colour in many] == [*range(charts.BEST), None, None, None]


def test_a_legend_is_in_the_order_of_values(grid: list[Configuration]) -> None:
    [panel] = [panel for panel in charts.panels(grid, "knn/top1") if panel.key == "m"]
    assert [(line.label, c) for line, c in charts.in_legend(panel)] == [("temperature=0.1", 1), ("temperature=0.2", 0)]
    labels = ["lr=1e-3 m=8", "lr=1e-3 m=64", "lr=0.01", "method=moco k=5", "method=simclr"]
    assert sorted(reversed(labels), key=charts.natural) == labels


def test_what_all_share_is_said_as_it_is_typed(grid: list[Configuration]) -> None:
    shared = charts.shared([c.flat for c in grid], ["temperature", "m"])
    assert shared[:3] == ["method=moco", "model=resnet18", "data=cifar10"] and "batch_size=512" in shared
    assert not any(text.startswith(("temperature=", "m=", "seed=")) for text in shared)


# Paused runs


@pytest.fixture
def halved(finish, checked, tmp_path: Path) -> list[Configuration]:
    """Temperature by m: two done, one paused at each of two rungs, the lower rung's value the highest of all."""
    folders = [finish(f"temperature=0.{i}", "m=512", "epochs=90", top1=50.0 + i) for i in (1, 2)]
    for i, (epoch, top1) in enumerate([(10, 95.0), (30, 40.0)], 1):
        at = checked(f"temperature=0.{i}", "m=4096", "epochs=90")
        folders.append(write_paused(tmp_path / "runs", at, epoch, top1))
    return configurations(look([Run(folder) for folder in folders])[0])


def test_paused_configurations_come_after_finished_ones_and_the_farthest_first(halved: list[Configuration]) -> None:
    order = [c.label for c in in_order(halved)]
    assert order == [f"temperature=0.{t} m={m}" for t, m in ((2, 512), (1, 512), (2, 4096), (1, 4096))]
    assert [c.at_rung for c in in_order(halved)] == [
        None,
        None,
        AtRung(Reached(30, 90), Score(40.0, None, 1)),
        AtRung(Reached(10, 90), Score(95.0, None, 1)),
    ]
    assert [c.values("knn/top1") for c in in_order(halved)] == [[52.0], [51.0], [], []]


def test_a_heat_map_keeps_values_at_rungs_apart_from_final_ones(halved: list[Configuration]) -> None:
    heat = charts.heat(halved, "knn/top1")
    assert heat is not None and (heat.xs, heat.ys) == ([0.1, 0.2], [512, 4096])
    assert heat.z == [[51.0, 52.0], [None, None]]
    assert [[at and str(at) for at in row] for row in heat.rungs] == [
        [None, None],
        ["95.00 at epoch 10", "40.00 at epoch 30"],
    ]
    paused = [c for c in halved if c.at_rung]
    assert charts.heat(paused, "knn/top1") is None  # where nothing has finished there is nothing to colour
    assert charts.heat(halved, "linear/top1") is None and all(
        "4096" not in line.label for panel in charts.panels(halved, "knn/top1") for line in panel.lines
    )


def test_seeds_at_different_epochs_are_not_averaged(finish, checked, tmp_path: Path) -> None:
    runs = [write_paused(tmp_path / "runs", checked("epochs=90", f"seed={s}"), 30, 40.0 + s) for s in range(2)]
    runs.append(write_paused(tmp_path / "runs", checked("epochs=90", "seed=2"), 10, 20.0))
    [configuration] = configurations(look([Run(folder) for folder in runs])[0])
    assert configuration.at_rung is not None
    assert configuration.at_rung.reached == Reached(30, 90) and str(configuration.at_rung) == "40.50 ± 0.71 at epoch 30"


def test_letters_that_mean_other_things_elsewhere_have_words() -> None:
    assert [charts.words(key) for key in ("m", "k", "momentum", "model.name")] == [
        "negatives (m)",
        "neighbours (k)",
        "momentum",
        "model",
    ]
