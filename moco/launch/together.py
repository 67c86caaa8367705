"""Points that share one job of SLURM's: a process for each, side by side, on what the job was given."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moco.launch import children as processes
from moco.launch import slurm_client as slurm
from moco.launch.job import Job
from moco.output import forgive
from moco.runs.lease import EXIT_STOPPED, Stopped

POLL = 0.2  # seconds between looks at the processes


def log_of(folder: Path, job: str, index: int) -> Path:
    """The log of one of the points that share the job."""
    return folder / f"{job}_point{index}.out"


@dataclass
class Jobs:
    """What submitit carries to where it runs, for points that share a job.

    A point that fails leaves the others. When SLURM warns that time is up, each saves its checkpoint, and then the job is
    queued again, once; there it goes on with those that are left.

    Attributes:
        jobs: one for each point.
        folder: where their logs are written.
    """

    jobs: Sequence[Job]
    folder: Path

    def __call__(self) -> None:
        forgive()
        warned = False

        def pass_on(number: int, frame: object) -> None:
            nonlocal warned
            warned = True
            for child in children.values():
                child.send_signal(number)  # most have heard it: SLURM tells every process of a job

        # Ignored by the children, too, until they listen: what a SIGTERM announces comes after it, and ends them.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        children = dict[int, subprocess.Popen[bytes]]()
        signal.signal(signal.SIGUSR2, pass_on)
        for i, job in enumerate(self.jobs):
            if not slurm.is_over(job.run):
                children[i] = self._start(i)
        if warned:  # while they were started
            pass_on(signal.SIGUSR2, None)
        ends = dict[int, int]()
        while len(ends) < len(children):
            for i, child in children.items():
                if i not in ends and (end := child.poll()) is not None:
                    ends[i] = end
                    self._tell(i, child.pid, end)
            time.sleep(POLL)
        stopped = [job.run for i, job in enumerate(self.jobs) if ends.get(i) in (EXIT_STOPPED, -signal.SIGUSR2)]
        if warned and (left := [run for run in stopped if not slurm.is_over(run)]):
            slurm.requeue(*left)
            raise Stopped("SIGUSR2")
        if any(ends.values()):
            sys.exit(1)

    def _start(self, i: int) -> "subprocess.Popen[bytes]":
        """Starts a point's process on its share of the cores, and on one GPU where the job has several."""
        cores = min(len(os.sched_getaffinity(0)), int(os.environ.get("SLURM_CPUS_ON_NODE", "1024")))
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        env = {
            "OMP_NUM_THREADS": str(max(1, cores // len(self.jobs))),
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}),
        }
        print(f"{self.jobs[i].run.folder}: log {self._log(i)}", flush=True)
        return processes.start(self.jobs[i].work, self._log(i), env)

    def _log(self, i: int) -> Path:
        return log_of(self.folder, str(slurm.job_id()), i)

    def _tell(self, i: int, pid: int, end: int) -> None:
        """Tells how a point's process has ended; where it was killed, the run's lease, too."""
        run = self.jobs[i].run
        print(f"{run.folder}: {processes.ended(end)}", flush=True)
        if end < 0:
            processes.note_killed(run, pid)

    def checkpoint(self) -> object:
        """What submitit queues again where the signal comes before any has begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
