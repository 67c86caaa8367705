"""What jobs that run have left to do, and how long it takes, by their leases and metrics. Imports no torch."""

from typing import NamedTuple

from moco.launch import budget
from moco.launch.job import Task
from moco.protocols import KNN
from moco.runs.how_far import HowFar, how_far

DOING = {"train": "training", "linear_eval": "linear evaluation"}


class Job(NamedTuple):
    """A job that runs.

    Attributes:
        first: the epoch that its run stood at when it was started.
        started: when that was, by time.time().
        began: whether it has held its run.
    """

    task: Task
    first: int
    started: float
    began: bool


class Point(NamedTuple):
    """What is shown of a job that runs.

    Attributes:
        epochs: of the whole run.
        left: seconds until it ends, or comes to a rung.
        units: epochs that it trains until then; 1 where it trains none.
    """

    label: str
    doing: str
    far: HowFar = HowFar()
    epochs: int | None = None
    left: float | None = None
    units: int = 1


class Pace(NamedTuple):
    """Seconds that so many epochs took here, with all that belongs to them."""

    seconds: float = 0.0
    epochs: int = 0

    def plus(self, seconds: float, epochs: int) -> "Pace":
        return Pace(self.seconds + seconds, self.epochs + epochs)

    def of(self, epochs: int) -> float | None:
        """Seconds for so many epochs; None where nothing is known."""
        return epochs * self.seconds / self.epochs if self.epochs else None


def stands(task: Task) -> int:
    """The epoch from which a job of the task would go on."""
    return 0 if task.run.ordered(KNN.prefix, task.launch) else budget.standing(task.run)


def units(task: Task, epoch: int) -> int:
    """The epochs from that one on to the next rung where the run may be paused, else to its end; 1 where none is trained."""
    if not task.config:
        return 1
    rungs = task.halving.epochs(task.config.epochs)[task.passed :] if task.halving else []
    return max(1, next((rung for rung in rungs if rung > epoch), task.config.epochs) - epoch)


def point(job: Job, stops: bool) -> Point:
    """A job that runs, as its lease and metrics tell; one that has not held its run yet is starting."""
    task, holder = job.task, job.task.run.holder() if job.began else None
    doing = "stopping" if stops else DOING.get(holder.what, holder.what) if holder else "starting"
    if holder is None:
        return Point(task.label, doing, units=units(task, job.first))
    far, left = how_far(task.run, holder), None
    if holder.what != "train" or not task.config:
        return Point(task.label, doing, far, None, far.left)
    done, epochs = max(0, (far.epoch or 1) - 1), task.config.epochs
    if far.left is not None:  # of the whole run
        left = far.left * units(task, done) / max(1, epochs - done)
    return Point(task.label, doing, far, epochs, left, max(1, done + units(task, done) - job.first))
