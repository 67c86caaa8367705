"""python -m moco cancel: stops launchers and running jobs, checkpoints saved, and takes queued jobs out of the queue."""

import contextlib
import os
import signal
from collections.abc import Collection, Sequence

from moco.errors import UserError
from moco.launch import promotion
from moco.launch import slurm_client as slurm
from moco.runs.lease import Damaged, machine
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep


def cancel(runs: Sequence[Run], launchers: Sequence[int], sweeps: Collection[str] = ()) -> list[str]:
    """Stops these launchers, by process id, and what works on these runs or waits to; returns what was done, in lines.

    Args:
        sweeps: those that are cancelled; a job of SLURM's that another sweep counts on, too, stays for that one.

    Raises:
        UserError: SLURM does not answer; what needs none of it is done.
    """
    said = [f"launcher {pid} told to stop its jobs" for pid in launchers if _terminate(pid)]
    queue = slurm.queued(runs)
    promotions = [promotion.noted(Sweep(runs[0].folder.parent, name)) for name in sweeps if runs]
    jobs, kept = [job for job in promotions if job and job in queue], list[Run]()
    for run in runs:
        with contextlib.suppress(Damaged):  # it is named below
            found = slurm.queued_jobs(run, queue)
            if found and sweeps and (others := run.let_go(sweeps)):
                said.append(f"SLURM job {found[0]} stays for sweep {', '.join(others)}, which counts on it, too")
                kept.append(run)
            else:
                jobs += found
    slurm.cancel_jobs(jobs)
    said += [f"SLURM job {job} cancelled" for job in jobs]
    said += [line for run in runs if run not in kept and (line := _stop(run, jobs))]
    if queue.away:
        raise UserError("\n".join([*said, "SLURM does not answer, and none of its jobs was cancelled: ask again"]))
    return said


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
