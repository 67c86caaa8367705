"""Signals that ask a job to save its checkpoint, and to stop."""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Remembers the first signal that asks to stop; a second Ctrl-C stops at once.

    Inside a SLURM job SIGTERM asks for a checkpoint alone: it announces preemption or the end, and a job that leaves on it
    counts as finished where the partition grants a grace time, so that SLURM would not queue it again.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.save = False
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.save = True
        if number != signal.SIGTERM or os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            self.received = signal.Signals(number).name

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
