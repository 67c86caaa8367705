"""A point of a sweep once it is checked, and what travels from it to the process that does the work.

A job knows a run's folder, with its frozen configuration, and what to do there: edits to conf/ after submission change
nothing.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from moco.config.places import CODE, INSTALLED
from moco.config.schema import Config, LinearEval
from moco.errors import UserError, say
from moco.io import write_atomic
from moco.launch import slurm_client as slurm
from moco.launch.halving import Halving, Rungs
from moco.launch.ranks import Others, join_tasks
from moco.output import forgive
from moco.protocols import KNN, Protocol
from moco.runs.lease import Held, Lost, Paused, Place, Stopped, born
from moco.runs.run import Run
from moco.runs.settings import other_settings
from moco.runs.state import State
from moco.runs.sweep import Sweep
from moco.training.distributed import first

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
        launch: the launch that has ordered to do it again; None: what is done stays.
        halving: the rungs where it may be paused; None: it goes through to its end.
        passed: so many of the rungs are decided already.
    """

    run: Run
    config: Config | None = None
    evaluations: tuple[LinearEval, ...] = ()
    label: str = ""
    launch: str | None = None
    halving: Halving | None = None
    passed: int = 0
    _new: bool = field(default=False, repr=False, compare=False)  # whether freeze made the folder
    _kept: bool = field(default=False, repr=False, compare=False)
    _failure: str = field(default="", repr=False, compare=False)  # what freeze forgot

    @property
    def varies(self) -> str:
        """The label of a training that tells it from the others; empty where there is none."""
        return self.label if self.config and self.label != self.run.folder.name else ""

    @property
    def protocols(self) -> list[Protocol]:
        """What the run is scored by here; the first gives the sweeper's objective."""
        trained = [KNN] if self.config else []
        return trained + [asked.protocol for asked in self.evaluations]

    def state(self) -> State:
        """Done where all its metrics are in the result and no order of ours waits; else how the last attempt stands."""
        return self.run.unfinished() if self.missing else State.DONE

    @property
    def missing(self) -> list[str]:
        """The metrics that are left to be had: knn, linear, linear_cached."""
        result, ordered = self.run.result or {}, self.run.ordered
        return [p.prefix for p in self.protocols if p.top1 not in result or ordered(p.prefix, self.launch)]

    def value(self) -> float | None:
        """The sweeper's objective, where there is one: kNN top-1, or linear top-1, in percent; of a paused run the last."""
        paused = self.run.state() == State.PAUSED
        found = (self.run.last_metrics() if paused else self.run.result or {}).get(self.protocols[0].top1)
        return found if isinstance(found, int | float) else None

    def freeze(self, launch: str | None = None) -> None:
        """Makes the folder with the configuration that the job will run, and forgets an earlier failure.

        Args:
            launch: the launch that orders what is done to be done again, by its jobs and no others.
        """
        self._new = not self.run.folder.exists()
        self._failure = self.run.failure()
        self.run.folder.mkdir(parents=True, exist_ok=True)
        if self.config:
            self.run.write_config(self.config)
        (self.run.folder / "error.txt").unlink(missing_ok=True)
        self.launch = launch
        if launch:
            for metric in self._ordered:
                write_atomic(self.run.order(metric), launch + "\n")

    def withdraw(self) -> None:
        """Takes back the orders to do it again, where its job has not begun."""
        for metric in self._ordered:
            if self.run.ordered(metric, self.launch):
                self.run.order(metric).unlink(missing_ok=True)

    def keep(self) -> None:
        """Lets `undo` do nothing: a job is in the queue that could not be taken back."""
        self._kept = True

    def undo(self) -> None:
        """Takes back all that `freeze` did, for a launcher that refused: a folder that it made goes, if no job was there."""
        if self._kept:
            return
        self.withdraw()
        folder = self.run.folder
        if self._new and self.run.holder() is None and not self._failure:
            shutil.rmtree(folder, ignore_errors=True)
        elif self._failure and not (folder / "error.txt").exists():
            write_atomic(folder / "error.txt", self._failure)

    @property
    def _ordered(self) -> list[str]:
        """The metrics that an order names: a training that begins again does its evaluations again, too."""
        return [protocol.prefix for protocol in (self.protocols[:1] if self.config else self.protocols)]

    def erases(self) -> list[str]:
        """What of the run is there and goes when a job obeys an order to do it again."""
        result, run = self.run.result or {}, self.run
        if self.config:
            there = [(KNN.top1 in result, "result"), (run.checkpoint.exists() and not result, "checkpoint")]
        else:
            there = [(protocol.top1 in result, "linear evaluation") for protocol in self.protocols]
        return [name for is_there, name in there if is_there]

    def differences(self) -> list[str]:
        """A line for each linear evaluation that the run has with other settings than those asked for."""
        found = []
        for asked in self.evaluations:
            if different := other_settings(self.run.result or {}, asked):
                found.append(
                    f"linear evaluation ({asked.protocol.record}) is there with {different}: rerun=true repeats it"
                )
        return found

    def job(self, place: Place, launcher: "Process | None" = None, gpu: str | None = None, ranks: int = 1) -> "Job":
        """What travels to the process that does it."""
        place = replace(place, launch=self.launch)
        rungs = None
        if self.halving and self.config:
            sweep = Sweep(self.run.folder.parent, place.sweep or "")
            rungs = Rungs(self.run, sweep, self.halving, self.config.epochs, self.passed)
        return Job(self.run, self.config is not None, self.evaluations, place, launcher, gpu, rungs, ranks)


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
        rungs: where it may be paused.
        ranks: so many processes work on it together, each on a device of its own.
    """

    run: Run
    train: bool
    evaluations: tuple[LinearEval, ...]
    place: Place
    launcher: Process | None = None
    gpu: str | None = None
    rungs: Rungs | None = None
    ranks: int = 1

    def __call__(self) -> None:
        """Works; puts its job of SLURM's back into the queue where time is up."""
        try:
            self.work()
        except Stopped as stopped:
            if not first():  # srun ends all as soon as one ends badly, and rank 0 may not be that far
                return
            if stopped.why == "SIGUSR2":
                slurm.requeue(self.run)
            raise

    def work(self) -> None:
        """Trains and evaluates, whatever signals come; what the user can mend is said in a line.

        Raises:
            Stopped: a signal came, with the checkpoint saved.
        """
        forgive()
        if self.gpu is not None:  # here, as submitit takes indices alone, and CUDA's names of cards are longer
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.launcher:
            os.setpgid(0, 0)  # a terminal's Ctrl-C is the launcher's to hear, which tells its jobs
            signal.signal(signal.SIGTERM, _leave)
            _stop_with(self.launcher)
        elif os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # submitit's handlers write of each signal into the log
            signal.signal(signal.SIGTERM, _ignore)
            signal.signal(signal.SIGCONT, _ignore)
            signal.signal(signal.SIGUSR2, _leave)  # time is up before it has begun
            if self.ranks > 1:
                join_tasks()
        try:
            with self._other_ranks():
                self._work(self._place())
        except Held as held:
            print(held)
        except UserError as error:  # error.txt has it; submitit would add its own traceback
            say(error)
            sys.exit(1)
        except Paused as paused:
            if first():
                print(f"{self.run.folder}: {paused}")

    def _other_ranks(self) -> contextlib.AbstractContextManager[object]:
        """The other ranks as children of this process, where the launcher of this machine wants several."""
        here = self.launcher and self.ranks > 1
        return Others(self.run, self.ranks, self.follow) if here else contextlib.nullcontext()

    def follow(self) -> None:
        """Works as another rank than 0, whose child this process is."""
        forgive()
        signal.signal(signal.SIGTERM, _leave)
        try:
            self._work(self._place())
        except UserError as error:
            say(error)
            sys.exit(1)
        except Paused:
            pass

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

                train(self.run.config, self.run, place, self.evaluations, self.rungs)
            else:
                from moco.training.linear_eval import linear_eval

                for i, asked in enumerate(self.evaluations, 1):
                    linear_eval(self.run, asked, place, more=i < len(self.evaluations))
            _close_ears(place)
        except Paused:
            _close_ears(place)
            raise
        except (Held, Lost, Stopped):
            raise
        except BaseException as error:
            if first():
                self.run.fail(error)
            raise

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit queues again where the signal comes before training has begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _close_ears(place: Place) -> None:
    """All is on disk: SLURM's warning that time is up comes too late to change that."""
    if place.queue == "slurm":
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Python takes its own handlers back before it has ended


def _leave(number: int, frame: object) -> None:
    """Ends a job that has nothing to save: it has not begun, or is at its end."""
    raise Stopped(signal.Signals(number).name)


def _ignore(number: int, frame: object) -> None:
    """A signal that tells a job of SLURM's nothing before it has begun: what ends it comes after."""


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
