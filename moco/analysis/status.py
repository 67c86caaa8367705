"""python -m moco status: where the runs stand as a table, once or again and again."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from moco.analysis.records import clock_note, state_counts
from moco.analysis.standings import Standing
from moco.progress import duration
from moco.runs.how_far import time_left
from moco.runs.state import State
from moco.terminal import Column, draw, most, plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.segment import Segment

STYLES = {State.DONE: "green", State.RUNNING: "cyan", State.QUEUED: "yellow", State.STOPPED: "yellow"}
STYLES |= {State.PAUSED: "bright_yellow", State.PENDING: "dim", State.STARTING: "cyan"}
TROUBLE = "red"  # the style of all other states


def _columns(found: Sequence[Standing]) -> list[Column]:
    """The columns of these runs; those that are empty throughout are left out."""

    def numbers(values: Sequence[float | None], digits: int) -> list[str]:
        return ["" if value is None else f"{value:.{digits}f}" for value in values]

    epochs = ["" if s.epoch is None else f"{s.epoch}/{s.epochs}" if s.epochs else str(s.epoch) for s in found]
    columns = [
        Column("id", [s.id for s in found]),
        Column("state", [s.state for s in found], styles=[STYLES.get(s.state, TROUBLE) for s in found]),
        Column("epoch", epochs, right=True),
        Column("loss", numbers([s.loss for s in found], 4), rank=3, minor=True, right=True),
        Column("kNN", numbers([s.knn for s in found], 2), right=True),
        Column("linear", numbers([s.linear for s in found], 2), rank=2, right=True),
        Column("left", ["" if s.left is None else duration(s.left) for s in found], rank=1, right=True),
        Column("where", [s.where for s in found], rank=4, minor=True),
        Column("job", [s.job for s in found], rank=5, minor=True),
        Column("settings", [s.settings for s in found], words=True),
    ]
    return [column for column in columns if any(column.cells)]


def text(found: Sequence[Standing]) -> str:
    """The runs as a table of plain text in its full width, with a count of the states below."""
    return "\n".join([plain(_columns(found)), "", _counts(found)])


def show(found: Sequence[Standing], console: "Console | None") -> None:
    """Prints where the runs stand; console: the terminal, None where the output goes elsewhere."""
    if console is None:
        print(text(found))
    else:
        table, note = draw(_columns(found), console.width)
        console.print(table, f"\n{_counts(found)}", *filter(None, [note]), sep="\n", markup=False)


def watch(look: Callable[[], Sequence[Standing]], seconds: float, console: "Console | None") -> None:
    """Shows where the runs stand until all are done, paused or ended otherwise, or Ctrl-C; a terminal is redrawn in place."""
    if console is None:
        _repeat(look, seconds, lambda found: print(f"{_clock(seconds)}\n\n{text(found)}", flush=True))
        return
    from rich.live import Live

    found: Sequence[Standing] = []

    def draw_again(latest: Sequence[Standing]) -> None:
        nonlocal found
        found = latest
        live.update(_screen(found, seconds, console), refresh=True)

    with Live(console=console, auto_refresh=False, transient=True) as live:
        _repeat(look, seconds, draw_again)
    show(found, console)  # whole, where the screen was too short for it


def _repeat(look: Callable[[], Sequence[Standing]], seconds: float, tell: Callable[[Sequence[Standing]], None]) -> None:
    """Looks and tells until nothing more happens by itself, or Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            found = look()
            tell(found)
            if all(s.has_ended for s in found):
                return
            time.sleep(seconds)


def _clock(seconds: float) -> str:
    return f"{time.strftime('%H:%M:%S')}  every {seconds:g}s, Ctrl-C ends"


def _counts(found: Sequence[Standing]) -> str:
    told = [state_counts(s.state for s in found)]
    if any(s.state == State.PAUSED for s in found):
        from moco.launch.budget import Spent  # which takes its time to load

        told.append(f"{Spent(sum(s.trained for s in found), sum(s.epochs or 0 for s in found))} are trained")
    told += _prospects(found)
    told += filter(None, [clock_note(sum(s.by_own_clock for s in found))])
    told += [f"{s.id} waits at {s.where}" for s in found if s.state == State.PAUSED and s.where and len(found) == 1]
    told += [f"linear evaluation of {s.id} {s.trouble}: see python -m moco logs {s.id}" for s in found if s.trouble]
    return "\n".join(told)


def _prospects(found: Sequence[Standing]) -> list[str]:
    """The best score so far, where all are scored on the same data, and when all will be over, while some run."""
    said = []
    scored = [(s.knn, s) for s in found if s.knn is not None]
    if len(scored) > 1 and not any(word.startswith("data") for s in found for word in s.settings.split()):
        top, best = max(scored, key=lambda pair: pair[0])
        said.append(f"best kNN so far {top:.2f}: {best.settings}" + (f" ({best.state})" * (best.state != State.DONE)))
    if (left := _time_left(found)) is not None:
        halved = any(s.state == State.PAUSED for s in found)
        said.append(f"over in {'at least' if halved else 'about'} {duration(left)}, at the pace of those that run")
    return said


def _time_left(found: Sequence[Standing]) -> float | None:
    """Seconds until the runs are over, if no more run at a time than now; None where nothing is known."""
    running = [s for s in found if s.left is not None and s.epochs and s.epoch]
    slots = sum(s.state in (State.RUNNING, State.STARTING) for s in found)
    training = [s for s in running if s.trained < (s.epochs or 0)]  # the others are in a linear evaluation
    waits = any(s.state in (State.STARTING, State.QUEUED, State.PENDING) for s in found)
    if not running or (waits and not training):
        return None
    # What runs is in its epoch number `epoch`.
    epochs = sum((s.epochs or 0) - (s.epoch or 0) + 1 for s in training)
    pace = sum(s.left or 0.0 for s in training) / max(1, epochs)

    def whole(state: State) -> list[float]:
        return [pace * max(0, (s.epochs or 0) - s.trained) for s in found if s.state == state]

    lefts = [s.left or 0.0 for s in running] + whole(State.STARTING)
    return time_left(lefts, whole(State.QUEUED) + whole(State.PENDING), max(slots, len(lefts)))


def _screen(found: Sequence[Standing], seconds: float, console: "Console") -> "RenderableType":
    """What fits on the screen; if the table is too long for it, the runs where something happens come first.

    The last line is blank: ^C, which the terminal itself writes, must not wrap the line before it.
    """
    from rich.segment import Segment, SegmentLines

    room = console.height - 2
    lines = _lines(found, found, seconds, console)
    if len(lines) > room:
        first = sorted(found, key=_urgency)

        def cut(number: int) -> "list[list[Segment]]":
            rest = state_counts(s.state for s in first[number:])
            return [*_lines(first[:number], found, seconds, console), [Segment(f"... and {rest}")]]

        lines = cut(most(min(len(first), room), lambda number: len(cut(number)) <= room))[:room]
    return SegmentLines([*lines, [Segment(" ")]], new_lines=True)


def _urgency(standing: Standing) -> int:
    """What happens now comes first, then what waits, what went wrong, what is paused, what is done."""
    first = (State.RUNNING, State.STARTING, State.QUEUED, State.PENDING)
    last = (State.PAUSED, State.DONE)
    if standing.state in first:
        return first.index(standing.state)
    return len(first) + (1 + last.index(standing.state) if standing.state in last else 0)


def _lines(
    shown: Sequence[Standing], found: Sequence[Standing], seconds: float, console: "Console"
) -> "list[list[Segment]]":
    """The counts of those that were found and the table of those that are shown below them, line by line."""
    from rich.console import Group
    from rich.text import Text

    table, note = draw(_columns(shown or found[:1]), console.width)
    above = Text("\n".join(filter(None, [_clock(seconds), _counts(found), note, " "])))
    return console.render_lines(Group(above, *[table] * bool(shown)), pad=False)
