"""What each setting matters, by forests."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from folders import point, write_run

from moco.analysis.configurations import Configuration, configurations
from moco.analysis.importance import LEAST, importance
from moco.analysis.records import look
from moco.analysis.report_charts import charts
from moco.runs.listing import all_runs


def random_search(runs_dir: Path, base, number: int, effect: float) -> list[Configuration]:
    """Temperature matters by `effect`, the optimizer's weight decay not at all."""
    draw, cfg = random.Random(0), base("recipe=moco_cifar", "epochs=2")
    for _ in range(number):
        t, decay = round(10 ** draw.uniform(-1.5, 0), 5), round(10 ** draw.uniform(-6, -3), 8)
        top1 = 60 + effect * abs(t - 0.2) + draw.gauss(0, 0.3)
        write_run(runs_dir, point(cfg, {"temperature": t, "optimizer.weight_decay": decay}), top1=top1)
    return configurations(look(all_runs(runs_dir))[0])


def test_what_matters_comes_first_and_what_does_not_is_about_nothing(base, tmp_path: Path) -> None:
    found = random_search(tmp_path, base, 40, -20)
    first, second = importance(found, "knn/top1")
    assert (first.key, second.key) == ("temperature", "optimizer.weight_decay")
    assert first.mean - 2 * first.deviation > 1 and abs(second.mean) < 0.3 and first.deviation > 0
    assert importance(found, "knn/top1") == [first, second]  # the same each time
    [chart] = [chart for chart in charts(found) if chart["title"] == "What each setting matters for kNN top-1"]
    assert chart["data"][0]["y"] == ["optimizer.weight_decay", "temperature"]


def test_it_is_silent_where_nothing_can_be_known(base, tmp_path: Path) -> None:
    found = random_search(tmp_path / "few", base, LEAST - 1, -20)
    assert importance(found, "knn/top1") == []
    assert (
        importance(random_search(tmp_path / "noise", base, 12, 0), "knn/top1") == []
    )  # predicts no better than the mean
    assert not any("matters" in chart["title"] for chart in charts(found))


def test_without_scikit_learn_a_line_says_so(base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = random_search(tmp_path, base, LEAST, -20)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    [chart] = [chart for chart in charts(found) if "matters" in chart["title"]]
    assert chart["data"] == [] and "scikit-learn, which is not installed" in chart["note"]


def test_scikit_learn_is_loaded_only_then() -> None:
    code = "import sys, moco.analysis.report; sys.exit('sklearn' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
