"""python -m moco cancel: stops launchers and running jobs, checkpoints saved, and takes queued jobs out of the queue."""

import contextlib
import os
import signal
from collections.abc import Collection, Sequence

from moco.launch import slurm_client as slurm
from moco.runs.lease import Damaged, machine
from moco.runs.run import Run
from moco.runs.state import State


def cancel(runs: Sequence[Run], launchers: Sequence[int]) -> list[str]:
    """Stops these launchers, by process id, and what works on these runs or waits to; returns what was done, in lines."""
    said = [f"launcher {pid} told to stop its jobs" for pid in launchers if _terminate(pid)]
    queue = slurm.queued(runs)
    jobs = []
    for run in runs:
        with contextlib.suppress(Damaged):  # it is named below
            jobs += slurm.queued_jobs(run, queue)
    slurm.cancel_jobs(jobs)
    said += [f"SLURM job {job} cancelled" for job in jobs]
    return said + [line for run in runs if (line := _stop(run, jobs))]


def _stop(run: Run, cancelled: Collection[str]) -> str:
    """Tells the process that holds the run to stop; returns what was done, "" where there was nothing to do."""
    try:
        holder, _ = run.holder(), run.job()
    except Damaged as error:
        return f"{run.folder.name} is left as it is: {error}"
    if holder is None or run.attempt() != State.RUNNING or holder.place.job in cancelled:
        return ""
    if holder.machine != machine():
        return f"{run.folder.name} runs as process {holder.pid} on {holder.host}: cancel it from there"
    return f"{run.folder.name}: process {holder.pid} told to save and stop" if _terminate(holder.pid) else ""


def _terminate(pid: int) -> bool:
    """Whether there was a process to send SIGTERM to: it may have ended since it was looked at."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True
