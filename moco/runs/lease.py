"""Who works on a run: a lease with a heartbeat, and how an attempt ended. Imports no torch."""

import contextlib
import dataclasses
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from moco.errors import UserError
from moco.io import Json, locked, read_mapping, write_json
from moco.runs.clock import silence
from moco.runs.state import State

HEARTBEAT = 10.0  # seconds between heartbeats
WATCH = 1.0  # seconds between looks at a lease that is waited for
STALE = 6 * HEARTBEAT  # a lease on another machine without a heartbeat for so long is taken over
EXIT_STOPPED = 75  # sysexits' EX_TEMPFAIL: stopped by a signal with a checkpoint; the same command goes on


class Held(UserError):
    """Another process holds the run."""


class Lost(UserError):
    """Another process took this run over, because this one gave no sign of life; it writes nothing more there."""


class Damaged(UserError):
    """A small file in a run's folder does not hold what it should."""


class Stopped(SystemExit):
    """A signal asked the run to stop; it has saved its checkpoint."""

    def __init__(self, why: str):
        super().__init__(EXIT_STOPPED)
        self.why = why

    def __str__(self) -> str:
        return self.why


class Paused(Stopped):
    """The run waits at a rung of successive halving; it has saved its checkpoint."""


def goes_on(rerun: bool) -> str:
    """What to tell somebody whose command was stopped.

    Args:
        rerun: whether the command would start over.
    """
    return f"the same command{' without rerun=true' if rerun else ''} goes on"


@dataclass(frozen=True)
class Place:
    """Where an attempt runs, as its launcher knows it; empty where it was started by hand.

    Attributes:
        sweep: the sweep's name.
        label: the settings that tell the run from the others of its sweep.
        queue: `local` or `slurm`.
        job: the id of the queue's job.
        slot: the name of the place on this machine.
        visible: CUDA_VISIBLE_DEVICES.
        launch: the launch whose orders to begin again the job obeys.
    """

    sweep: str | None = None
    label: str = ""
    queue: str | None = None
    job: str | None = None
    slot: str | None = None
    visible: str | None = None
    launch: str | None = None


BY_HAND = Place()


@dataclass
class Holder:
    """Who holds a run or held it last, how far it has come and how it ended: the content of lease.json."""

    token: str
    machine: str
    host: str
    pid: int
    born: str | None
    started: float
    what: str = ""
    device: str = ""
    place: Place = BY_HAND
    progress: dict[str, float] = field(default_factory=dict)
    ended: State | None = None
    why: str = ""
    finished: float | None = None

    @classmethod
    def read(cls, path: Path | str) -> "Holder | None":
        """The holder in that file; None where there is none.

        Raises:
            Damaged: the file holds something else.
        """
        content = read_mapping(path)
        if content is None:
            return None
        try:
            given = _known(cls, content)
            if given.get("ended"):
                given["ended"] = State(str(given["ended"]))
            place = given.get("place")
            given["place"] = Place(**_known(Place, place)) if isinstance(place, dict) else BY_HAND  # type: ignore[arg-type]
            holder = cls(**given)  # type: ignore[arg-type]
            if isinstance(holder.pid, int) and isinstance(holder.progress, dict):
                return holder
        except (TypeError, ValueError):
            pass
        raise Damaged(f"{path} is damaged: remove it, if nobody works on the run")


def _known(kind: type, content: dict[str, Json]) -> dict[str, object]:
    """What a class of this version takes of a file that another version may have written."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: value for key, value in content.items() if key in names}


def ending(error: BaseException) -> State:
    """How an attempt ended that raised this."""
    if isinstance(error, Paused):
        return State.PAUSED
    if isinstance(error, Stopped | KeyboardInterrupt):
        return State.TIMED_OUT if str(error) == "SIGUSR2" else State.STOPPED
    # torch's allocators raise RuntimeError on the CPU and a subclass of it on CUDA: only the text tells.
    no_memory = isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error))
    return State.OUT_OF_MEMORY if no_memory else State.FAILED


class Lease:
    """A hold on a run: a file with the holder and its progress, rewritten by a thread as the heartbeat.

    A holder on this machine is judged by its process, one elsewhere by the age of its heartbeat. Taking over is done under
    a file lock, so that of two who find a lease abandoned one gets it.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        device: str = "",
        place: Place = BY_HAND,
        stop: Callable[[], str | None] = lambda: None,
    ):
        self.path, self.lost = path, False
        pid = os.getpid()
        self.holder = Holder(
            uuid.uuid4().hex, machine(), socket.gethostname(), pid, born(pid), time.time(), what, device, place
        )
        told = False

        def heed() -> None:
            if why := stop():
                raise Stopped(why)

        while not self._take(heed):
            heed()
            if not told:
                told = True
                print(
                    f"waits for an earlier attempt of this job, which holds {path.parent}", file=sys.stderr, flush=True
                )
            time.sleep(WATCH)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _take(self, heed: Callable[[], None]) -> bool:
        """Takes the lease. False where an earlier attempt of this very job holds it: SLURM has queued the job again, though
        a process of it may live on where SLURM's daemon has died.

        Raises:
            Held: another living process holds it.
            Stopped: a signal came while another process looked at it.
        """
        with locked(self.path.with_name("lease.lock"), heed):
            other = Holder.read(self.path)
            if other and not other.ended and alive(self.path, other):
                if self._requeued(other) and other.machine != self.holder.machine:
                    return False
                raise Held(f"{self.path.parent} is held by process {other.pid} on {other.host}: wait for it, or end it")
            self._write()
            return True

    def _requeued(self, other: Holder) -> bool:
        """Whether the other is the same SLURM job; a local job's id is a process's, which another container may have too."""
        ours, theirs = self.holder.place, other.place
        return ours.queue == "slurm" and (ours.queue, ours.job) == (theirs.queue, theirs.job)

    def check(self) -> None:
        """To be called before something is written: raises Lost where another process took the run over."""
        current = None if self.lost else read_mapping(self.path)
        self.lost = self.lost or (current is not None and current.get("token") != self.holder.token)
        if self.lost:
            raise Lost(f"{self.path.parent} was taken over by another process after a silence of this one")

    def progress(self, **values: float) -> None:
        """What the next heartbeat tells; raises Lost where another process took the run over."""
        self.holder.progress = values
        if self.lost:
            self.check()

    def end(self, how: State, why: str) -> None:
        """Stops the heartbeat and records how the holder ended."""
        self._over.set()
        self._thread.join()
        self.holder.ended, self.holder.why, self.holder.finished = how, why, time.time()
        with contextlib.suppress(UserError):  # a full disk must not hide the error that ended the run
            self.check()
            self._write()

    def _write(self) -> None:
        write_json(self.path, dataclasses.asdict(self.holder))

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            try:
                self.check()
                self._write()
            except Lost:
                return
            except UserError:  # a full disk is told by what loses more than a heartbeat
                continue


def release(path: Path) -> None:
    """Ends the lease of a holder that the caller knows to be gone before its heartbeat is stale."""
    with locked(path.with_name("lease.lock")):
        if content := read_mapping(path):
            write_json(path, {**content, "token": "", "ended": State.KILLED})


def alive(path: Path, holder: Holder) -> bool:
    """Whether a lease's holder still lives."""
    if holder.machine == machine():
        return born(holder.pid) == holder.born
    return silence(path) < STALE


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
