"""Signals that ask a job to save its checkpoint, and to stop."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from moco.ranks import largest
from moco.runs.lease import Stopped, goes_on
from moco.training.distributed import first, stop_together

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
AT_ONCE = 2.0  # a second Ctrl-C within so many seconds is not taken for another wish


class Signals:
    """Remembers the first signal that asks to stop, and says so; a later Ctrl-C stops at once, unless a save has begun.

    SIGHUP counts where nobody has it ignored, as nohup and the launcher of a sweep do.

    Inside a SLURM job SIGTERM asks for a checkpoint alone: it announces preemption or the end, and a job that leaves on it
    counts as finished where the partition grants a grace time, so that SLURM would not queue it again.

    Args:
        rerun: whether the command that is stopped would start over.
    """

    def __init__(self, rerun: bool = False) -> None:
        self.goes_on = goes_on(rerun)
        self.received: str | None = None
        self.save = False
        self._first, self._saving, self._preparing = 0.0, False, False
        listened = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in listened}

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received:
            if number == signal.SIGINT and not self._saving and time.monotonic() - self._first > AT_ONCE:
                raise KeyboardInterrupt
            return
        self.save = True
        if number == signal.SIGTERM and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            _say(f"{name}: {'' if self._preparing else 'the checkpoint is saved, and '}the job goes on")
            return
        self.received, self._first = name, time.monotonic()
        if self._preparing:
            _say(f"{name}: stops before the first step; {self.goes_on}")
            raise Stopped(name)
        _say(f"{name}: stops as soon as the checkpoint is saved; {self.goes_on} (Ctrl-C again: stop at once)")

    def decide(self, due: bool) -> tuple[bool, str | None]:
        """Whether to save now, and the signal that asks to stop: what one rank wants, all do, at the same step.

        Args:
            due: whether a save is due in any case.
        """
        names = [number.name for number in SIGNALS]
        asked = names.index(self.received) + 1 if self.received else 0
        wanted, self.save = due or self.save, False
        save, stop = largest(wanted, asked)
        if stop and not self.received:
            self.received, self._first = names[stop - 1], time.monotonic()
            _say(f"{self.received} to another process of this run: all stop as soon as the checkpoint is saved")
        return bool(save), names[stop - 1] if stop else None

    def obey(self) -> None:
        """Stops where a signal has asked for it, on all ranks; for moments at which there is nothing left to save.

        Raises:
            Stopped: a signal came.
        """
        if stop := self.decide(False)[1]:
            stop_together(stop)

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """As long as there is nothing to save a signal stops at once, whatever is loaded, decoded or waited for.

        Raises:
            Stopped: a signal came.
        """
        self._preparing = True
        try:
            yield
        finally:
            self._preparing = False

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A save that has begun ends."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            # On the way out a second Ctrl-C is not taken for more either.
            if number != signal.SIGINT or self.received is None:
                signal.signal(number, handler)


def _say(text: str) -> None:
    """Past Python's own buffers, which may be in the middle of a write; of several ranks one says it."""
    if not first():
        return
    with contextlib.suppress(OSError):
        start = "\r\n" if os.isatty(2) else ""  # after the ^C that the terminal has written
        os.write(2, f"{start}{text}\n".encode())
