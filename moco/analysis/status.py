"""python -m moco status: where each run stands, read off the disk and off SLURM's queue where there is one."""

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moco.analysis.numbers import is_number
from moco.analysis.records import Entry, clock_note, placed, read, state_counts, states
from moco.analysis.terminal import GAP, Column, draw
from moco.io import Json
from moco.launch import slurm_client as slurm
from moco.protocols import KNN, LINEAR, LINEAR_CACHED
from moco.runs.lease import Holder
from moco.runs.run import Run
from moco.runs.settings import describe
from moco.runs.state import State
from moco.runs.sweep import Sweep
from moco.training.progress import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.segment import Segment

STYLES = {State.DONE: "green", State.RUNNING: "cyan", State.QUEUED: "yellow", State.STOPPED: "yellow"}
STYLES |= {State.PAUSED: "bright_yellow", State.PENDING: "dim"}
TROUBLE = "red"  # the style of all other states


@dataclass(frozen=True)
class Standing:
    """Where one run stands; None and "" for what is unknown.

    Attributes:
        settings: those in which the runs differ; of a damaged folder what is wrong with it.
        epoch: the last one that is complete, or the one that runs.
        loss: of the training, at last.
        knn, linear: top-1 in percent.
        left: seconds to the end of the training.
        where: the machine with its device, or why the queue lets the run wait, or why it is paused.
        job: its id in the queue.
        trouble: how the last linear evaluation of a finished run ended, if not well.
        by_own_clock: whether only this machine's clock tells if it runs, elsewhere.
        undecided: whether it is paused, and its sweep's launcher or SLURM's job may yet let it go on by itself.
    """

    id: str
    state: State
    settings: str
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    knn: float | None = None
    linear: float | None = None
    left: float | None = None
    where: str = ""
    job: str = ""
    trouble: str = ""
    by_own_clock: bool = False
    undecided: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself, as far as can be told from here."""
        return self.state.is_finished and not self.by_own_clock and not self.undecided


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Where these runs stand, in their order."""
    entries = [read(run) for run in runs]
    varied = iter(describe([entry.flat for entry in entries if not entry.problem]))
    queue = slurm.queued(runs)
    found = []

    @functools.cache  # for all paused runs of a sweep
    def decides(runs_dir: Path, sweep: str) -> bool:
        return _decides(Sweep(runs_dir, sweep), queue)

    for entry, state in zip(entries, states(runs, queue)):
        settings = entry.problem or next(varied) or entry.run.folder.name
        damaged = entry.problem or state == State.DAMAGED
        unknown = Standing(entry.run.id, State.DAMAGED, settings)
        found.append(unknown if damaged else _standing(placed(entry, state), state, settings, queue, decides))
    return found


def _decides(sweep: Sweep, queue: Collection[str]) -> bool:
    """Whether somebody is at work who may let paused runs of the sweep go on: a launcher here, or SLURM's job for it."""
    if sweep.launchers():
        return True
    if not queue:
        return False
    from moco.launch import promotion  # which takes its time to load

    return any(job in queue for job in promotion.noted(sweep))


def _standing(
    entry: Entry,
    state: State,
    settings: str,
    queue: "Mapping[str, slurm.QueueEntry]",
    decides: Callable[[Path, str], bool],
) -> Standing:
    run = entry.run
    holder, job, last = run.holder(), run.job(), run.last_metrics()
    running = state == State.RUNNING
    progress: Mapping[str, Json] = dict(holder.progress) if holder and running else {}
    waiting = queue.get(job.job) if job and not slurm.is_over(run) else None
    return Standing(
        id=run.id,
        state=state,
        settings=settings,
        epoch=_whole(progress.get("epoch")) or _whole(last.get("epoch")),
        epochs=_whole(entry.flat.get("epochs")),
        loss=_number(progress.get("loss") if running else last.get("train/loss")),
        knn=_number(last.get(KNN.top1)),
        linear=_number(last.get(LINEAR.top1, last.get(LINEAR_CACHED.top1))),
        left=_number(progress.get("left")),
        where=_where(holder, waiting) if holder and running else _why(entry, waiting),
        job=job.job if job else "",
        trouble=_trouble(run) if state == State.DONE and holder and holder.what == "linear_eval" else "",
        by_own_clock=state in (State.RUNNING, State.KILLED) and run.by_own_clock,
        undecided=bool(entry.rung and holder and (sweep := holder.place.sweep) and decides(run.folder.parent, sweep)),
    )


def _trouble(run: Run) -> str:
    """How the last attempt ended, if not well."""
    attempt = run.attempt()
    return "" if attempt in (State.DONE, State.RUNNING) else attempt


def _where(holder: Holder, waiting: "slurm.QueueEntry | None") -> str:
    """The node with the device or slot."""
    node = waiting.node if waiting and waiting.node else holder.host
    place = holder.place
    device = f"gpu {place.visible}" if place.visible else place.slot or holder.device
    return f"{node}:{device}" if device else node


def _why(entry: Entry, waiting: "slurm.QueueEntry | None") -> str:
    """Why the run is paused, or why the queue lets it wait."""
    return entry.rung.why if entry.rung else waiting.reason if waiting else ""


def _number(value: object) -> float | None:
    return value if is_number(value) else None


def _whole(value: object) -> int | None:
    return int(value) if is_number(value) else None


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
    columns = _columns(found)
    widths = [column.natural for column in columns]
    lines = [[column.name for column in columns], *zip(*(column.cells for column in columns))]
    gap = " " * GAP
    padded = [gap.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([*padded, "", _counts(found)])


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
    told += filter(None, [clock_note(sum(s.by_own_clock for s in found))])
    told += [f"{s.id} waits at {s.where}" for s in found if s.state == State.PAUSED and s.where and len(found) == 1]
    told += [f"linear evaluation of {s.id} {s.trouble}: see python -m moco logs {s.id}" for s in found if s.trouble]
    return "\n".join(told)


def _screen(found: Sequence[Standing], seconds: float, console: "Console") -> "RenderableType":
    """What fits on the screen; if the table is too long for it, the runs where something happens come first.

    The last line is blank: ^C, which the terminal itself writes, must not wrap the line before it.
    """
    from rich.segment import Segment, SegmentLines

    room = console.height - 2
    lines = _lines(found, seconds, console)
    if len(lines) > room:
        first = sorted(found, key=_urgency)
        lines = [*_lines(first, seconds, console)[: room - 1], [Segment("...")]]
    return SegmentLines([*lines, [Segment(" ")]], new_lines=True)


def _urgency(standing: Standing) -> int:
    """What happens now comes first, then what waits, what went wrong, what is paused, what is done."""
    last = (State.PENDING, State.PAUSED, State.DONE)
    if standing.state in last:
        return (2, 4, 5)[last.index(standing.state)]
    return 3 if standing.state.is_finished else 1


def _lines(found: Sequence[Standing], seconds: float, console: "Console") -> "list[list[Segment]]":
    """The counts and the table below them, line by line."""
    from rich.console import Group
    from rich.text import Text

    table, note = draw(_columns(found), console.width)
    above = Text("\n".join(filter(None, [_clock(seconds), _counts(found), note, " "])))
    return console.render_lines(Group(above, table), pad=False)
