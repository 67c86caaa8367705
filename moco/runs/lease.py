"""Who works on a run: a claim with a heartbeat, and how an attempt ended. Imports no torch."""

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moco.errors import UserError
from moco.io import locked, read_json, write_json

HEARTBEAT = 10.0  # seconds between heartbeats
STALE = 6 * HEARTBEAT  # a claim on another machine without a heartbeat for so long is taken over
EXIT_STOPPED = 75  # sysexits' EX_TEMPFAIL: stopped by a signal with a checkpoint; the same command goes on


class Held(UserError):
    """Another process holds the run."""


class Lost(RuntimeError):
    """Another process took this run over, because this one gave no sign of life."""


def ending(error: BaseException) -> str:
    """The word for how an attempt ended that raised this."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        return "timed out" if str(error) == "SIGUSR2" else "stopped"
    # torch's allocators raise RuntimeError on the CPU and a subclass of it on CUDA: only the text tells.
    no_memory = isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error))
    return "out of memory" if no_memory else "failed"


class Stopped(SystemExit):
    """A signal asked the run to stop; it has saved its checkpoint."""

    def __init__(self, why: str):
        super().__init__(EXIT_STOPPED)
        self.why = why

    def __str__(self) -> str:
        return self.why


class Claim:
    """A hold on a run: a file with the holder and its progress, rewritten by a thread as the heartbeat.

    A holder on this machine is judged by its process, one elsewhere by the age of its heartbeat. Taking over is done under
    a file lock, so that of two who find a claim abandoned one gets it.
    """

    def __init__(self, path: Path, details: Mapping[str, Any]):
        self.path, self.lost = path, False
        self.holder = {
            "token": uuid.uuid4().hex,
            "machine": machine(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "started": time.time(),
            "progress": {},
            "ended": None,
            **details,
        }
        with locked(path.with_name("claim.lock")):
            other = read_json(path)
            # The same SLURM job again; a local job's id is a process's, which another container may have too.
            theirs = [(other or {}).get(key) for key in ("queue", "job")]
            requeued = details.get("queue") == "slurm" and [details["queue"], details["job"]] == theirs
            if other and not other.get("ended") and not requeued and alive(path, other):
                raise Held(
                    f"{path.parent} is being trained by process {other['pid']} on {other['host']}: wait for it, or end it"
                )
            self._write()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def progress(self, **values: Any) -> None:
        """What the next heartbeat tells; raises Lost where another process took the run over."""
        self.holder["progress"] = values
        if self.lost:
            raise Lost(f"{self.path.parent} was taken over by another process after a silence of this one")

    def end(self, how: str, why: str) -> None:
        """Stops the heartbeat and records how the holder ended."""
        self._over.set()
        self._thread.join()
        self.holder.update(ended=how, why=why, finished=time.time())
        if not self.lost:
            with contextlib.suppress(OSError):  # a full disk must not hide the error that ended the run
                self._write()

    def _write(self) -> None:
        write_json(self.path, self.holder)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            current = read_json(self.path)
            self.lost = current is not None and current.get("token") != self.holder["token"]
            if self.lost:
                return
            with contextlib.suppress(OSError):
                self._write()


def alive(path: Path, holder: Mapping[str, Any]) -> bool:
    """Whether a claim's holder still lives."""
    if holder.get("machine") == machine():
        return born(holder["pid"]) == holder["born"]
    return time.time() - path.stat().st_mtime < STALE


def machine() -> str:
    """This machine since its boot, and this container: where a process id means the same process."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def born(pid: int) -> str | None:
    """When the process started, in the kernel's ticks, so that a reused id is told apart; None where there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return None
        return "unknown"
    return None if status[0] in "ZX" else status[19]
