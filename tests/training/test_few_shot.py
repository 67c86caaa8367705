"""Linear evaluation of a run with settings that are chosen, and with a share of the labels."""

import signal
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from moco.config.schema import Config
from moco.evaluation.fitting import Fitting
from moco.protocols import FEWSHOT_1, FEWSHOT_10, LINEAR_CACHED, LINEAR_GRID
from moco.runs.lease import Stopped
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.training import classifiers
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import summary, train

Make = Callable[..., Config]


@pytest.fixture
def trained(tiny: Make) -> tuple[Config, Run]:
    config = tiny("simclr", "epochs=1")
    train(config)
    [run] = all_runs(config.runs_dir)
    return config, run


def evaluated(run: Run, config: Config, tiny: Make, *words: str) -> dict[str, Any]:
    asked = tiny("simclr", "epochs=1", *words).evaluation()
    linear_eval(run, asked)
    return run.result or {}


def test_what_was_chosen_is_kept_and_said(trained: tuple[Config, Run], tiny: Make) -> None:
    config, run = trained
    words = ["probe.epochs=3", "probe.lrs=[0.001,0.05]", "probe.weight_decays=[0,1]"]
    result = evaluated(run, config, tiny, "probe=grid", *words)
    kept = result["probes"]["grid"]
    assert kept["lrs"] == [0.001, 0.05] and kept["weight_decays"] == [0, 1] and "lr" not in kept
    chosen = kept["chosen"]
    assert chosen["lr"] == pytest.approx(0.05) and chosen["weight_decay"] == 0 and chosen["held_out_top1"] > 20
    assert summary(result).endswith(
        f"{result[LINEAR_GRID.metric(5)]:.2f} with lr=0.05 weight_decay=0 (top-1 / top-5, %)"
    )
    as_chosen = ["probe=cached", "probe.epochs=3", "probe.lr=0.05", "probe.weight_decay=0"]
    result = evaluated(run, config, tiny, *as_chosen)
    assert result[LINEAR_CACHED.top1] == result[LINEAR_GRID.top1]


def test_shares_of_the_labels_give_means_and_spreads(
    trained: tuple[Config, Run], tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second draw, it goes on there, and the numbers are those of one that was not stopped."""
    config, run = trained
    words = ["probe=fewshot", "probe.epochs=2", "probe.lrs=[0.05]", "probe.weight_decays=[0,0.1]"]
    result = evaluated(run, config, tiny, *words)
    draws = result["probes"]["fewshot"]["of_each_draw"]
    assert len(draws) == 6 and result["probes"]["fewshot"]["draws"] == 3
    for protocol, of in ((FEWSHOT_1, draws[:3]), (FEWSHOT_10, draws[3:])):
        top1 = [draw[0] for draw in of]
        assert result[protocol.top1] == pytest.approx(statistics.fmean(top1))
        assert result[protocol.spread] == pytest.approx(statistics.stdev(top1)) and len(set(top1)) > 1
        assert run.metrics()[-1][protocol.top1] == result[protocol.top1]
    assert 5 < result[FEWSHOT_1.top1] < result[FEWSHOT_10.top1] <= result[FEWSHOT_10.metric(5)]
    assert f"Linear (1 %) {result[FEWSHOT_1.top1]:.2f} ± {result[FEWSHOT_1.spread]:.2f} / " in summary(result)

    asked = tiny("simclr", "epochs=1", *words).evaluation().model_copy(update={"rerun": True})
    steps, on_step = [], classifiers.Evaluation.on_step

    def counted(self: classifiers.Evaluation, fitting: Fitting) -> None:
        steps.append(fitting.step)
        if len(steps) == 7:
            signal.raise_signal(signal.SIGTERM)
        on_step(self, fitting)

    monkeypatch.setattr(classifiers.Evaluation, "on_step", counted)
    with pytest.raises(Stopped):
        linear_eval(run, asked)
    assert FEWSHOT_10.top1 not in (run.result or {}) and FEWSHOT_1.spread not in (run.result or {})
    before = len(steps)
    linear_eval(run, asked.model_copy(update={"rerun": False}))
    result = run.result or {}
    assert result["probes"]["fewshot"]["of_each_draw"] == draws
    assert before == 7 and len(steps) == 3 * 2 * (1 + 1) + 3 * 2 * (2 + 3)  # no step is taken twice
