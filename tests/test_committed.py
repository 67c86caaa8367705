"""What results/ says is what the committed runs hold."""

import itertools
import re
import shlex
from typing import TypedDict

import pytest
import yaml
from common import ROOT, checked
from hydra.core.override_parser.overrides_parser import OverridesParser

from moco.__main__ import main
from moco.analysis.formats import MARKS, render
from moco.analysis.selection import select
from moco.analysis.table import lines
from moco.protocols import KNN, LINEAR_CACHED
from moco.runs.identity import folder_name
from moco.runs.listing import all_runs
from moco.runs.run import Run

RUNS = ROOT / "results" / "cifar_cpu"


class Selection(TypedDict, total=False):
    """What `python -m moco table` was given beside --into."""

    sort: str
    columns: list[str]


PAGES: dict[str, tuple[str, Selection]] = {
    "results/README.md": ("cifar_cpu", {}),
    "results/cifar_cpu_search/README.md": (
        "cifar_cpu_search",
        {"sort": "Top-1", "columns": ["augment.crop", "optimizer.lr", "Epoch", "Top-1", "Top-5"]},
    ),
    "results/cifar_cpu_npid_search/README.md": (
        "cifar_cpu_npid_search",
        {"sort": "Top-1", "columns": ["Negatives", "Temperature", "Momentum", "Epoch", "Top-1", "Top-5"]},
    ),
    "results/cifar_cpu_moco_search/README.md": (
        "cifar_cpu_moco_search",
        {"sort": "Top-1", "columns": ["Protocol", "Temperature", "Negatives", "optimizer.lr", "Top-1", "Top-5"]},
    ),
    "results/temperature_queue/README.md": (
        "temperature_queue",
        {"sort": "Top-1", "columns": ["Protocol", "Temperature", "Negatives", "Top-1", "Top-5", "path"]},
    ),
    "results/simclr_h200/README.md": (
        "simclr_h200",
        {"columns": ["Protocol", "Epochs", "Temperature", "Top-1", "Top-5", "path"]},
    ),
    "results/halving/README.md": (
        "halving/halved",
        {"sort": "Top-1", "columns": ["Temperature", "m", "optimizer.lr", "Epoch", "Top-1", "Top-5"]},
    ),
}


def trained_by(page: str) -> set[str]:
    """Names of the folders of all runs that the page's commands train."""
    names, text = set(), re.sub(r" \\\n\s*", " ", (ROOT / page).read_text().replace("<folder>", "cifar10-jpeg"))
    for command in re.findall(r"^    python train\.py (.*data\.root=.*)$", text, re.MULTILINE):
        words = [word for word in shlex.split(command) if not word.startswith(("-m", "hydra."))]
        if sweeps := [word.partition("=")[2] for word in words if word.startswith("sweeps=")]:
            asked = yaml.safe_load((ROOT / "sweeps" / f"{sweeps[0]}.yaml").read_text())["hydra"]["sweeper"]["params"]
            typed = {word.partition("=")[0] for word in words}
            words += [f"{key}={values}" for key, values in asked.items() if key not in typed]
        axes = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("sweeps=")])
        values = [
            list(axis.sweep_string_iterator()) if axis.is_sweep_override() else [axis.get_value_string()]
            for axis in axes
        ]
        for point in itertools.product(*values):
            names.add(folder_name(checked(*(f"{axis.get_key_element()}={value}" for axis, value in zip(axes, point)))))
    return names


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_train_the_committed_runs(page: str) -> None:
    """A recipe that has moved on since would train others."""
    folder = ROOT / "results" / PAGES[page][0]
    assert trained_by(page) == {run.folder.name for run in all_runs(folder)}


def test_measures_are_those_of_the_committed_runs(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "results" / "cifar_cpu_moco_search"
    assert main(["measures", "--runs-dir", str(folder)]) == 0
    assert f"```text\n{capsys.readouterr().out.strip()}\n```" in (folder / "README.md").read_text()


def score(run: Run, metric: str) -> float:
    """A number of the run's result."""
    value = (run.result or {})[metric]
    assert isinstance(value, int | float)
    return value


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_committed_runs(page: str) -> None:
    text, (folder, chosen) = (ROOT / page).read_text(), PAGES[page]
    block = text.partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    rows = lines(all_runs(ROOT / "results" / folder), "Epoch" in chosen.get("columns", ()))  # then with paused runs
    assert block == render(select(rows, **chosen), "markdown")


def test_the_halved_sweep_is_the_grid_as_far_as_it_went_and_has_its_best() -> None:
    """Epoch by epoch the same numbers, and a share of the epochs as results/halving/README.md says it."""
    halved, grid = ({run.id: run for run in all_runs(ROOT / "results/halving" / side)} for side in ("halved", "grid"))
    assert halved.keys() == grid.keys() and len(grid) == 27
    trained = 0
    for name, run in halved.items():
        ours, theirs = ([{**line, "seconds": 0} for line in one.metrics()] for one in (run, grid[name]))
        assert ours == theirs[: len(ours)]
        trained += len(ours)
    assert (trained, sum(len(run.metrics()) for run in grid.values())) == (71, 243)
    best = max(grid.values(), key=lambda run: score(run, KNN.top1))
    assert halved[best.id].result and score(halved[best.id], KNN.top1) == score(best, KNN.top1)


def test_committed_runs_are_whole() -> None:
    runs = all_runs(RUNS)
    assert {run.config.method.name for run in runs} == {"moco", "simclr", "npid"}
    for run in runs:
        last = [line for line in run.metrics() if KNN.top1 in line][-1]
        assert score(run, KNN.top1) == last[KNN.top1] and last["epoch"] == run.config.epochs
        assert run.folder.name == folder_name(run.config)


def test_cpu_recipe_reaches_its_mark() -> None:
    runs = [run for run in all_runs(RUNS) if run.config.recipe and run.config.recipe.name == "cifar_cpu"]
    assert {run.config.seed for run in runs} == {0, 1, 2}
    for run in runs:
        assert score(run, KNN.top1) >= 64 and score(run, LINEAR_CACHED.top1) >= 70 and score(run, "seconds") <= 1200


def test_the_committed_sweep_is_whole() -> None:
    runs = all_runs(ROOT / "results" / "temperature_queue")
    assert len({(run.config.temperature, run.config.m) for run in runs}) == len(runs) == 9
    for run in runs:
        assert run.folder.name == folder_name(run.config) and score(run, LINEAR_CACHED.top1) > 0
