"""SLURM's client programs: what is queued, how a job ended, cancel, requeue. Each call has a time limit. Imports no torch."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from moco.errors import UserError
from moco.runs.lease import HEARTBEAT, Damaged
from moco.runs.run import JobRecord, Run
from moco.runs.state import State

SILENT = 2.5 * HEARTBEAT  # a holder whose job is unknown is dead after so many seconds without a heartbeat
REQUEUE_AGAIN = 5.0  # seconds until a job that could not be queued again tries once more
NO_MEMORY = re.compile("oom.kill|out of memory|exceeded memory limit", re.IGNORECASE)
WAITS = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
)  # jobs that do not run yet
ENDS = {  # how SLURM says that a job ended, for a run that did not say so itself
    "BOOT_FAIL": State.NODE_FAIL,
    "CANCELLED": State.CANCELLED,
    "COMPLETED": State.KILLED,
    "DEADLINE": State.TIMED_OUT,
    "FAILED": State.KILLED,
    "NODE_FAIL": State.NODE_FAIL,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "PREEMPTED": State.PREEMPTED,
    "TIMEOUT": State.TIMED_OUT,
}


class QueueEntry(NamedTuple):
    """A job in SLURM's queue: SLURM's own word for its state, why it waits, and its node."""

    state: str
    reason: str = ""
    node: str = ""


def job_id() -> str | None:
    """The id of the job that this process is, in SLURM's queue or on this machine; None outside of one."""
    array, single = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and single:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else single
    return os.environ.get("SUBMITIT_LOCAL_JOB_ID")


def forget_job() -> None:
    """Takes the surrounding job's variables out of os.environ: a job submitted from inside one would obey them."""
    for name in [n for n in os.environ if n.startswith(("SLURM_", "SLURMD_", "SUBMITIT_"))]:
        if name != "SLURM_CONF":
            del os.environ[name]


def requeue(*runs: Run) -> None:
    """Puts this SLURM job back into the queue: its time is up and these runs' checkpoints are saved. Elsewhere nothing.

    Where SLURM's controller is away it tries again, until SLURM ends the job.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the warning has been heard
    for run in runs:
        print(f"{run.folder}: checkpoint saved, back into the queue", flush=True)
    while True:
        try:
            _client("scontrol", "requeue", str(job_id()))
            return
        except UserError as error:
            if "disabled" in str(error):  # Requested operation is presently disabled: requeue=false
                print("SLURM does not queue this job again: the same command goes on with it", flush=True)
                return
            print(f"{error}; tries again in {REQUEUE_AGAIN:.0f} s", flush=True)
            time.sleep(REQUEUE_AGAIN)


def max_array_size() -> int:
    """The longest array that this cluster takes."""
    out = _client("scontrol", "show", "config")
    lines = [line.partition("=")[2].strip() for line in out.splitlines() if line.startswith("MaxArraySize")]
    return int(lines[0]) if lines else 1001


def slurm_jobs() -> dict[str, QueueEntry]:
    """This user's jobs in SLURM's queue by id (arrays as 12_3).

    Raises:
        UserError: SLURM does not answer.
    """
    out = _client("squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r|%N")
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 3]
    return {job: QueueEntry(state, reason, node) for job, state, reason, node in rows}


def slurm_ends(jobs: Collection[str]) -> dict[str, str]:
    """SLURM's word for each job's state (OUT_OF_MEMORY, TIMEOUT, ...), asked once for all of them.

    From accounting, else from the controller's memory; what neither knows is left out.
    """
    arrays, found = list(dict.fromkeys(job.partition("_")[0] for job in jobs)), dict[str, str]()
    if shutil.which("sacct"):
        with contextlib.suppress(UserError):
            out = _client("sacct", "-j", ",".join(arrays), "-X", "-n", "-P", "-o", "JobID,State")
            for line in out.splitlines():
                listed, _, state = line.partition("|")
                found |= {job: state.split()[0] for job in members(listed) if state.strip()}
    for array in dict.fromkeys(job.partition("_")[0] for job in jobs if job not in found):
        with contextlib.suppress(UserError):
            for line in _client("scontrol", "show", "job", "--oneliner", array).splitlines():
                known = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
                tasks = known.get("ArrayTaskId")
                listed = f"{known.get('ArrayJobId')}_[{tasks}]" if tasks else known.get("JobId", "")
                found |= dict.fromkeys(members(listed), known.get("JobState", ""))
    return found


def members(listed: str) -> list[str]:
    """The jobs that SLURM lists in one word: 29_[0-2,5%4] of an array that was not split yet."""
    array, bracket, tasks = listed.partition("_[")
    if not bracket:
        return [listed]
    spans = [span.partition("-") for span in tasks.rstrip("]").partition("%")[0].split(",")]
    return [
        f"{array}_{i}" for first, _, last in spans if first.isdigit() for i in range(int(first), int(last or first) + 1)
    ]


class Queue(dict[str, QueueEntry]):
    """This user's jobs in SLURM's queue by id, and how others of some runs ended, which is asked once for all."""

    def __init__(self, entries: Mapping[str, QueueEntry], runs: Sequence[Run] = (), away: bool = False):
        super().__init__(entries)
        self.runs, self.away, self._ends = runs, away, dict[str, str]()

    def end(self, job: str) -> str | None:
        """SLURM's word for how a job ended; None where it is unknown, or SLURM does not answer."""
        if self.away:
            return None
        if job not in self._ends:
            asked = {job, *(known for run in self.runs for known in _jobs(run) if known not in self)}
            self._ends |= {**dict.fromkeys(asked, ""), **slurm_ends(asked)}
        return self._ends[job] or None


def queued(runs: Iterable[Run]) -> Queue:
    """The queue, asked only where one of the runs was submitted to SLURM and SLURM is here to ask.

    Where SLURM does not answer, one line says so, and what the disk knows counts.
    """
    submitted = [run for run in runs if _jobs(run)] if shutil.which("squeue") else []
    if not submitted:
        return Queue({})
    try:
        return Queue(slurm_jobs(), submitted)
    except UserError as error:
        _note(f"{error}; states are those on disk")
        return Queue({}, submitted, away=True)


@functools.cache
def _note(text: str) -> None:
    """Says it once, however often one looks."""
    print(text, file=sys.stderr)


def _jobs(run: Run) -> list[str]:
    """The jobs of SLURM's that were to work on the run or hold it; one damaged run must not hide the others."""
    with contextlib.suppress(Damaged):
        job, holder = run.job(), run.holder()
        found = [job.job, *job.earlier] if job and job.queue == "slurm" else []
        return found + ([str(holder.place.job)] if holder and holder.place.queue == "slurm" else [])
    return []


def queued_jobs(run: Run, queue: Collection[str]) -> list[str]:
    """The run's jobs that are in SLURM's queue; the id of a local job is a process's and means nothing there."""
    job = run.job() if queue else None  # an empty queue is worth no look at the disk
    if job is None or job.queue != "slurm":
        return []
    found = [known for known in (job.job, *job.earlier) if known in queue]
    return found[1:] if job.job in found and is_over(run) else found


def is_over(run: Run) -> bool:
    """Whether the job that the run shares with others has ended its work on it, be there more to do for the others."""
    job = run.job()
    if job is None or not job.beside:
        return False
    if run.failure():  # since the job was submitted, as its launcher forgot what was before
        return True
    holder = run.holder()
    if holder is None or (holder.place.queue, holder.place.job) != ("slurm", job.job):
        return False
    if holder.ended == State.DONE:
        return not _asks_more(run)
    return holder.ended in (State.FAILED, State.KILLED, State.OUT_OF_MEMORY, State.PAUSED)


def queued_job(run: Run, queue: Collection[str]) -> str | None:
    """The first of them."""
    return next(iter(queued_jobs(run, queue)), None)


def covers(run: Run, metrics: Iterable[str]) -> bool:
    """Whether the job that the run has in the queue will give all these metrics: knn, linear, linear_cached."""
    job = run.job()
    return job is not None and set(metrics) <= set(job.work)


def corrected(run: Run, state: State, queue: Queue) -> State:
    """A state read off the disk, corrected by SLURM's queue, which knows of a dead job before its heartbeat is stale.

    Queued: it waits there, for the first time or again. Killed: its job has ended; or nothing is known of the job any more
    (or here: it may be another cluster's) and the heartbeat is late.
    """
    if queue.away:
        return state
    if state == State.RUNNING:
        holder = run.holder()
        if holder and holder.place.queue == "slurm" and shutil.which("squeue"):
            return _corrected_running(run, str(holder.place.job), queue)
    elif known := queued_job(run, queue):
        return _in_queue(queue[known]) if state != State.DONE or _asks_more(run) else state
    return state


def _asks_more(run: Run) -> bool:
    """Whether a job is to give metrics that a finished run lacks, or to give them again."""
    job, result = run.job(), run.result or {}
    return job is not None and any(f"{metric}/top1" not in result or run.order(metric).exists() for metric in job.work)


def _corrected_running(run: Run, job: str, queue: Queue) -> State:
    """The state of a run that a job of SLURM's holds."""
    if job in queue:
        return _in_queue(queue[job])
    end = queue.end(job)
    dead = end in ENDS or (end is None and run.silence() > SILENT)
    return State.KILLED if dead else State.RUNNING


def _in_queue(entry: QueueEntry) -> State:
    return State.QUEUED if entry.state in WAITS else State.RUNNING


def explain(run: Run, state: State, queue: Queue) -> State:
    """More exactly than `killed`: out of memory, timed out, preempted, node fail or cancelled; failed before it began.

    Under srun SLURM's own state of a job that ran out of memory is FAILED; its log tells.
    """
    job = run.job()
    if job is None or job.queue != "slurm" or job.job in queue or state in (State.DONE, State.QUEUED, State.RUNNING):
        return state
    if run.begun_by_hand:  # of which the job's log and end tell nothing
        return state
    unheard = not _began(run, job)
    if state not in (State.KILLED, State.PENDING) and not unheard:
        return state
    logs = [run.log_tail(20), run.log_tail(20, shared=True), *run.rank_tails(20).values()]
    if any(NO_MEMORY.search(line) for lines in logs for line in lines):
        return State.OUT_OF_MEMORY
    end = queue.end(job.job) if shutil.which("squeue") else None
    if end is None or end == "COMPLETED":
        return state
    return State.FAILED if unheard and end == "FAILED" else ENDS.get(end, state)


def _began(run: Run, job: JobRecord) -> bool:
    """Whether the job has held the run, or somebody did after it was submitted."""
    holder = run.holder()
    return holder is not None and (holder.place.job == job.job or holder.started > job.submitted)


def refusal(text: str) -> str:
    """Why sbatch refused, in one line, with the names of the partitions where it is about one."""
    reason = (text.strip() or "it does not say why").splitlines()[-1].removeprefix("sbatch: error: ")
    if "partition" in reason.lower():
        with contextlib.suppress(UserError):
            reason += f"; there are {', '.join(_client('sinfo', '--noheader', '--format=%R').split())}"
    return reason


def cancel_jobs(jobs: Sequence[str]) -> None:
    """scancel, where there is anything to cancel."""
    if jobs:
        _client("scancel", *dict.fromkeys(jobs))


def _client(*command: str) -> str:
    """What one of SLURM's client programs prints.

    Raises:
        UserError: it fails or does not answer.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} does not answer: is SLURM's controller up?") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr + error.stdout).strip().splitlines() or [str(error)]
        raise UserError(f"{command[0]} failed: {said[-1]}") from error
