"""A point of a sweep once it is checked: a run's folder with its frozen configuration, and what to do there.

A job knows nothing else, so edits to conf/ after submission change nothing.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from moco.launch import slurm_client as slurm
from moco.runs.lease import Held, Stopped, born
from moco.runs.run import LABELS, Run


@dataclass
class Task:
    """One thing to do in one run's folder: train, or linear_eval with these arguments."""

    run: Run
    what: str
    arguments: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def varies(self) -> str:
        """The label of a training that tells it from the others; empty where there is none."""
        return self.label if self.what == "train" and self.label != self.run.folder.name else ""

    @property
    def metrics(self) -> list[str]:
        """The metrics that it gives: knn, linear, linear_cached. A training with linear_eval=true gives two."""
        probed = self.what != "train" or self.arguments.get("linear_eval")
        return ["knn"] * (self.what == "train") + [LABELS[self.arguments["probe"]["name"]]] * bool(probed)

    def state(self) -> str:
        """done where all its metrics are in the result and none is ordered again; else how the last attempt stands."""
        result = self.run.result or {}
        done = all(f"{metric}/top1" in result and not self.run.order(metric).exists() for metric in self.metrics)
        return "done" if done else self.run.unfinished()

    def freeze(self, again: bool = False) -> None:
        """Makes the folder with the configuration that the job will run, and forgets an earlier failure.

        Args:
            again: order what is done to be done again.
        """
        self.run.folder.mkdir(parents=True, exist_ok=True)
        if self.what == "train":
            self.run.write_config(self.arguments)
        (self.run.folder / "error.txt").unlink(missing_ok=True)
        if again:
            self.run.order(self.metrics[0]).touch()

    def withdraw(self) -> None:
        """Takes back the order to do it again, where its job has not begun."""
        self.run.order(self.metrics[0]).unlink(missing_ok=True)

    def job(self, sweep: str, **place: Any) -> "Job":
        """What the queue carries to where it runs; `place` as Job takes it."""
        return Job(self, sweep, **place)

    def value(self) -> float | None:
        """The sweeper's objective, where there is one: kNN top-1, or linear top-1."""
        return (self.run.result or {}).get(f"{self.metrics[0]}/top1")


class Job:
    """What submitit carries to where it runs: the folder and what to do in it.

    Args:
        launcher: process id and birth of the launcher that the job ends with.
        slot: the name of its place on this machine.
        gpu: what CUDA_VISIBLE_DEVICES is to name; None leaves it.
    """

    def __init__(
        self,
        task: Task,
        sweep: str,
        launcher: tuple[int, str | None] | None = None,
        slot: str | None = None,
        gpu: str | None = None,
    ):
        self.task, self.sweep, self.launcher, self.slot, self.gpu = task, sweep, launcher, slot, gpu

    def __call__(self) -> None:
        if self.gpu is not None:  # here, as submitit takes indices alone, and CUDA's names of cards are longer
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.launcher:
            _stop_with(*self.launcher)
        try:
            self.work(
                sweep=self.sweep,
                label=self.task.varies,
                queue=os.environ.get("SUBMITIT_EXECUTOR"),
                job=slurm.job_id(),
                slot=self.slot,
                visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
            )
        except Held as held:
            print(held)
        except Stopped as stopped:
            if stopped.why == "SIGUSR2":
                slurm.requeue(self.task.run)
            raise

    def work(self, **details: Any) -> None:
        """Trains or probes; an error that comes before the run is claimed is recorded like one that comes later."""
        from moco.training import pretrain as jobs

        run = self.task.run
        try:
            if self.task.what == "train":
                jobs.train(run.config, run, **details)
            else:
                arguments = {key: self.task.arguments[key] for key in ("probe", "tracker", "device", "seed")}
                jobs.linear_eval(run, **arguments, **details)
        except (Held, Stopped):
            raise
        except BaseException as error:
            run.fail(error)
            raise

    def checkpoint(self) -> Any:
        """What submitit queues again where the signal comes before training has begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _stop_with(pid: int, birth: str | None) -> None:
    """Stops this process, checkpoint saved, when the launcher that started it is gone."""

    def watch() -> None:
        while born(pid) == birth:
            time.sleep(1)
        while True:  # until it is heard: a process that is still loading torch does not listen yet
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
