"""The launcher for SLURM: job arrays, through submitit."""

import contextlib
import dataclasses
import io
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from moco.errors import UserError
from moco.launch import slurm_client as slurm
from moco.launch.job import Task, environment, python_path
from moco.launch.options import SlurmOptions
from moco.runs.lease import Place, release
from moco.runs.state import State
from moco.runs.sweep import Sweep

POLL = 1.0, 10.0  # seconds between looks at the queue, at first and in the long run: the controller serves many
NAMES = {"timeout_min": "time", "tasks_per_node": "ntasks_per_node", "name": "job_name"}  # of options, for sbatch
OWN = {"sweep", "dry_run", "fail_fast", "snapshot", "wait", "mem_gb", "array_parallelism"}  # options that sbatch lacks


class SlurmLauncher:
    """Submits job arrays and leaves, or follows them where wait=true: all that a sweep needs is on disk and in SLURM."""

    def __init__(self, options: SlurmOptions, sweep: Sweep):
        self.options, self.sweep = options, sweep
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise UserError(
                    f"{program} is not on PATH: start from a login node of the cluster, or use hydra/launcher=local"
                )

    def begin(self, start: Sequence[Task], waiting: Sequence[Task]) -> None:
        """Submits the tasks."""
        for task in start:
            if task.run.attempt() == State.RUNNING:  # the plan found that its job is gone
                release(task.run.folder / "lease.json")
        self.start, self.waiting = start, waiting
        if start:
            self._submit(start)

    def finish(self) -> dict[Path, State]:
        """Follows the tasks, and those that run elsewhere, to their ends where wait=true."""
        start, waiting, runs_dir = self.start, self.waiting, shlex.quote(str(self.sweep.runs_dir))
        if not start and not waiting:
            return {}
        hint = f"python -m moco status {self.sweep.name} --watch --runs-dir {runs_dir}"
        if self.options.wait:
            try:
                return self._follow([*start, *waiting])
            except KeyboardInterrupt:
                print(f"the jobs go on; follow them with: {hint}", file=sys.stderr)
        else:
            print(f"follow it with: {hint}")
        return {task.run.folder: State.QUEUED for task in start} | {t.run.folder: State.RUNNING for t in waiting}

    def _follow(self, tasks: list[Task]) -> dict[Path, State]:
        """Waits for the ends of the tasks and tells each."""
        failures, ends, limit = 0, dict[Path, State](), self.options.fail_fast
        pause, longest = POLL
        while tasks:
            time.sleep(pause)
            pause = min(1.1 * pause, longest)
            try:
                queue = slurm.slurm_jobs()
            except UserError as error:  # the controller restarts now and then; the jobs go on
                print(error, file=sys.stderr)
                continue
            for task, state in _ended(tasks, queue):
                tasks.remove(task)
                ends[task.run.folder] = state
                failures += state not in (State.DONE, State.STOPPED)
                print(f"{state}  {task.label}", flush=True)
            if limit and failures >= limit and tasks:
                print(f"fail_fast={limit}: the rest is cancelled", file=sys.stderr)
                slurm.cancel_jobs([job for task in tasks if (job := slurm.queued_job(task.run, queue))])
                limit = 0
        return ends

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Submits arrays of at most MaxArraySize; where SLURM refuses one, those before it are cancelled."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = submitit.SlurmExecutor(self.sweep.folder / "jobs", max_num_timeout=1000)
        size = slurm.max_array_size()
        executor.update_parameters(**self._parameters(arrays=-(-len(tasks) // size)))
        submitted: list[str] = []
        path = python_path(self.sweep.folder, self.options.snapshot)
        try:
            # submitit prints what sbatch says, which the message below says once.
            with environment(PYTHONPATH=path), contextlib.redirect_stderr(io.StringIO()):
                slurm.forget_job()
                for i in range(0, len(tasks), size):
                    part = tasks[i : i + size]
                    with executor.batch():
                        jobs = [executor.submit(task.job(Place(self.sweep.name, task.varies))) for task in part]
                    for task, job in zip(part, jobs):
                        submitted.append(job.job_id)
                        task.run.note_job(job.job_id, job.paths.stdout, "slurm", self.sweep.name, task.varies)
        except BaseException as error:  # Ctrl-C too: no half of a sweep stays in the queue
            slurm.cancel_jobs(submitted)
            if not isinstance(error, FailedJobError | FailedSubmissionError):
                raise
            undone = f"; the {len(submitted)} jobs before it were cancelled" if submitted else ""
            raise UserError(f"sbatch refused: {slurm.refusal(str(error))}{undone}") from error

    def _parameters(self, arrays: int) -> dict[str, object]:
        """sbatch's parameters under submitit's names, for one of so many arrays."""
        options = self.options
        given = dataclasses.asdict(options)
        names = [field.name for field in dataclasses.fields(SlurmOptions)]
        values: dict[str, object] = {
            NAMES.get(name, name): given[name] for name in names if name not in OWN and given[name] is not None
        }
        if options.mem_gb:
            values["mem"] = f"{int(options.mem_gb * 1024)}MB"
        if options.cpus_per_task:  # since SLURM 22.05 srun does not take it over from sbatch
            values["srun_args"] = [f"--cpus-per-task={options.cpus_per_task}", *(options.srun_args or [])]
        values["array_parallelism"] = max(1, options.array_parallelism // arrays)
        values["additional_parameters"] = {"requeue": True, **options.additional_parameters}
        return {**values, "stderr_to_stdout": True}


def _ended(tasks: Sequence[Task], queue: Mapping[str, slurm.QueueEntry]) -> list[tuple[Task, State]]:
    """Those of the tasks that have ended, and how."""
    ended = []
    for task in tasks:
        state = slurm.corrected(task.run, task.state(), queue)
        if state not in (State.RUNNING, State.QUEUED) and not slurm.queued_job(task.run, queue):
            ended.append((task, slurm.explain(task.run, state)))
    return ended
