"""What charts show, apart from who draws them."""

from typing import Any

import pytest

from moco.analysis import charts
from moco.analysis.configurations import Configuration, configurations
from moco.analysis.records import read
from moco.runs.run import Run


@pytest.mark.parametrize(
    "values, kind",
    [
        ([0.05, 0.5], "log"),
        ([512, 1024, 4096], "linear"),
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
    assert heat == charts.Heat("temperature", "m", [0.1, 0.2, 0.4], [512, 4096], [[50, 52, 54], [51, 53, None]])
    assert charts.heat(grid[:2], "knn/top1") is None  # one setting varies


def test_along_a_line_one_setting_varies(grid: list[Configuration]) -> None:
    panels = {panel.key: panel for panel in charts.panels(grid, "knn/top1")}
    assert set(panels) == {"temperature", "m"}
    panel = panels["temperature"]
    assert (panel.axis, panel.alone, panel.joined, panel.places, panel.words) == (
        "linear",
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


def test_curves_are_thinned_and_end_where_the_run_ended() -> None:
    lines: list[dict[str, Any]] = [{"epoch": i, "train/loss": 1 / i, "knn/top1": None} for i in range(1, 1001)]
    lines += [{"epoch": 1000, "linear/top1": 60.0}, {"epoch": 1001, "train/loss": float("nan")}]
    epochs, losses = charts.curve(lines, "train/loss", 0)
    assert len(epochs) <= charts.POINTS and epochs[-1] == 1000 and losses[-1] == 0.001
    assert len(charts.curve(lines, "train/loss", None)[0]) <= charts.GREY_POINTS
    assert charts.curve(lines, "knn/top1", 0) == ([], [])


def test_what_all_share_is_said_as_it_is_typed(grid: list[Configuration]) -> None:
    shared = charts.shared([c.flat for c in grid], ["temperature", "m"])
    assert shared[:3] == ["method=moco", "model=resnet18", "data=cifar10"] and "batch_size=512" in shared
    assert not any(text.startswith(("temperature=", "m=", "seed=")) for text in shared)
