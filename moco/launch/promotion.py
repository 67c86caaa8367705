"""The last small job of a halved sweep on SLURM: takes up the paused points that rank among the best by then."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moco.errors import UserError, say
from moco.io import read_mapping, write_json
from moco.launch import budget
from moco.launch import slurm_client as slurm
from moco.launch.job import Task
from moco.launch.options import SlurmOptions
from moco.output import forgive
from moco.runs.lease import Damaged, Stopped
from moco.runs.state import State
from moco.runs.sweep import Sweep

MINUTES = 10  # it takes seconds
KEPT = 50  # of their ids


@dataclass
class Promotion:
    """What SLURM runs when all jobs of a halved sweep have ended: it submits those that go on, and itself once more.

    So a sweep needs no launcher that stays. Where this job is lost, the sweep's command does the same.
    """

    sweep: Sweep
    options: SlurmOptions
    tasks: Sequence[Task]

    def __call__(self) -> None:
        from moco.launch.slurm import SlurmLauncher

        if os.environ.get("SLURM_PROCID", "0") != "0":  # a job as large as a point's, where none smaller is taken
            return
        forgive()
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, _leave)  # where it ends in the middle, it takes back what it has submitted
        try:
            launcher = SlurmLauncher(replace(self.options, snapshot=False, wait=False, fail_fast=0), self.sweep)
            with self.sweep.claim():
                promoted, at_work = self._standing()
                print(f"sweep {self.sweep.name}: {len(promoted)} of {len(self.tasks)} points go on", flush=True)
                launcher.begin(promoted, at_work, [], self.tasks)
        except UserError as error:
            say(error)
            sys.exit(1)

    def _standing(self) -> tuple[list[Task], list[Task]]:
        """The paused tasks that go on, and those that have jobs: after them this is to be done once more."""
        queue = slurm.queued(task.run for task in self.tasks)
        paused, at_work, gone = list[Task](), list[Task](), list[Path]()
        for task in self.tasks:
            try:
                state = slurm.corrected(task.run, task.state(), queue)
            except Damaged:
                continue
            if state in (State.RUNNING, State.QUEUED):
                at_work.append(task)
            elif state == State.PAUSED:
                paused.append(task)
            elif state != State.DONE:  # it has ended short of its rung, and is not waited for
                gone.append(task.run.folder)
        return budget.promoted(paused, self.sweep, self.tasks, gone), at_work


def small(parameters: dict[str, object]) -> dict[str, object]:
    """sbatch's parameters for this job, made of those for a point: one task on one core, no GPU, minutes."""
    kept = {key: value for key, value in parameters.items() if "gpu" not in key and key not in ("gres", "srun_args")}
    minutes = parameters.get("time")
    time = min(minutes, MINUTES) if isinstance(minutes, int) else MINUTES
    kept |= {"nodes": 1, "ntasks_per_node": 1, "cpus_per_task": 1, "time": time}
    return {**kept, "job_name": f"{parameters.get('job_name')}-halving"} | ({"mem": "1GB"} if "mem" in kept else {})


def note(sweep: Sweep, job: str) -> None:
    """Keeps the id of a promotion that the sweep has in the queue; each launch has one."""
    write_json(sweep.folder / "promotion.json", {"jobs": [*noted(sweep), job][-KEPT:]})


def noted(sweep: Sweep) -> list[str]:
    """The ids of the sweep's last promotions."""
    jobs = (read_mapping(sweep.folder / "promotion.json") or {}).get("jobs")
    return [str(job) for job in jobs] if isinstance(jobs, list) else []


def _leave(number: int, frame: object) -> None:
    raise Stopped(signal.Signals(number).name)
