"""What a launcher shows while its jobs run: on a terminal a line for each and one for all, elsewhere nothing."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from moco.errors import UserError
from moco.launch import budget
from moco.launch.job import Task
from moco.launch.pace import Job, Pace, Point, point, stands, units
from moco.progress import duration
from moco.runs.how_far import time_left
from moco.runs.state import State
from moco.terminal import Column, draw, most

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

EVERY = 1.0  # seconds between looks
TODAY = 12 * 3600  # seconds; what is over later than that needs its day


class Sight(NamedTuple):
    """A sweep as its launcher sees it.

    Attributes:
        waiting: tasks for which no job runs yet; elsewhere: those that others work on; paused: at a rung.
        ends: how the others ended, paused ones too.
        stops: whether no more jobs are started.
    """

    running: Sequence[Job]
    waiting: Sequence[Task]
    elsewhere: Sequence[Task]
    paused: Sequence[Task]
    ends: Mapping[Path, State]
    slots: int
    stops: bool = False


class Screen:
    """The terminal that standard error is, if it is one; as a context, in which prints go above what is shown."""

    def __init__(self) -> None:
        self.pace, self.best = Pace(), ""
        self._score, self._next = float("-inf"), 0.0
        self._stands = dict[Path, int]()  # where runs stand that no job works on
        self._least: int | None = None
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False)
            if not console.is_dumb_terminal:
                here = sys.stdout.isatty()
                self.live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=here)
                self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def ended(self, job: Job, seconds: float) -> None:
        """Notes what a job took that did its part."""
        self._stands[job.task.run.folder] = now = stands(job.task)
        self.pace = self.pace.plus(seconds, max(1, now - job.first) if job.task.config else 1)

    def scored(self, task: Task, value: float) -> None:
        """Notes a run's score in percent."""
        if value > self._score:
            self._score, self.best = value, f"best {value:.2f}: {task.label}"

    def show(self, look: Callable[[], Sight]) -> None:
        """Shows what is seen now, where there is a terminal and the last time is a while ago."""
        if not self.live or time.monotonic() < self._next:
            return
        with contextlib.suppress(UserError, OSError):  # a damaged folder is told by the job that works there
            self._show(self.live, look(), time.time())
        self._next = time.monotonic() + EVERY

    def _show(self, live: "Live", sight: Sight, now: float) -> None:
        points = [point(job, sight.stops) for job in sight.running]
        left = None if sight.stops else self._left(sight, points, now)
        at_least = any(job.halving for job in [*sight.waiting, *sight.paused, *(job.task for job in sight.running)])
        lines = [counts(sight), *filter(None, [self.best, "" if left is None else over(now, left, at_least)])]
        live.update(picture(points, lines, live.console), refresh=True)

    def _left(self, sight: Sight, points: Sequence[Point], now: float) -> float | None:
        """Seconds until the sweep is over, in which others may finish what they work on; None where nothing is known."""
        pace = self.pace
        for job, one in zip(sight.running, points):
            if one.left is not None:
                pace = pace.plus(now - job.started + one.left, one.units)
        if not pace.epochs:
            return None
        per_epoch = pace.seconds / pace.epochs
        running = [
            one.units * per_epoch - (now - job.started) if one.left is None else one.left
            for job, one in zip(sight.running, points)
        ]
        waits = [units(task, self._at(task)) for task in sight.waiting]
        waits += [1] * self._promised(
            sight, sum(waits) + sum(job.first + one.units for job, one in zip(sight.running, points))
        )
        return time_left([max(0.0, s) for s in running], [n * per_epoch for n in waits], sight.slots)

    def _at(self, task: Task) -> int:
        """Where a run stands that no job works on."""
        return self._stands.setdefault(task.run.folder, stands(task))

    def _promised(self, sight: Sight, planned: int) -> int:
        """The epochs that a halved sweep takes at least, beyond those that were trained and are planned."""
        everyone = [*sight.waiting, *sight.paused, *sight.elsewhere, *(job.task for job in sight.running)]
        if self._least is None:
            self._least = budget.least(everyone)
        if not self._least:
            return 0
        for task in [*sight.waiting, *sight.paused]:
            self._at(task)
        runs = {job.task.run.folder for job in sight.running}
        trained = sum(epochs for folder, epochs in self._stands.items() if folder not in runs)
        return max(0, self._least - trained - planned)


def counts(sight: Sight) -> str:
    """3 of 15 done, 2 running, 1 failed, 9 left."""
    ends = Counter(sight.ends.values())
    total = ends.total() + len(sight.running) + len(sight.waiting) + len(sight.elsewhere)
    said = {
        f"of {total} done": ends.pop(State.DONE, 0),
        "running": len(sight.running),
        "running elsewhere": len(sight.elsewhere),
        **{str(state): number for state, number in ends.items()},
        "left": len(sight.waiting),
    }
    return ", ".join(f"{number} {what}" for what, number in said.items() if number or what.endswith("done"))


def over(now: float, left: float, at_least: bool) -> str:
    """When all will be over."""
    form = "%H:%M" if left < TODAY else "%a %d %b %H:%M"
    at = time.strftime(form, time.localtime(now + left))
    return f"over {'not before' if at_least else 'at about'} {at}, in {duration(left)}"


def picture(points: Sequence[Point], lines: Sequence[str], console: "Console") -> "RenderableType":
    """The jobs as a table and the lines on all below it, as much as the terminal holds.

    The last line is blank: ^C, which the terminal itself writes, must not wrap the line before it.
    """
    from rich.console import Group
    from rich.text import Text

    below = Text("\n".join(lines), overflow="fold")
    room = console.height - 2 - len(console.render_lines(below))  # less the blank line, and that of the cursor

    def table(number: int) -> list["RenderableType"]:
        rest = [f"... and {len(points) - number} more"] if number < len(points) else []
        return [draw(columns(points[:number]), console.width)[0], *rest] if number else []

    number = most(min(len(points), room), lambda number: len(console.render_lines(Group(*table(number)))) <= room)
    return Group(*table(number), below, " ")


def columns(points: Sequence[Point]) -> list[Column]:
    """The columns of these jobs."""

    def cells(texts: Iterable[str | None]) -> list[str]:
        return [text or "" for text in texts]

    def epoch(one: int | None, epochs: int | None) -> str | None:
        return None if one is None else f"{one}/{epochs}" if epochs else str(one)

    fars = [one.far for one in points]
    found = [
        Column("settings", [one.label for one in points], words=True),
        Column("state", [one.doing for one in points], rank=3),
        Column("epoch", cells(epoch(p.far.epoch, p.epochs) for p in points), right=True),
        Column("loss", cells(f"{f.loss:.4f}" if f.loss is not None else None for f in fars), rank=2, right=True),
        Column("kNN", cells(f"{f.knn:.2f}" if f.knn is not None else None for f in fars), rank=1, right=True),
        Column("left", cells(duration(p.left) if p.left is not None else None for p in points), right=True),
    ]
    return [column for column in found if any(column.cells)]
