"""The launcher for this machine: one process per job, never more than there are slots, through submitit."""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from moco.errors import UserError
from moco.launch import budget
from moco.launch import slurm_client as slurm
from moco.launch.gpus import chosen_gpus, slots
from moco.launch.job import Process, Task, environment, python_path
from moco.launch.live import Screen, Sight
from moco.launch.options import LocalOptions
from moco.launch.pace import Job, stands
from moco.launch.telling import Warnings
from moco.progress import duration
from moco.runs.lease import Place, goes_on
from moco.runs.state import State
from moco.runs.sweep import Sweep

if TYPE_CHECKING:
    from submitit import LocalJob

POLL = 0.03  # seconds between looks at the jobs
RANK_EVERY = 5.0  # seconds between looks at the ranks of paused points while others run
POLL_ELSEWHERE = 1.0  # seconds between looks at runs that others work on
CPU_JOBS = 8  # at most so many share the cores: each holds torch and its data in memory
YEAR = 60 * 24 * 365  # minutes; submitit wants a limit
AT_ONCE = 2.0  # a second Ctrl-C within so many seconds is not taken for another wish
TAIL = 5  # lines of a log that are shown
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Slot(NamedTuple):
    """A place for one job: its GPUs as CUDA_VISIBLE_DEVICES names them (None: no GPU), and a name for people."""

    gpu: str | None
    name: str


@dataclass(eq=False)
class Running:
    """A job that runs in a slot."""

    task: Task
    slot: Slot
    job: "LocalJob[None]"
    started: float
    before: str | None  # the token of who held the run last, when the job was started
    first: int  # the epoch that the run stood at
    told: float = float("-inf")  # when it was last asked to stop

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, at most every second: a job that is still being loaded does not listen yet."""
        process = self.job._process
        if process and time.monotonic() - self.told >= 1:
            self.told = time.monotonic()
            for pid in _children(process.pid) if isinstance(process.args, str) else [process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    @property
    def began(self) -> bool:
        """Whether the job has held its run."""
        return _token(self.task) != self.before

    @property
    def seen(self) -> Job:
        """What is shown of it."""
        return Job(self.task, self.first, self.started, self.began)

    @property
    def did_its_part(self) -> bool:
        """Whether the job ended without an error: where it has not held its run, another process did."""
        from submitit.core.utils import pickle_load

        with contextlib.suppress(OSError):
            return bool(pickle_load(self.job.paths.result_pickle)[0] == "success")
        return False


class LocalLauncher:
    """Never more jobs than slots; each job sees its slot's device and its share of the threads.

    A closed terminal does not end the sweep. Ctrl-C and SIGTERM stop the jobs, which save their checkpoints first; a job
    whose launcher is gone notices, saves and stops.
    """

    def __init__(self, options: LocalOptions, sweep: Sweep):
        self.options, self.sweep = options, sweep
        gpus, cores = chosen_gpus(options.devices), len(os.sched_getaffinity(0))
        jobs = options.jobs_per_device or (1 if gpus else min(cores, CPU_JOBS))
        devices: list[str | None] = [*slots(gpus, options.ranks)] if gpus or options.ranks > 1 else [None]
        self.slots = [Slot(gpu, f"{gpu or 'cpu'}.{i}") for i in range(jobs) for gpu in devices]
        self.threads = options.cpus_per_task or max(1, cores // (len(self.slots) * options.ranks))
        # Threads that spin starve other jobs on the same cores; a job that is alone is slower where they sleep.
        passive = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        self.waiting_threads = passive if len(self.slots) > 1 else {}
        self.stopped: str | None = None  # why no more jobs are started
        self.told: float | None = None  # when a signal first asked to stop
        self.said = False
        self.left = False  # a later signal: the jobs are not waited for
        self.running: list[Running] = []
        self.ends: dict[Path, State] = {}
        self.failures, self.look, self.ranked = 0, 0.0, 0.0
        self.warnings, self.screen = Warnings(), Screen()

    def begin(self, start: Sequence[Task], waiting: Sequence[Task], paused: Sequence[Task]) -> None:
        """Takes the tasks; nothing runs yet."""
        self.tasks, self.pending, self.waiting, self.free = start, deque(start), list(waiting), deque(self.slots)
        self.paused, self.ranks_changed = list(paused), False
        self.total = len(start) + len(waiting) + len(paused)
        self.path = python_path(self.sweep.folder, self.options.snapshot) if start or waiting else ""

    def finish(self) -> dict[Path, State]:
        """Runs the tasks to their ends and waits for those that run elsewhere."""
        with self._signals(), self.screen:
            while (self._has_more() and not self.stopped) or self.running:
                while self.pending and self.free and not self.stopped:
                    self._start(self.pending.popleft(), self.free.popleft())
                self._collect()
                self._await()
                if self.stopped:
                    self._stop()
                if self.left:
                    break
                self.screen.show(self._sight)
                time.sleep(POLL)
            for task in self.tasks:
                task.withdraw()
        for task in self.paused:
            if (state := task.state()) in (State.DONE, State.FAILED):  # by another launcher
                self.ends[task.run.folder] = state
        rest = [*self.pending, *self.waiting, *(running.task for running in self.running)]
        left = {task.run.folder: State.PAUSED if task.state() == State.PAUSED else State.PENDING for task in rest}
        return self._ends() | left

    def _sight(self) -> Sight:
        """How the sweep stands."""
        running = [running.seen for running in self.running]
        return Sight(
            running, [*self.pending], self.waiting, self.paused, self._ends(), len(self.slots), bool(self.stopped)
        )

    def _ends(self) -> dict[Path, State]:
        """How runs ended, with those that stay paused."""
        return {task.run.folder: State.PAUSED for task in self.paused} | self.ends

    def _has_more(self) -> bool:
        """Whether tasks are left, once those of the paused ones are taken up that rank among the best by now.

        Fresh ones go first: what is decided later is decided by more scores. But no slot stays free for that while others run.
        """
        if self.paused and self.free and not self.pending and not self.stopped and self._ranks_may_differ():
            over = not self.running and not self.waiting
            gone = [folder for folder, end in self.ends.items() if over and end not in (State.DONE, State.PAUSED)]
            everyone = [*self.tasks, *self.paused]
            for task in budget.promoted(self.paused, self.sweep, everyone, gone):
                self.ends.pop(task.run.folder, None)
                self._leave(task, task.state())
        return bool(self.pending or self.waiting)

    def _leave(self, task: Task, state: State) -> None:
        """Takes a task out of the paused ones, where another launcher may have been quicker."""
        self.paused = [other for other in self.paused if other.run is not task.run]
        if state == State.RUNNING:
            self.waiting.append(task)
        elif state in (State.DONE, State.FAILED):
            self._note_end(task, state)
            self._tell(task, state)
        else:
            self.pending.append(task)

    def _ranks_may_differ(self) -> bool:
        """Whether a job has ended since the last look, or has had the time to pass its rung and go on."""
        now = time.monotonic()
        others = self.running or self.waiting
        if self.ranks_changed or (others and now - self.ranked >= RANK_EVERY):
            self.ranks_changed, self.ranked = False, now
            return True
        return False

    def _stop(self) -> None:
        """Asks the jobs to save and stop; says so once, where a signal was the reason."""
        if self.told and not self.said:
            self.said = True
            one = len(self.running) == 1
            what = (
                "1 job saves its checkpoint and stops"
                if one
                else f"{len(self.running)} jobs save their checkpoints and stop"
            )
            again = goes_on(any(running.task.launch for running in self.running))
            _say(f"{self.stopped}: {what}; {again}. Ctrl-C again: do not wait for that")
        for running in self.running:
            running.ask_to_stop()

    def _start(self, task: Task, slot: Slot) -> None:
        """Starts a job in the slot."""
        import submitit

        executor = submitit.LocalExecutor(self.sweep.folder / "jobs")
        executor.update_parameters(
            timeout_min=self.options.timeout_min or YEAR,
            signal_delay_s=self.options.signal_delay_s,
            stderr_to_stdout=True,
            setup=_logged(self.sweep.folder / "jobs", self.options.setup or []),
        )
        before, first = _token(task), stands(task)
        work = task.job(
            Place(self.sweep.name, task.varies, slot=slot.name), Process.this(), slot.gpu, self.options.ranks
        )
        # Ctrl-C reaches the whole terminal: the job's controller must not take it for an order to kill.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with environment(PYTHONPATH=self.path, OMP_NUM_THREADS=str(self.threads), **self.waiting_threads):
                job = executor.submit(work)
            assert isinstance(job, submitit.LocalJob)
        finally:
            signal.signal(signal.SIGINT, handler)
        log, ranks = job.paths.stdout, self.options.ranks
        task.run.note_job(job.job_id, log, "local", self.sweep.name, task.varies, ranks=ranks)
        self.running.append(Running(task, slot, job, time.time(), before, first))

    def _collect(self) -> None:
        """Frees the slots of jobs that have ended and tells how they did."""
        for ended in [running for running in self.running if running.job.done()]:
            self.running.remove(ended)
            self.free.append(ended.slot)
            state = self._end(ended)
            if state == State.RUNNING:
                self.waiting.append(ended.task)
                continue
            self._note_end(ended.task, state)
            if state in (State.DONE, State.PAUSED):
                self.screen.ended(ended.seen, time.time() - ended.started)
            self.failures += state not in (State.DONE, State.PAUSED, State.STOPPED, State.PENDING)
            self._tell(ended.task, state, time.time() - ended.started)
        limit = self.options.fail_fast
        if limit and self.failures >= limit and not self.stopped:
            print(f"fail_fast={limit}: the rest is left alone", file=sys.stderr)
            self.stopped = "fail_fast"

    def _note_end(self, task: Task, state: State) -> None:
        """Keeps how a run ended; a paused one may go on."""
        self.ends[task.run.folder] = state
        self.ranks_changed = True
        if state == State.PAUSED:
            self.paused.append(task)

    def _end(self, ended: Running) -> State:
        """How a job ended; RUNNING where another process was first, which may have ended since."""
        task, state = ended.task, ended.task.state()
        if state in (State.DONE, State.RUNNING) or task.run.failure():
            return state
        if ended.began:
            return State.KILLED if state == State.PENDING and not self.stopped else state
        if self.stopped:
            return State.PENDING
        if ended.did_its_part:
            return State.RUNNING
        task.run.fail(UserError("\n".join(["its job ended before it began to work:", *task.run.log_tail(TAIL)])))
        return State.FAILED

    def _await(self) -> None:
        """Looks after the tasks that run elsewhere: one whose holder is gone without having finished becomes ours."""
        if not self.waiting or time.monotonic() < self.look:
            return
        self.look = time.monotonic() + POLL_ELSEWHERE
        queue = slurm.queued(task.run for task in self.waiting)
        for task in list(self.waiting):
            state = task.state()
            if state == State.RUNNING or slurm.queued_job(task.run, queue):
                continue
            self.waiting.remove(task)
            if state in (State.DONE, State.FAILED) or (state == State.PAUSED and task.halving):
                self._note_end(task, state)
                self._tell(task, state)
            else:
                self.pending.append(task)

    def _tell(self, task: Task, state: State, seconds: float | None = None) -> None:
        """Says how a run ended; seconds: how long its job took, None where another launcher worked on it."""
        value = task.value() if state in (State.DONE, State.PAUSED) else None
        score = f"  {value:.2f}" if value is not None else ""
        if value is not None:
            self.screen.scored(task, value)
        holder = task.run.holder() if state == State.PAUSED else None
        score += f"  {holder.why}" if holder else ""
        took = "elsewhere" if seconds is None else duration(seconds)
        _say(f"[{len(self.ends)}/{self.total}] {state}  {task.label}{score}  ({took})", sys.stdout)
        self.warnings.tell(task.run)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Notes an order to stop, and lets a closed terminal be.

        A second Ctrl-C leaves the jobs to themselves; one that follows at once is a finger that trembled.
        """

        def note(number: int, frame: object) -> None:
            now = time.monotonic()
            self.left = bool(self.told and now - self.told > AT_ONCE and number == signal.SIGINT)
            self.stopped, self.told = signal.Signals(number).name, self.told or now

        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _token(task: Task) -> str | None:
    """Who holds the task's run or held it last."""
    holder = task.run.holder()
    return holder.token if holder else None


def _logged(folder: Path, setup: Sequence[str]) -> list[str]:
    """The setup lines, with what they print in the job's log; submitit's name of that log holds the shell's process id."""
    return [f'exec >>{shlex.quote(str(folder))}/"$$"_0_log.out 2>&1', *setup] if setup else []


def _children(pid: int) -> list[int]:
    """The processes that a shell has started, which does not pass signals on; the shell itself where there are none."""
    with contextlib.suppress(OSError):
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in listed] or [pid]
    return [pid]


def _say(line: str, file: TextIO | None = None) -> None:
    """Prints it, where there still is a terminal."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=file or sys.stderr, flush=True)
