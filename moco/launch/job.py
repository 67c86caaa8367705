"""A point of a sweep once it is checked, and what travels from it to the process that does the work.

A job knows a run's folder, with its frozen configuration, and what to do there: edits to conf/ after submission change
nothing.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from moco.config.places import CODE, INSTALLED
from moco.config.schema import Config, LinearEval
from moco.launch import slurm_client as slurm
from moco.protocols import KNN, LINEAR_PROTOCOLS, Protocol
from moco.runs.lease import Held, Place, Stopped, born
from moco.runs.run import Run
from moco.runs.state import State

if TYPE_CHECKING:
    from pathlib import Path

    from submitit.helpers import DelayedSubmission


@dataclass
class Task:
    """What is to be done with one run.

    Attributes:
        config: what to train; None: the run is there, and nothing is to be trained.
        evaluations: linear evaluations to do, after the training where there is one; one per protocol.
        label: the settings in which the run differs from the others of its sweep, as people type them.
    """

    run: Run
    config: Config | None = None
    evaluations: tuple[LinearEval, ...] = ()
    label: str = ""

    @property
    def varies(self) -> str:
        """The label of a training that tells it from the others; empty where there is none."""
        return self.label if self.config and self.label != self.run.folder.name else ""

    @property
    def protocols(self) -> list[Protocol]:
        """What the run is scored by here; the first gives the sweeper's objective."""
        trained = [KNN] if self.config else []
        return trained + [LINEAR_PROTOCOLS[asked.probe.name] for asked in self.evaluations]

    def state(self) -> State:
        """Done where all its metrics are in the result and none is ordered again; else how the last attempt stands."""
        result, ordered = self.run.result or {}, self.run.order
        done = all(protocol.top1 in result and not ordered(protocol.prefix).exists() for protocol in self.protocols)
        return State.DONE if done else self.run.unfinished()

    def value(self) -> float | None:
        """The sweeper's objective, where there is one: kNN top-1, or linear top-1, in percent."""
        found = (self.run.result or {}).get(self.protocols[0].top1)
        return found if isinstance(found, int | float) else None

    def freeze(self, again: bool = False) -> None:
        """Makes the folder with the configuration that the job will run, and forgets an earlier failure.

        Args:
            again: order what is done to be done again.
        """
        self.run.folder.mkdir(parents=True, exist_ok=True)
        if self.config:
            self.run.write_config(self.config)
        (self.run.folder / "error.txt").unlink(missing_ok=True)
        if again:
            for order in self._orders():
                order.touch()

    def withdraw(self) -> None:
        """Takes back the orders to do it again, where its job has not begun."""
        for order in self._orders():
            order.unlink(missing_ok=True)

    def _orders(self) -> "list[Path]":
        """The orders to do it again: a training that begins again does its evaluations again, too."""
        protocols = self.protocols[:1] if self.config else self.protocols
        return [self.run.order(protocol.prefix) for protocol in protocols]

    def job(self, place: Place, launcher: "Process | None" = None, gpu: str | None = None) -> "Job":
        """What travels to the process that does it."""
        return Job(self.run, self.config is not None, self.evaluations, place, launcher, gpu)


class Process(NamedTuple):
    """A process of this machine, told from a later one of the same id by its birth."""

    pid: int
    born: str | None

    @classmethod
    def this(cls) -> "Process":
        return cls(os.getpid(), born(os.getpid()))


@dataclass
class Job:
    """What submitit carries to where it runs; the configuration lies in the run's folder and nowhere else.

    Attributes:
        train: whether to train, before the evaluations.
        place: where it runs, as the launcher knows it; the job adds the rest.
        launcher: the process that the job ends with; None: it goes on alone.
        gpu: what CUDA_VISIBLE_DEVICES is to name; None leaves it.
    """

    run: Run
    train: bool
    evaluations: tuple[LinearEval, ...]
    place: Place
    launcher: Process | None = None
    gpu: str | None = None

    def __call__(self) -> None:
        if self.gpu is not None:  # here, as submitit takes indices alone, and CUDA's names of cards are longer
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.launcher:
            _stop_with(self.launcher)
        try:
            self._work(self._place())
        except Held as held:
            print(held)
        except Stopped as stopped:
            if stopped.why == "SIGUSR2":
                slurm.requeue(self.run)
            raise

    def _place(self) -> Place:
        return replace(
            self.place,
            queue=os.environ.get("SUBMITIT_EXECUTOR"),
            job=slurm.job_id(),
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )

    def _work(self, place: Place) -> None:
        """Trains and evaluates; an error that comes before the run is held is recorded like one that comes later."""
        try:
            if self.train:
                from moco.training.pretrain import train

                train(self.run.config, self.run, place, self.evaluations)
                return
            from moco.training.linear_eval import linear_eval

            for asked in self.evaluations:
                linear_eval(self.run, asked, place)
        except (Held, Stopped):
            raise
        except BaseException as error:
            self.run.fail(error)
            raise

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit queues again where the signal comes before training has begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _stop_with(launcher: Process) -> None:
    """Stops this process, checkpoint saved, when the launcher that started it is gone."""

    def watch() -> None:
        while born(launcher.pid) == launcher.born:
            time.sleep(1)
        while True:  # until it is heard: a process that is still loading torch does not listen yet
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """os.environ with changes, for the children started meanwhile.

    They do not import from their working directory, which may be a checkout that has been edited since.
    """
    before = dict(os.environ)
    os.environ.update(changes, PYTHONSAFEPATH="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def python_path(sweep_folder: "Path", snapshot: bool) -> str:
    """PYTHONPATH of the jobs: this checkout, or a frozen copy of its tracked files; an installed package is found without.

    Raises:
        UserError: a snapshot is asked for, and this is not a checkout.
    """
    code = [] if INSTALLED else [str(CODE)]
    if snapshot:
        from moco.runs.provenance import snapshot as copied

        code = [str(copied(sweep_folder))]
    return os.pathsep.join([*code, *filter(None, [os.environ.get("PYTHONPATH")])])
