"""A bar with time left, accuracies, loss and images per second on a terminal; plain lines, seldom enough to read, elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

SHOW_EVERY = 0.5  # seconds between looks at the loss, each of which waits for the device
PLAIN_EVERY = 30.0  # seconds between plain lines
BAR = 20  # its width


class Progress:
    """Shows how far a job of `total` units is; `close` ends the bar."""

    def __init__(self, what: str, total: int, start: int = 0):
        self.what, self.total, self.start = what, total, start
        self.began = self.shown = time.monotonic()
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            self.bar, self.task = _bar(what, total, start)

    def update(self, done: int, **numbers: float) -> None:
        """`done` of `total` units; the numbers are shown beside it, on a terminal as many of the first ones as have room."""
        shown = [f"{key} {_short(value)}" for key, value in numbers.items()]
        if self.bar is not None:
            left = duration(self.left(done))
            room = self.bar.console.width - len(f"{self.what}  {self.total}/{self.total} {left} left ") - BAR
            self.bar.update(self.task, completed=done, left=left, numbers=_fitting(shown, room))
        elif time.monotonic() - self.shown >= PLAIN_EVERY:
            self.shown = time.monotonic()
            self.line(f"{self.what}  {done}/{self.total}  {'  '.join(shown)}  {duration(self.left(done))} left")

    def left(self, done: int) -> float:
        """Seconds left at the mean speed so far."""
        return (time.monotonic() - self.began) / max(1, done - self.start) * (self.total - done)

    def line(self, text: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _bar(what: str, total: int, start: int) -> "tuple[Bar, TaskID]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=BAR),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.fields[numbers]}", style="dim"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total, completed=start, left="?", numbers="")
    bar.start()
    return bar, task


def _fitting(texts: Sequence[str], room: int) -> str:
    """As many of the first texts as have room on a line."""
    fitting = ""
    for text in texts:
        longer = f"{fitting}  {text}" if fitting else text
        if len(longer) > room:
            break
        fitting = longer
    return fitting


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
