"""What results/ says is what the committed runs hold."""

from typing import TypedDict

import pytest
from common import ROOT

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
    "results/temperature_queue/README.md": (
        "temperature_queue",
        {"sort": "Top-1", "columns": ["Protocol", "tau", "m", "Top-1", "Top-5", "path"]},
    ),
}


def score(run: Run, metric: str) -> float:
    """A number of the run's result."""
    value = (run.result or {})[metric]
    assert isinstance(value, int | float)
    return value


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_committed_runs(page: str) -> None:
    text, (folder, chosen) = (ROOT / page).read_text(), PAGES[page]
    block = text.partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    assert block == render(select(lines(all_runs(ROOT / "results" / folder)), **chosen), "markdown")


def test_committed_runs_are_whole() -> None:
    runs = all_runs(RUNS)
    assert {run.config.method.name for run in runs} == {"moco", "simclr", "npid"}
    for run in runs:
        last = [line for line in run.metrics() if KNN.top1 in line][-1]
        assert score(run, KNN.top1) == last[KNN.top1] and last["epoch"] == run.config.epochs
        assert run.folder.name == folder_name(run.config)


def test_cpu_recipe_reaches_its_mark() -> None:
    [run] = [run for run in all_runs(RUNS) if run.config.recipe and run.config.recipe.name == "cifar_cpu"]
    assert score(run, KNN.top1) >= 58 and score(run, LINEAR_CACHED.top1) >= 62 and score(run, "seconds") <= 1200


def test_the_committed_sweep_is_whole() -> None:
    runs = all_runs(ROOT / "results" / "temperature_queue")
    assert len({(run.config.temperature, run.config.m) for run in runs}) == len(runs) == 9
    for run in runs:
        assert run.folder.name == folder_name(run.config) and score(run, LINEAR_CACHED.top1) > 0
