"""Small files that are written whole or not at all, and locks. Imports nothing of the project but its error."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeAlias

from moco.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of a disk that takes no more
LOCK_SECONDS = 30.0  # a lock without signs of life is held for milliseconds; who waits longer waits in vain
LOCK_TOLD = 2.0  # seconds until it is said who holds it
BEAT = 10.0  # seconds between signs of life of who holds a lock for long
Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"


class Unwritable(UserError):
    """A file cannot be written, which the user can mend."""


@contextlib.contextmanager
def writing(path: Path, about: Collection[int] = ()) -> Iterator[None]:
    """Says in words what the file system refuses: everything, or only errors of these numbers.

    Raises:
        Unwritable: it refused.
    """
    try:
        yield
    except OSError as error:
        if about and error.errno not in about:
            raise
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        owner = _owner(path) if error.errno in (errno.EACCES, errno.EPERM) else None
        remedy = f"ask {owner}, whose folder it is, or" if owner else "make room, or"
        raise Unwritable(
            f"{path} cannot be written ({error.strerror or error}): {remedy} give another runs_dir"
        ) from error


def _owner(path: Path) -> str | None:
    """The user who owns the file, or the nearest folder above it, where that is somebody else."""
    import pwd

    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            uid = os.stat(place).st_uid
            try:
                return None if uid == os.geteuid() else pwd.getpwuid(uid).pw_name
            except KeyError:
                return f"user {uid}"
    return None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside this one to write to, renamed at the end: a reader finds the old file or the new, never a piece."""
    aside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield aside
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Writes aside, flushes to disk and renames; bytes that are no UTF-8 come out as they went in.

    Raises:
        Unwritable: it cannot be written; the file that was there stays.
    """
    with writing(path), replacing(path) as aside, open(aside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: object) -> None:
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path | str) -> Json:
    """The file's content; None where it is absent or is not JSON."""
    try:
        with open(path, "rb") as file:
            content: Json = json.loads(file.read())
            return content
    except (OSError, ValueError):
        return None


def read_mapping(path: Path | str) -> dict[str, Json] | None:
    """The file's content; None where it is absent or is not a mapping."""
    content = read_json(path)
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def locked(
    path: Path,
    stop: Callable[[], None] = lambda: None,
    what: str = "",
    silence: float | None = None,
) -> Iterator[None]:
    """Holds a lock that the kernel frees when the process dies; whoever waits for it is told who holds it.

    Args:
        stop: called again and again while another process holds it; raises where waiting is to end.
        what: what the holder of such a lock does, for whoever waits for it.
        silence: the lock is held for long, and its holder gives signs of life; who waits gives up after so many seconds
            without one. None: after LOCK_SECONDS in which the lock has not changed hands.

    Raises:
        UserError: the file system has no locks, the file cannot be written, or a process keeps the lock.
    """
    with writing(path):
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            if not os.path.exists(path):
                raise
            # Somebody else's, which can be locked all the same.
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    over = threading.Event()
    try:
        _lock(file, path, stop, what, LOCK_SECONDS if silence is None else silence)
        with contextlib.suppress(OSError):  # for others to read alone
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        if silence is not None:
            threading.Thread(target=_beat, args=(path, over), daemon=True).start()
        yield
    finally:
        over.set()
        os.close(file)  # which frees it


def _beat(path: Path, over: threading.Event) -> None:
    """Touches the file until it is over."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _lock(file: int, path: Path, stop: Callable[[], None], what: str, silence: float) -> None:
    """Waits for the lock, as long as something happens to it."""
    began = changed = time.monotonic()
    said, seen = False, None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            stop()
            now, holder = time.monotonic(), os.pread(file, 200, 0).decode(errors="replace") or "another process"
            if (state := (os.fstat(file).st_mtime_ns, holder)) != seen:
                seen, changed = state, now
            if now - changed >= silence:
                raise UserError(
                    f"{path} has been locked by {holder} for {silence:.0f} s: end it, or give another runs_dir"
                ) from error
            if now - began >= LOCK_TOLD and not said:
                said = True
                line = f"waits for {holder}, which {what}" if what else f"waits for {path}, which {holder} has locked"
                print(line, file=sys.stderr, flush=True)
            time.sleep(0.02)
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror or error}): give a runs_dir on a file system with locks (NFS: "
                "mount it without nolock)"
            ) from error
