"""How long a file has been silent, where the clocks of two hosts may differ by hours. Imports no torch."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ASKED = 60.0  # seconds for which what the file server's clock has said is kept
WATCHED = 60.0  # seconds after which a file that is watched and does not change is silent, whatever a clock says


def silence(path: Path) -> float:
    """Seconds since the file was written last.

    By the clock that stamps the files, which a file tells that is written on the same file system now. Who may write nowhere
    there counts from the change that it has seen itself; as long as it has seen none, by this machine's clock.
    """
    try:
        written = path.stat().st_mtime
    except OSError:
        return float("inf")
    now = _server(path.parent)
    return _watched(path, written) if now is None else now - written


def by_own_clock(path: Path) -> bool:
    """Whether the last answer of `silence` for this file is no better than this machine's clock."""
    look = _looks.get(str(path))
    return look is not None and not look.changed and time.monotonic() - look.since < WATCHED


@contextlib.contextmanager
def looking_only() -> Iterator[None]:
    """Meanwhile this process writes nothing, not even to ask a file server for the time."""
    global _asks
    _asks = False
    try:
        yield
    finally:
        _asks = True


_asks = True
# By file system: when its clock was asked, and how far it is ahead of monotonic.
_ahead: dict[int, tuple[float, float]] = {}


def _server(folder: Path) -> float | None:
    """The time by the clock that stamps files in the folder; None where nothing can be written on that file system.

    It is asked for once a minute on each file system, since a look at a sweep asks for many runs.
    """
    if not _asks:
        return None
    now, device = time.monotonic(), os.stat(folder).st_dev
    asked, ahead = _ahead.get(device, (float("-inf"), 0.0))
    if now - asked < ASKED:
        return now + ahead
    for place in _places(folder):
        with contextlib.suppress(OSError):
            if os.stat(place).st_dev == device:
                stamp = _stamp(place)
                _ahead[device] = now, stamp - now
                return stamp
    return None


def _places(folder: Path) -> Iterator[Path]:
    """The folder, the one above it, and where a user who may not write there may write."""
    yield from (folder, folder.parent)
    for place in (os.curdir, os.path.expanduser("~"), tempfile.gettempdir()):
        yield Path(place)


def _stamp(place: Path) -> float:
    """The time that a file gets which is written there now."""
    probe = place / f".clock.{os.getpid()}.{threading.get_ident()}"
    try:
        with open(probe, "wb") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@dataclass
class _Look:
    """What was seen of a file: when it was written, since when (monotonic) it stands so, and whether it changed meanwhile."""

    written: float
    since: float
    changed: bool


_looks: dict[str, _Look] = {}


def _watched(path: Path, written: float) -> float:
    """Seconds of silence for who can ask nobody for the time."""
    now, look = time.monotonic(), _looks.get(str(path))
    if look is None or look.written != written:
        look = _looks[str(path)] = _Look(written, now, look is not None)
    watched = now - look.since
    return watched if look.changed else max(watched, time.time() - written)
