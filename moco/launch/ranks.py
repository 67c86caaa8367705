"""One point on several devices: a process for each, its ranks; moco.training.distributed lets them join.

On this machine rank 0 starts the others as its children. On SLURM each is a task of the job.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from moco.errors import UserError
from moco.launch import children
from moco.launch import slurm_client as slurm
from moco.runs.lease import EXIT_STOPPED
from moco.runs.run import Run, log_of_rank
from moco.training.distributed import GO_ON

POLL = 0.2  # seconds between looks at the other ranks
GRACE = 10.0  # seconds in which rank 0 ends by itself where another rank has failed
LEAVE = 5.0  # seconds in which the others end once rank 0 has
TAIL = 5  # lines of a log that are shown


def join_tasks() -> None:
    """Tells this task of a SLURM job which rank it is, and where they meet: the port follows from the job's id."""
    from submitit.helpers import TorchDistributedEnvironment

    os.environ.pop("MASTER_PORT", None)
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


class Others:
    """The other ranks of a point, as children of its rank 0, which this process becomes.

    They end when it ends. Where one of them fails, rank 0 has a while to find out by itself; it then ends, too.

    Args:
        work: what each of them does.
    """

    def __init__(self, run: Run, ranks: int, work: Callable[[], None]):
        self.run, self.ranks, self.over = run, ranks, threading.Event()
        # The port stays ours until rank 0's store listens there, which may reuse it as nobody listens here.
        self.port = socket.socket()
        self.port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port.getsockname()[1]), "WORLD_SIZE": str(ranks)}
        os.environ.update(where, RANK="0", LOCAL_RANK="0", LOCAL_WORLD_SIZE=str(ranks))
        log = f"{os.environ['SUBMITIT_FOLDER']}/{slurm.job_id()}_0_log.out"
        self.logs = [log_of_rank(log, rank) for rank in range(ranks)]
        self.children = list[subprocess.Popen[bytes]]()
        for rank in range(1, ranks):
            given = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            self.children.append(children.start(work, Path(self.logs[rank]), given))
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> "Others":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        deadline = time.monotonic() + LEAVE
        failed = isinstance(error, Exception)
        while any(child.poll() is None for child in self.children) and time.monotonic() < deadline:
            if failed and self.killed():
                break
            time.sleep(POLL)
        why = self.killed() if failed else None
        for child in self.children:
            child.kill()
            child.wait()
        self.port.close()
        if why:
            self.run.fail(why)
            raise why from error

    def killed(self) -> UserError | None:
        """What is to be said of the first rank that was killed, if any: its own words cannot tell."""
        return next((self._said(rank, end) for rank, end in self._ends() if end < 0), None)

    def _ends(self) -> list[tuple[int, int]]:
        """The ranks that have ended, with their return codes."""
        return [(rank, end) for rank, child in enumerate(self.children, 1) if (end := child.poll()) is not None]

    def _said(self, rank: int, end: int) -> UserError:
        how = f"rank {rank} of {self.ranks} {children.ended(end)}"
        return UserError(f"{how}, and the others with it: {GO_ON}")

    def _watch(self) -> None:
        """Ends rank 0 where another one has failed and it does not find out: it may wait for that one for ever."""
        # One that was stopped has waited for rank 0's save; rank 0 may still have a tracker to close.
        while not (bad := [(rank, end) for rank, end in self._ends() if end not in (0, EXIT_STOPPED)]):
            if self.over.wait(POLL):
                return
        if self.over.wait(GRACE):
            return
        why = self._said(*bad[0])
        with open(self.logs[bad[0][0]], "rb") as log:
            tail = log.read()[-2000:].decode(errors="replace").splitlines()[-TAIL:]
        print("\n".join([str(why), *tail]), file=sys.stderr, flush=True)
        self.run.fail(UserError("\n".join([str(why), *tail])))
        children.note_killed(self.run, os.getpid())
        for child in self.children:
            child.kill()
        os._exit(1)
