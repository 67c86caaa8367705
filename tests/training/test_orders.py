"""An order to begin again: until its job begins nothing is lost, and it is obeyed once."""

import json
from collections.abc import Callable

import pytest
from test_training import PER_EPOCH, only, stop_at

from moco.config.schema import Config
from moco.evaluation import linear_probe
from moco.launch.job import Task
from moco.protocols import KNN, LINEAR
from moco.runs.lease import Place, Stopped
from moco.runs.state import State
from moco.training.pretrain import train

Make = Callable[..., Config]
PLACE = Place(sweep="sweep", job="7")


def work(task: Task) -> None:
    """What the queue's job does."""
    job = task.job(PLACE)
    job._work(job.place)


def test_ordered_again_it_begins_anew_once_and_until_then_nothing_is_lost(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = train(tiny())
    task = Task(only(tiny()), tiny())
    assert task.state() == State.DONE
    task.freeze("first")
    assert task.state() == State.PENDING and task.run.state() == State.DONE and task.run.result[KNN.top1] == value
    task.withdraw()
    assert task.state() == State.DONE
    task.freeze("second")
    assert train(tiny()) == value and task.state() == State.PENDING  # the order is not for others
    with monkeypatch.context() as patch:
        stop_at(patch, PER_EPOCH + 3)
        with pytest.raises(Stopped):
            work(task)
    assert task.state() == State.STOPPED and task.run.result is None
    work(task)  # queued again, it goes on
    assert task.state() == State.DONE and task.run.result[KNN.top1] == value
    assert len(json.loads((task.run.folder / "provenance.json").read_text())) == 2
    (task.run.folder / "result.json").unlink()
    assert task.state() == State.PENDING


def test_linear_evaluation_ordered_again_begins_anew_once(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny())
    config = tiny("moco", "probe.epochs=3", "probe.batch_size=500", "linear_eval=true")  # three steps per epoch
    trained = Task(only(tiny()), config, (config.evaluation(),))
    probed = Task(only(tiny()), None, (config.evaluation(),))
    assert trained.state() == probed.state() == State.PENDING and trained.run.state() == State.DONE
    trained.freeze()
    work(trained)
    assert trained.state() == probed.state() == State.DONE
    value = trained.run.result[LINEAR.top1]
    probed.freeze("again")
    assert probed.state() == State.PENDING and trained.state() == trained.run.state() == State.DONE
    with monkeypatch.context() as patch:
        stop_at(patch, 4, of=linear_probe)
        with pytest.raises(Stopped):
            work(probed)
    assert probed.state() == State.STOPPED and LINEAR.top1 not in probed.run.result
    drawn: list[tuple[str, int]] = []
    draw = linear_probe.step_seed
    monkeypatch.setattr(linear_probe, "step_seed", lambda *of: drawn.append(of[1:]) or draw(*of))
    work(probed)
    assert probed.state() == State.DONE and probed.value() == value
    assert [step for stream, step in drawn if stream == "probe step"] == [*range(5, 9)]
