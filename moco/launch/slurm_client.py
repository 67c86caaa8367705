"""SLURM's client programs: what is queued, how a job ended, cancel, requeue. Every call has a timeout. Imports no torch."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from moco.errors import UserError
from moco.runs.lease import HEARTBEAT
from moco.runs.run import Run

SILENT = 2.5 * HEARTBEAT  # so long without a heartbeat, a holder whose job is unknown is dead
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
NO_MEMORY = re.compile("oom.kill|out of memory|exceeded memory limit", re.IGNORECASE)


def job_id() -> str | None:
    """The id of the queue's job that this process is, None outside of one."""
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
    """Puts this SLURM job back into the queue: its time is up and its checkpoint saved. Elsewhere nothing."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        print(f"{run.folder}: checkpoint saved, back into the queue", flush=True)
        _client("scontrol", "requeue", str(job_id()))


def max_array_size() -> int:
    """The longest array that this cluster takes."""
    out = _client("scontrol", "show", "config")
    lines = [line.partition("=")[2].strip() for line in out.splitlines() if line.startswith("MaxArraySize")]
    return int(lines[0]) if lines else 1001


def slurm_jobs() -> dict[str, dict[str, str]]:
    """This user's jobs in SLURM's queue by id (arrays as 12_3): state, reason and node.

    Raises:
        UserError: SLURM does not answer.
    """
    out = _client("squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r|%N")
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 3]
    return {row[0]: {"state": row[1], "reason": row[2], "node": row[3]} for row in rows}


def slurm_end(job: str) -> str | None:
    """How SLURM says that a job ended (OUT_OF_MEMORY, TIMEOUT, ...), from accounting or else from the controller's memory."""
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


def queued(runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """slurm_jobs, asked only where one of the runs was submitted to SLURM and SLURM is here to ask."""
    submitted = any("slurm" in (place.get("queue") for place in (run.job() or {}, run.holder() or {})) for run in runs)
    return slurm_jobs() if submitted and shutil.which("squeue") else {}


def queued_job(run: Run, queue: Mapping[str, object]) -> str | None:
    """The run's job where it is in SLURM's queue; the id of a local job is a process's and means nothing there."""
    job = (run.job() if queue else None) or {}  # an empty queue is worth no look at the disk
    return job["job"] if job.get("queue") == "slurm" and job["job"] in queue else None


def corrected(run: Run, state: str, queue: Mapping[str, Mapping[str, str]]) -> str:
    """A state read off the disk, put right by SLURM's queue: that knows of a dead job before its heartbeat is stale.

    queued: it waits there, for the first time or again. killed: its job has ended, or nothing is known of it any more (or
    here: it may be another cluster's) and its heartbeat is late.
    """
    if state == "done":
        return state
    holder = run.holder() or {}
    if state == "running" and holder.get("queue") == "slurm" and shutil.which("squeue"):
        entry = queue.get(holder["job"])
        if entry is None:
            end = slurm_end(holder["job"])
            return "killed" if end in ENDED or (end is None and run.silence() > SILENT) else state
        return "queued" if entry["state"] == "PENDING" else state
    if state != "running" and (known := queued_job(run, queue)):
        entry = queue[known]
        return "queued" if entry["state"] == "PENDING" else entry["state"].lower()
    return state


def explain(run: Run, state: str) -> str:
    """`killed` in more exact words: out of memory, timed out, preempted, node fail, cancelled.

    Under srun SLURM's own state of a job that ran out of memory is FAILED; its log tells.
    """
    if state not in ("killed", "pending"):
        return state
    job = run.job()
    if not job or job["queue"] != "slurm":
        return state
    if any(NO_MEMORY.search(line) for line in run.log_tail(20)):
        return "out of memory"
    if shutil.which("squeue") is None:
        return state
    end = (slurm_end(job["job"]) or "").lower().replace("_", " ")
    return {"timeout": "timed out", "": state, "failed": "killed", "completed": state}.get(end, end)


def refusal(text: str) -> str:
    """Why sbatch refused, in one line, with the partitions there are where it is about one."""
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
