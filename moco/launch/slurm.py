"""The launcher for SLURM: job arrays, through submitit."""

import contextlib
import dataclasses
import io
import math
import re
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moco.errors import UserError
from moco.launch import promotion
from moco.launch import slurm_client as slurm
from moco.launch.job import Job, Task, environment, python_path
from moco.launch.options import SlurmOptions
from moco.launch.parts import Part, cut
from moco.launch.telling import Warnings
from moco.launch.together import Jobs, log_of
from moco.runs.lease import Place, release
from moco.runs.state import State
from moco.runs.sweep import Sweep

if TYPE_CHECKING:
    from submitit import Job as Submitted
    from submitit import SlurmExecutor

POLL = 1.0, 10.0  # seconds between looks at the queue, at first and in the long run: the controller serves many
NAMES = {"timeout_min": "time", "tasks_per_node": "ntasks_per_node", "name": "job_name"}  # of options, for sbatch
FULL = re.compile(r"Submit\w*Jobs?\w*Limit")  # the user has as many jobs in the queue as may be
# Options that sbatch lacks.
OWN = {
    *("sweep", "dry_run", "fail_fast", "snapshot", "wait", "mem_gb", "array_parallelism", "points_per_job"),
    *("halving", "rungs", "resume_paused"),
}


class SlurmLauncher:
    """Submits job arrays and leaves, or follows them where wait=true: all that a sweep needs is on disk and in SLURM."""

    def __init__(self, options: SlurmOptions, sweep: Sweep):
        self.options, self.sweep = options, sweep
        self.left = list[Part]()  # what could not be submitted yet
        self.halved = list[Task]()  # what competes for going on, once all has ended
        self.before = list[str]()  # jobs that are to end before that is decided
        self.owed = False  # whether the job that decides is still to be submitted
        self.path: str | None = None  # where jobs find the code, the same for all waves
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise UserError(
                    f"{program} is not on PATH: start from a login node of the cluster, or use hydra/launcher=local"
                )

    def begin(
        self, start: Sequence[Task], waiting: Sequence[Task], paused: Sequence[Task], halved: Sequence[Task] = ()
    ) -> None:
        """Submits the tasks, and jobs after others for what those do not do.

        Args:
            halved: what competes for going on once all jobs have ended, if more than these.
        """
        # Held by jobs that are gone, as the plan has found, or by somebody who has come since.
        held = [task.run for task in start if task.run.attempt() == State.RUNNING]
        queue = slurm.queued(held)
        for run in held:
            if slurm.corrected(run, State.RUNNING, queue) == State.KILLED:
                release(run.folder / "lease.json")
        self.start, self.waiting, self.paused = start, waiting, paused
        self.halved = [task for task in halved or [*start, *waiting, *paused] if task.halving]
        queue = slurm.queued(task.run for task in waiting)
        after = {task.run.folder: slurm.queued_jobs(task.run, queue) for task in waiting}
        more = [task for task in waiting if after[task.run.folder] and not slurm.covers(task.run, task.missing)]
        self.before = [job for jobs in after.values() for job in jobs]
        self.owed = bool(self.halved and (start or more or self.before))
        if start or more or self.owed:
            self._submit([*self._arrays(start), *(Part([task], 1, jobs=after[task.run.folder]) for task in more)])
        for task in waiting:
            task.run.count_on(self.sweep.name)
        if more:
            jobs = "1 job waits" if len(more) == 1 else f"{len(more)} jobs wait"
            print(f"{jobs} for another job of the same run, which does something else")

    def finish(self) -> dict[Path, State]:
        """Follows the tasks, and those that run elsewhere, to their ends where wait=true."""
        start, waiting, runs_dir = self.start, self.waiting, shlex.quote(str(self.sweep.runs_dir))
        if not start and not waiting:
            return {}
        hint = f"python -m moco status {self.sweep.name} --watch --runs-dir {runs_dir}"
        if self.options.wait:
            try:
                return self._follow([*start, *waiting, *self.paused])
            except KeyboardInterrupt:
                print(f"the jobs go on; follow them with: {hint}", file=sys.stderr)
                if self._unsent:
                    print("not all of them were submitted yet: the same command does that", file=sys.stderr)
        else:
            print(f"follow it with: {hint}")
        ends = dict.fromkeys((task.run.folder for task in self.paused), State.PAUSED)
        ends |= dict.fromkeys((task.run.folder for task in start), State.QUEUED)
        ends |= dict.fromkeys((task.run.folder for task in waiting), State.RUNNING)
        return ends | {task.run.folder: State.PENDING for part in self.left for task in part.tasks}

    @property
    def _unsent(self) -> int:
        """How many jobs are still to be submitted, the promotion among them."""
        return sum(len(part.groups) for part in self.left) + self.owed

    def _follow(self, tasks: list[Task]) -> dict[Path, State]:
        """Waits for the ends of the tasks and tells each."""
        failures, ends, limit, before = 0, dict[Path, State](), self.options.fail_fast, math.inf
        (pause, longest), warnings = POLL, Warnings()
        while tasks:
            time.sleep(pause)
            pause = min(1.1 * pause, longest)
            noted = promotion.noted(self.sweep)
            queue = slurm.queued(task.run for task in tasks)
            if queue.away:  # the controller restarts now and then; the jobs go on
                continue
            # There may be room where a job has ended, where some were just taken, and where none of ours is left to end.
            if (unsent := self._unsent) and (not queue or len(queue) < before):
                self._submit(self.left)
                if self._unsent != unsent:  # this look at the queue knows nothing of what was just sent
                    before = math.inf
                    continue
            before = len(queue)
            later = [task.run.folder for part in self.left for task in part.tasks]
            # Which of the paused ones go on. One promotion notes the next before it ends.
            decided = not self.owed and noted == promotion.noted(self.sweep) and not any(job in queue for job in noted)
            for task, state in _ended([task for task in tasks if task.run.folder not in later], queue):
                if state == State.PAUSED and not decided:
                    continue
                tasks.remove(task)
                ends[task.run.folder] = state
                failures += state not in (State.DONE, State.PAUSED, State.STOPPED)
                print(f"{state}  {task.label}", flush=True)
                warnings.tell(task.run)
            if limit and failures >= limit and tasks:
                print(f"fail_fast={limit}: the rest is cancelled", file=sys.stderr)
                promotions = [job for job in promotion.noted(self.sweep) if job in queue]
                jobs = [job for task in tasks for job in slurm.queued_jobs(task.run, queue)]
                slurm.cancel_jobs([*promotions, *jobs])  # a promotion would submit others once these have ended
                self.owed = False
                ends |= {folder: State.PENDING for folder in later}
                tasks, self.left = [task for task in tasks if task.run.folder not in later], []
                limit = 0
        return ends

    def _arrays(self, tasks: Sequence[Task]) -> list[Part]:
        """Arrays of at most MaxArraySize, of which no more run at a time than may, all together."""
        if not tasks:
            return []
        options = self.options
        return cut(tasks, options.points_per_job, slurm.max_array_size(), options.array_parallelism)

    def _submit(self, parts: Sequence[Part]) -> None:
        """Submits the parts; where SLURM refuses one, those before it are cancelled.

        Where it takes no more jobs of this user's for now, and this launcher stays, the rest is left for later.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        done = list[Part]()
        if self.path is None:
            self.path = python_path(self.sweep.folder, self.options.snapshot)
        try:
            # submitit prints what sbatch says, which the message below says once.
            with environment(PYTHONPATH=self.path), contextlib.redirect_stderr(io.StringIO()):
                slurm.forget_job()
                self.left = self._send_all(parts, done)
        except BaseException as error:  # Ctrl-C too: no half of a sweep stays in the queue
            undone = self._take_back(done)
            if not isinstance(error, FailedJobError | FailedSubmissionError):
                if undone:
                    print(undone.removeprefix("; "), file=sys.stderr)
                raise
            hint = " (hydra.launcher.wait=true sends them in waves)" if FULL.search(str(error)) else ""
            raise UserError(f"sbatch refused: {slurm.refusal(str(error))}{hint}{undone}") from error

    def _send_all(self, parts: Sequence[Part], done: list[Part]) -> list[Part]:
        """Sends the parts, and then the promotion where one is owed; what SLURM takes only later is returned."""
        left = deque(parts)
        while left:
            part = left.popleft()
            if self._taken(partial(self._send, self._executor(), part)):
                done.append(part)
                self.before += dict.fromkeys(job.partition("_")[0] for job in part.sent)
            elif len(part.groups) > 1:
                left.extendleft(reversed(part.halves()))
            else:
                return [part, *left]
        self.owed = self.owed and not self._taken(self._send_promotion)
        return []

    def _taken(self, send: Callable[[], None]) -> bool:
        """Whether SLURM takes it; False where it takes no more for now, and this launcher stays."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            send()
        except (FailedJobError, FailedSubmissionError) as error:
            if not FULL.search(str(error)) or not self.options.wait:
                raise
            return False
        return True

    def _executor(self) -> "SlurmExecutor":
        """submitit's, fresh for each call of sbatch, as it keeps the parameters of earlier ones."""
        import submitit

        return submitit.SlurmExecutor(self.sweep.folder / "jobs", max_num_timeout=1000)

    def _send(self, executor: "SlurmExecutor", part: Part) -> None:
        """One call of sbatch; the runs keep their jobs."""
        executor.update_parameters(**self._parameters(part))
        with executor.batch():
            jobs = [executor.submit(self._work(group)) for group in part.groups]
        part.sent += [job.job_id for job in jobs]
        for group, job in zip(part.groups, jobs):
            self._note(group, job, part.jobs)

    def _work(self, group: Sequence[Task]) -> Job | Jobs:
        """What one job does."""
        ranks = self.options.ranks
        jobs = [task.job(Place(self.sweep.name, task.varies), ranks=ranks) for task in group]
        return jobs[0] if len(jobs) == 1 else Jobs(jobs, self.sweep.folder / "jobs")

    def _note(self, group: Sequence[Task], job: "Submitted[None]", earlier: Sequence[str]) -> None:
        """Keeps in the runs of one job which it is and where its log is."""
        shared, ranks = job.paths.stdout if len(group) > 1 else "", self.options.ranks
        for i, task in enumerate(group):
            log = log_of(self.sweep.folder / "jobs", job.job_id, i) if shared else job.paths.stdout
            work = [protocol.prefix for protocol in task.protocols]
            beside = [other.run.folder.name for other in group if other is not task]
            task.run.note_job(
                job.job_id, log, "slurm", self.sweep.name, task.varies, work, earlier, beside, shared, ranks
            )

    def _send_promotion(self) -> None:
        """Submits the job that takes up paused points when all others have ended."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        point = self._parameters(Part([], 1, jobs=self.before))
        point.pop("array_parallelism")
        try:
            self._submit_promotion(promotion.small(point))
        except (FailedJobError, FailedSubmissionError) as error:
            if FULL.search(str(error)):
                raise
            self._submit_promotion(point)  # a partition of GPUs may refuse a job without

    def _submit_promotion(self, parameters: dict[str, object]) -> None:
        executor = self._executor()
        executor.update_parameters(**parameters)
        job = executor.submit(promotion.Promotion(self.sweep, self.options, self.halved))
        promotion.note(self.sweep, job.job_id)

    def _take_back(self, parts: Sequence[Part]) -> str:
        """Cancels what was submitted; says so."""
        jobs = [job for part in parts for job in part.sent]
        if not jobs:
            return ""
        try:
            slurm.cancel_jobs(jobs)
        except UserError as error:
            for part in parts:
                for task in part.tasks:
                    task.keep()
            arrays = " ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
            return f"; the {len(jobs)} jobs before it are in the queue still ({error}): scancel {arrays}"
        return f"; the {len(jobs)} jobs before it were cancelled"

    def _parameters(self, part: Part) -> dict[str, object]:
        """sbatch's parameters under submitit's names."""
        options = self.options
        given = dataclasses.asdict(options)
        names = [field.name for field in dataclasses.fields(SlurmOptions)]
        values: dict[str, object] = {
            NAMES.get(name, name): given[name] for name in names if name not in OWN and given[name] is not None
        }
        if options.mem_gb:
            values["mem"] = f"{int(options.mem_gb * 1024)}MB"
        # Since SLURM 22.05 srun does not take it over from sbatch.
        srun = [f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []
        if options.ranks > 1:  # one that fails ends the others, and one that is done does not
            srun += ["--kill-on-bad-exit=1", "--wait=0"]
        values["srun_args"] = [*srun, *(options.srun_args or [])]
        values["array_parallelism"] = part.parallel
        values["dependency"] = part.dependency
        values["time"] = options.timeout_min  # None: the partition's own limit, where submitit would set five minutes
        more = {"requeue": True, **options.additional_parameters}
        if not more["requeue"]:
            more = {key: value for key, value in more.items() if key != "requeue"} | {"no-requeue": True}
        values["additional_parameters"] = more
        return {**values, "stderr_to_stdout": True}


def _ended(tasks: Sequence[Task], queue: slurm.Queue) -> list[tuple[Task, State]]:
    """Those of the tasks that have ended, and how."""
    ended = list[tuple[Task, State]]()
    for task in tasks:
        state = slurm.corrected(task.run, task.state(), queue)
        if state not in (State.RUNNING, State.QUEUED) and not slurm.queued_job(task.run, queue):
            state = slurm.explain(task.run, state, queue)
            ended.append((task, State.KILLED if state == State.PENDING else state))  # its job is gone without a word
    return ended
