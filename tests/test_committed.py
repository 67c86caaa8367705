"""What README and results/ say is what the committed runs hold."""

from typing import Any

import pytest
from common import ROOT

from moco.analysis import table as tables
from moco.runs.run import all_runs, folder_name

RUNS = ROOT / "results" / "cifar_cpu"
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "README.md": ("cifar_cpu", {}),
    "results/README.md": ("cifar_cpu", {}),
    "results/temperature_queue/README.md": (
        "temperature_queue",
        {"sort": "Top-1", "columns": ["Protocol", "tau", "m", "Top-1", "Top-5", "path"]},
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_committed_runs(page: str) -> None:
    text, (folder, words) = (ROOT / page).read_text(), PAGES[page]
    block = text.partition(tables.MARKS[0])[2].partition(tables.MARKS[1])[0].strip()
    assert block == tables.render(tables.table(all_runs(ROOT / "results" / folder), **words), "markdown")


def test_committed_runs_are_whole() -> None:
    runs = all_runs(RUNS)
    assert {run.config["method"]["name"] for run in runs} == {"moco", "simclr", "npid"}
    for run in runs:
        last = [line for line in run.metrics() if "knn/top1" in line][-1]
        assert run.result["knn/top1"] == last["knn/top1"] and last["epoch"] == run.config["epochs"]
        assert run.folder.name == folder_name(run.config)


def test_cpu_recipe_reaches_its_mark() -> None:
    [result] = [run.result for run in all_runs(RUNS) if run.config["recipe"]["name"] == "cifar_cpu"]
    assert result["knn/top1"] >= 58 and result["linear_cached/top1"] >= 62 and result["seconds"] <= 1200


def test_the_committed_sweep_is_whole() -> None:
    runs = all_runs(ROOT / "results" / "temperature_queue")
    assert len({(run.config["temperature"], run.config["m"]) for run in runs}) == len(runs) == 9
    for run in runs:
        assert run.folder.name == folder_name(run.config) and run.result["linear_cached/top1"] > 0
