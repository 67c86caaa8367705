"""SLURM's client programs: what is queued, how a job ended, cancel, requeue. Each call has a time limit. Imports no torch."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from moco.errors import UserError
from moco.runs.lease import HEARTBEAT, Damaged
from moco.runs.run import Run
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


def requeue(run: Run) -> None:
    """Puts this SLURM job back into the queue: its time is up and its checkpoint saved. Elsewhere nothing.

    Where SLURM's controller is away it tries again, until SLURM ends the job.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the warning has been heard
    print(f"{run.folder}: checkpoint saved, back into the queue", flush=True)
    while True:
        try:
            _client("scontrol", "requeue", str(job_id()))
            return
        except UserError as error:
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


def slurm_end(job: str) -> str | None:
    """SLURM's word for a job's state (OUT_OF_MEMORY, TIMEOUT, ...): from accounting, else from the controller's memory."""
    if shutil.which("sacct"):
        with contextlib.suppress(UserError):
            states = _client("sacct", "-j", job, "-X", "-n", "-P", "-o", "State").split()
            if states:
                return states[0]
    with contextlib.suppress(UserError):
        for word in _client("scontrol", "show", "job", job).split():
            if word.startswith("JobState="):
                return word.partition("=")[2]
    return None


def queued(runs: Iterable[Run]) -> dict[str, QueueEntry]:
    """slurm_jobs, asked only where one of the runs was submitted to SLURM and SLURM is here to ask."""
    return slurm_jobs() if shutil.which("squeue") and any(map(_submitted, runs)) else {}


def _submitted(run: Run) -> bool:
    """Whether the run was given to SLURM, or is held by a job of SLURM's; one damaged run must not hide the others."""
    with contextlib.suppress(Damaged):
        job, holder = run.job(), run.holder()
        return bool((job and job.queue == "slurm") or (holder and holder.place.queue == "slurm"))
    return False


def queued_job(run: Run, queue: Collection[str]) -> str | None:
    """The run's job where it is in SLURM's queue; the id of a local job is a process's and means nothing there."""
    job = run.job() if queue else None  # an empty queue is worth no look at the disk
    return job.job if job and job.queue == "slurm" and job.job in queue else None


def corrected(run: Run, state: State, queue: Mapping[str, QueueEntry]) -> State:
    """A state read off the disk, corrected by SLURM's queue, which knows of a dead job before its heartbeat is stale.

    Queued: it waits there, for the first time or again. Killed: its job has ended; or nothing is known of the job any more
    (or here: it may be another cluster's) and the heartbeat is late.
    """
    if state == State.RUNNING:
        holder = run.holder()
        if holder and holder.place.queue == "slurm" and shutil.which("squeue"):
            return _corrected_running(run, str(holder.place.job), queue)
    elif state != State.DONE and (known := queued_job(run, queue)):
        return _in_queue(queue[known])
    return state


def _corrected_running(run: Run, job: str, queue: Mapping[str, QueueEntry]) -> State:
    """The state of a run that a job of SLURM's holds."""
    if job in queue:
        return _in_queue(queue[job])
    end = slurm_end(job)
    dead = end in ENDS or (end is None and run.silence() > SILENT)
    return State.KILLED if dead else State.RUNNING


def _in_queue(entry: QueueEntry) -> State:
    return State.QUEUED if entry.state in WAITS else State.RUNNING


def explain(run: Run, state: State) -> State:
    """More exactly than `killed`: out of memory, timed out, preempted, node fail or cancelled.

    Under srun SLURM's own state of a job that ran out of memory is FAILED; its log tells.
    """
    job = run.job()
    if state not in (State.KILLED, State.PENDING) or job is None or job.queue != "slurm":
        return state
    if any(NO_MEMORY.search(line) for line in run.log_tail(20)):
        return State.OUT_OF_MEMORY
    if shutil.which("squeue") is None:
        return state
    end = slurm_end(job.job) or ""
    return state if end == "COMPLETED" else ENDS.get(end, state)


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
        _client("scancel", *jobs)


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
