"""The last small job of a halved sweep on SLURM: takes up the paused points that rank among the best by then."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moco.io import read_mapping, write_json
from moco.launch import budget
from moco.launch import slurm_client as slurm
from moco.launch.job import Task
from moco.launch.options import SlurmOptions
from moco.output import forgive
from moco.runs.lease import Damaged
from moco.runs.state import State
from moco.runs.sweep import Sweep

MINUTES = 10  # it takes seconds
WORKS = (State.RUNNING, State.QUEUED)


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

        forgive()
        launcher = SlurmLauncher(replace(self.options, snapshot=False, wait=False, fail_fast=0), self.sweep)
        with self.sweep.claim():
            promoted = self._promoted()
            print(f"sweep {self.sweep.name}: {len(promoted)} of {len(self.tasks)} points go on", flush=True)
            if promoted:
                launcher.begin(promoted, [], [], self.tasks)

    def _promoted(self) -> list[Task]:
        """The paused tasks that go on; who has ended short of its rung is not waited for."""
        queue = slurm.queued(task.run for task in self.tasks)
        paused, gone = list[Task](), list[Path]()
        for task in self.tasks:
            try:
                state = slurm.corrected(task.run, task.state(), queue)
            except Damaged:
                continue
            if state == State.PAUSED:
                paused.append(task)
            elif state not in (State.DONE, *WORKS):
                gone.append(task.run.folder)
        return budget.promoted(paused, self.sweep, self.tasks, gone)

    @staticmethod
    def small(parameters: dict[str, object]) -> dict[str, object]:
        """sbatch's parameters for this job, made of those for a point: one core, no GPU, minutes."""
        kept = {
            key: value for key, value in parameters.items() if "gpu" not in key and key not in ("gres", "srun_args")
        }
        minutes = parameters.get("time")
        kept |= {"cpus_per_task": 1, "time": min(minutes, MINUTES) if isinstance(minutes, int) else MINUTES}
        return {**kept, "job_name": f"{parameters.get('job_name')}-halving"} | ({"mem": "1GB"} if "mem" in kept else {})


def note(sweep: Sweep, job: str) -> None:
    """Keeps the id of the promotion that the sweep has in the queue."""
    write_json(sweep.folder / "promotion.json", {"job": job})


def noted(sweep: Sweep) -> str | None:
    """The id of the sweep's last promotion; None where there was none."""
    job = (read_mapping(sweep.folder / "promotion.json") or {}).get("job")
    return str(job) if job else None
