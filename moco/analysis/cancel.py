"""python -m moco cancel: stops launchers and running jobs, checkpoints saved, and takes queued jobs out of the queue."""

import contextlib
import os
import shutil
import signal
from collections.abc import Collection, Iterator, Sequence

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
    said = [f"launcher {pid} {how}" for pid in launchers if (how := _terminate(pid, "told to stop its jobs"))]
    with _alone(runs):
        queue = slurm.queued(runs)
        noted = [job for name in sweeps if runs for job in promotion.noted(Sweep(runs[0].folder.parent, name))]
        stay = dict[str, str]()  # jobs, and why
        of_run = {run.folder: _jobs(run, runs, sweeps, queue, stay) for run in runs}
        wanted = [*noted, *(job for jobs in of_run.values() for job in jobs)]
        jobs = [job for job in dict.fromkeys(wanted) if job in queue and job not in stay]
        slurm.cancel_jobs(jobs)
    first = dict.fromkeys(found[0] for found in of_run.values() if found)
    said += [f"SLURM job {job} stays {stay[job]}" for job in first if job in stay]
    said += [f"SLURM job {job} cancelled" for job in jobs]
    said += [line for run in runs if not stay.keys() & set(of_run[run.folder]) and (line := _stop(run, jobs))]
    if queue.away:
        raise UserError("\n".join([*said, "SLURM does not answer, and none of its jobs was cancelled: ask again"]))
    return said


@contextlib.contextmanager
def _alone(runs: Sequence[Run]) -> Iterator[None]:
    """Waits for who is submitting jobs and gives signs of life, so that none comes into the queue that was not seen."""
    with contextlib.ExitStack() as held:
        if runs and shutil.which("squeue"):
            with contextlib.suppress(UserError):
                held.enter_context(Sweep(runs[0].folder.parent, "any").claim())
        yield


def _jobs(
    run: Run, runs: Sequence[Run], sweeps: Collection[str], queue: Collection[str], stay: dict[str, str]
) -> list[str]:
    """The run's jobs in SLURM's queue; notes in `stay` those that others count on."""
    found: list[str] = []
    with contextlib.suppress(Damaged):  # it is named by _stop
        found = slurm.queued_jobs(run, queue)
        if found and sweeps and (others := run.let_go(sweeps)):
            stay |= dict.fromkeys(found, f"for sweep {', '.join(others)}, which counts on it, too")
        elif found and (beside := _beside(run, runs, queue)):
            why = f"for {', '.join(beside)}: SLURM cancels whole jobs, so name all that share it, or the sweep"
            stay |= dict.fromkeys(found, why)
    return found


def _beside(run: Run, runs: Sequence[Run], queue: Collection[str]) -> list[str]:
    """The ids of other runs than these that share the run's job, and on which it works or will."""
    job, named = run.job(), {other.folder.name for other in runs}
    others = [Run(run.folder.parent / name) for name in (job.beside if job else []) if name not in named]
    return [other.id for other in others if job and job.job in slurm.queued_jobs(other, queue)]


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
    how = _terminate(holder.pid, "told to save and stop")
    return f"{run.folder.name}: process {holder.pid} {how}" if how else ""


def _terminate(pid: int, done: str) -> str:
    """Sends the process SIGTERM: `done`, or why that could not be; "" where it has ended since it was looked at."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "is another user's, who alone can stop it"
    return done
