"""Small files that are written whole or not at all, and locks. Imports nothing of the project but its error."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from moco.errors import UserError

LOCK_SECONDS = 60.0  # a lock is held for milliseconds; who waits longer waits in vain
Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside this one to write to, renamed at the end: a reader finds the old file or the new, never a piece."""
    aside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Writes aside, flushes to disk and renames."""
    with replacing(path) as aside, open(aside, "w") as file:
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
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel frees when the process dies.

    Raises:
        UserError: the file system has no locks, or a process keeps this one.
    """
    import filelock

    # Without the second argument a file that no kernel frees would stand in for the lock where there are none.
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise UserError(
            f"{path} has been locked by another process for {LOCK_SECONDS:.0f} s: end it, or give another runs_dir"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error.strerror or error}): give a runs_dir on a file system with locks (NFS: mount it "
            "without nolock)"
        ) from error
    try:
        yield
    finally:
        lock.release()
