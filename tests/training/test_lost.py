"""A process that has lost its run, because it was silent for too long, writes nothing into what is another's now."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.config.schema import Config
from moco.runs.lease import Lost
from moco.runs.run import Run
from moco.training import classifiers, trainer
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train

Make = Callable[..., Config]


def take_over(run: Run) -> None:
    path = run.folder / "lease.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "another"}))


def contents(run: Run) -> dict[Path, bytes]:
    """The files that are the run's own, with what is in them."""
    own = ("metrics.jsonl", "checkpoint.pt", "result.json", "error.txt", "lease.json")
    return {path: path.read_bytes() for path in sorted(run.folder.iterdir()) if path.name in own}


@pytest.mark.parametrize("at", [30, 43], ids=["in an epoch", "at its end"])
def test_a_training_that_lost_its_run_leaves_it_as_it_is(at: int, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config, draw = tiny("simclr", "checkpoint_minutes=0"), trainer.step_seed
    before: list[dict[Path, bytes]] = []

    def drawn(seed: int, stream: str, step: int) -> int:
        if stream == "step" and step == at:
            [folder] = [path.parent for path in Path(config.runs_dir).glob("*/lease.json")]
            take_over(Run(folder))
            before.append(contents(Run(folder)))
        return draw(seed, stream, step)

    monkeypatch.setattr(trainer, "step_seed", drawn)
    with pytest.raises(Lost, match="was taken over by another process"):
        train(config)
    [folder] = [path.parent for path in Path(config.runs_dir).glob("*/lease.json")]
    assert len(before[0]) == 3 and contents(Run(folder)) == before[0]


def test_a_linear_evaluation_that_lost_its_run_leaves_it_as_it_is(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("simclr", "epochs=1", "probe=cached", "probe.epochs=1")
    train(config)
    [folder] = [path.parent for path in Path(config.runs_dir).glob("*/lease.json")]
    fit, before = classifiers.Evaluation.fit, list[dict[Path, bytes]]()

    def fitted(self: classifiers.Evaluation) -> object:
        accuracy = fit(self)
        take_over(Run(folder))
        before.append(contents(Run(folder)))
        return accuracy

    monkeypatch.setattr(classifiers.Evaluation, "fit", fitted)
    with pytest.raises(Lost):
        linear_eval(Run(folder), config.evaluation())
    assert contents(Run(folder)) == before[0]
