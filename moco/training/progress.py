"""A bar with loss, images a second and time left on a terminal; plain lines, seldom enough to read, elsewhere."""

import sys
import time
from typing import Any

SHOW_EVERY = 0.5  # seconds between looks at the loss, each of which waits for the device
PLAIN_EVERY = 30.0  # seconds between plain lines


class Progress:
    """Shows how far a job of `total` units is; `close` ends the bar."""

    def __init__(self, what: str, total: int, start: int = 0):
        self.what, self.total, self.start = what, total, start
        self.began = self.shown = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=start, desc=what, unit="step", dynamic_ncols=True, leave=False)

    def update(self, done: int, **numbers: float) -> None:
        """`done` of `total` units; the numbers are shown beside it."""
        if self.bar is not None:
            self.bar.n = done
            self.bar.set_postfix({key: _short(value) for key, value in numbers.items()}, refresh=False)
            self.bar.refresh()
        elif time.monotonic() - self.shown >= PLAIN_EVERY:
            self.shown = time.monotonic()
            shown = "  ".join(f"{key} {_short(value)}" for key, value in numbers.items())
            self.line(f"{self.what}  {done}/{self.total}  {shown}  {duration(self.left(done))} left")

    def left(self, done: int) -> float:
        """Seconds left at the mean speed so far."""
        return (time.monotonic() - self.began) / max(1, done - self.start) * (self.total - done)

    def line(self, text: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """12s, 3m20s, 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
