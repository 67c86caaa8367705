"""A network or a classifier that diverges is a failure or a warning, never only a low number."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moco.analysis.table import lines
from moco.config.schema import Config
from moco.errors import UserError
from moco.protocols import LINEAR, LINEAR_CACHED, Protocol
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.runs.state import State
from moco.training import components
from moco.training.evaluation import evaluation
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train

Make = Callable[..., Config]


def only(config: Config) -> Run:
    [run] = all_runs(config.runs_dir)
    return run


@pytest.mark.parametrize("protocol", [LINEAR, LINEAR_CACHED])
def test_a_classifier_that_diverges_leaves_no_score(protocol: Protocol, tiny: Make) -> None:
    config = tiny("simclr", "epochs=1", f"probe={protocol.probe}", "probe.epochs=2", "probe.lr=1e30")
    train(config)
    run = only(config)
    before = run.result
    with pytest.raises(
        UserError, match="the linear classifier became infinite or NaN by step .*: give a lower probe.lr"
    ):
        linear_eval(run, config.evaluation())
    assert run.result == before and run.state() == State.DONE and protocol.top1 not in run.metrics()[-1]
    sane = config.evaluation().model_copy(update={"probe": config.probe.model_copy(update={"lr": 0.01})})
    assert linear_eval(run, sane) == (run.result or {})[protocol.top1] > 0


def test_features_that_overflow_are_no_score(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("simclr", "epochs=1")
    parts = components.Components(config, "cpu")
    method = torch.nn.Module()
    method.encoder, method.head = parts.encoder, lambda h: h / 0
    with pytest.raises(UserError, match="some features are infinite or NaN"):
        evaluation(parts, method, parts.views())()


def test_a_collapse_is_said_after_training_and_beside_the_table(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny("simclr", "epochs=1"))
    assert "guessing" not in capsys.readouterr().err
    scores = {"knn/top1": 10.0, "knn/top5": 50.0}
    monkeypatch.setattr("moco.training.evaluation.evaluation", lambda *_: lambda: scores)
    train(tiny("simclr", "epochs=1", "seed=1"))
    [line] = [line for line in capsys.readouterr().err.splitlines() if "guessing" in line]
    assert line.startswith("warning: kNN top-1 of 10.00 is what guessing gives") and "optimizer.lr" in line
    runs = all_runs(tmp_path / "runs")
    lines(runs)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "guessing" in line]
    collapsed = [run.id for run in runs if run.result and run.result["knn/top1"] == 10]
    assert len(collapsed) == 1 and line.endswith(f"probably collapsed: {collapsed[0]}")
