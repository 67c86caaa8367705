"""Processes that a job starts, for points that share it or for the devices of one point.

python -m moco.launch.children does what it reads, pickled, from its standard input.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from moco.runs.lease import Damaged, machine, release
from moco.runs.run import Run

COMMAND = ["-u", "-m", "moco.launch.children"]
PR_SET_PDEATHSIG = 1  # of Linux


def start(work: Callable[[], None], log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Starts a process that does the work, with what it prints at the end of the log; it dies with the thread that calls this.

    Args:
        work: what can be pickled.
        environment: what differs from this process's.
    """
    env = {**os.environ, **environment}
    with open(log, "ab") as file:
        child = subprocess.Popen([sys.executable, *COMMAND], stdin=subprocess.PIPE, stdout=file, stderr=file, env=env)
    assert child.stdin
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(pickle.dumps((os.getpid(), work)))
    return child


def ended(end: int) -> str:
    """How a process has ended, by its return code."""
    return "has ended" if not end else f"was ended by signal {-end}" if end < 0 else f"has ended with status {end}"


def note_killed(run: Run, pid: int) -> None:
    """Ends the lease of a process that cannot do so: on other machines its silence would tell much later."""
    with contextlib.suppress(Damaged):
        holder = run.holder()
        if holder and not holder.ended and (holder.machine, holder.pid) == (machine(), pid):
            release(run.folder / "lease.json")


def received() -> Callable[[], None]:
    """The work on standard input; this process dies with the one that sent it, as not every SLURM ends what a job leaves."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent: int
    work: Callable[[], None]
    parent, work = pickle.load(sys.stdin.buffer)
    if os.getppid() != parent:
        sys.exit("the job that this process belongs to is gone")
    return work


if __name__ == "__main__":
    received()()
