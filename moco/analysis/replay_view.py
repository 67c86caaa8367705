"""python -m moco replay: what halving would have done to a finished sweep, in tables and in plain words."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from moco.analysis.formats import cell
from moco.analysis.numbers import is_number
from moco.analysis.replay import Agreement, Replay, agreements, replay
from moco.analysis.replay_answer import answer, notes
from moco.analysis.replay_grid import Grid, grids, possible
from moco.analysis.table import Cell, Row
from moco.launch.halving import Halving
from moco.progress import duration
from moco.runs.run import Run
from moco.terminal import Column, draw, plain

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 40  # configurations that are listed
ASKED = ("halving", "rungs", "at epoch")
WAITING = (*ASKED, "epochs", "share", "seconds", "finished", "best kept", "regret")
ORDERS = (*ASKED, "median share", "highest share", "best kept in", "median regret", "highest regret")
PERCENT = ("share", "median share", "highest share", "best kept in")
RANKS = {
    "median share": 1,
    "median regret": 2,
    "seconds": 3,
    "epochs": 4,
}  # what goes where there is no room, the last first
POINTS = ("regret", "median regret", "highest regret")


class Block(NamedTuple):
    """Lines, and a table below them, which may have no columns."""

    lines: list[str]
    columns: list[Column]


class Shown(NamedTuple):
    """What is shown of a replay: what is left out; tables and words; one row per halving, in numbers."""

    left_out: list[str]
    blocks: list[Block]
    rows: list[Row]


def look(runs: Sequence[Run], halvings: Sequence[Halving]) -> Shown:
    """Replays these halvings on the curves of these runs, those of each data set by themselves.

    Raises:
        UserError: nothing can be compared, or none of the halvings can be replayed.
    """
    found, left_out = grids(runs)
    shown = Shown(left_out, [], [])
    for grid in found:
        chosen, impossible = possible(grid, halvings)
        replays = [replay(grid, halving) for halving in chosen]
        rows = [_row(one) for one in replays]
        shown.left_out.extend(impossible)
        shown.blocks.extend(_blocks(grid, replays, rows))
        shown.rows.extend(rows)
    return shown


def show(blocks: Sequence[Block], console: "Console | None") -> None:
    """Prints the blocks, a blank line between them; console: the terminal, None where the output goes elsewhere."""
    for i, block in enumerate(blocks):
        if i:
            print()
        print("\n".join(block.lines))
        if block.columns and console is None:
            print(plain(block.columns))
        elif block.columns and console:
            table, note = draw(block.columns, console.width)
            console.print(table, *filter(None, [note]), sep="\n", markup=False)


def _row(one: Replay) -> Row:
    """One halving in numbers: seconds; shares in percent of the grid's epochs; regrets in percentage points."""
    waiting, seconds = one.waiting, one.waiting.spent.seconds
    return {
        "data": one.grid.where,
        "halving": one.halving.eta,
        "rungs": one.halving.rungs,
        "at epoch": ", ".join(one.grid.rungs(one.halving)),
        "epochs": waiting.spent.epochs,
        "share": round(one.share(waiting), 2),
        "seconds": None if seconds is None else round(seconds, 2),
        "finished": waiting.finished,
        "best kept": "yes" if waiting.regret == 0 else "no",
        "regret": round(waiting.regret, 4),
        "median share": round(statistics.median(one.shares), 2),
        "highest share": round(one.shares[-1], 2),
        "best kept in": round(one.keeps_best, 2),
        "median regret": round(statistics.median(one.regrets), 4),
        "highest regret": round(one.regrets[-1], 4),
    }


def _blocks(grid: Grid, replays: Sequence[Replay], rows: Sequence[Row]) -> list[Block]:
    ranks = agreements(grid, [one.halving for one in replays])
    orders = f"In {len(replays[0].orders)} random orders, where each goes on as soon as it ranks among the best:"
    return [
        _headline(grid),
        Block(["Where all wait at each rung for the last one:"], _columns(rows, WAITING)),
        Block([orders], _columns(rows, ORDERS)),
        *(_points(one) for one in replays if len(replays) == 1),
        Block(["How kNN at an epoch ranks the configurations, compared with the last epoch:"], _agreements(ranks)),
        Block([*notes(grid, [one.halving for one in replays]), *answer(replays)], []),
    ]


def _headline(grid: Grid) -> Block:
    counts = sorted({len(point.curves) for point in grid.points})
    seeds = "one seed each" if counts == [1] else f"{counts[0]} seeds each"
    if len(counts) > 1:
        seeds = f"{counts[0]} to {counts[-1]} seeds"
    finals = [point.final for point in grid.points if not point.failed]
    took = "" if grid.whole.seconds is None else f", {duration(grid.whole.seconds)} summed over the runs"
    return Block(
        [
            f"{len(grid.points)} configurations on {grid.where}, {seeds}: {grid.whole.epochs} epochs{took}.",
            f"kNN top-1 after the last epoch is {min(finals):.2f} to {max(finals):.2f}; the best is {grid.best.label}.",
            "Share: of the grid's epochs. Regret: how far the best that is trained to the end is below the best, in points.",
        ],
        [],
    )


def _columns(rows: Sequence[Row], names: Sequence[str]) -> list[Column]:
    """Those columns of the rows that hold anything."""
    columns = []
    for name in names:
        cells = [_text(name, row[name]) for row in rows]
        head = "time" if name == "seconds" else name
        columns.append(Column(head, cells, rank=RANKS.get(name, 0), right=cells[0] not in ("yes", "no")))
    return [column for column in columns if any(column.cells)]


def _text(name: str, value: Cell) -> str:
    """A cell as people read it."""
    if not is_number(value):
        return cell(name, value)
    if name == "seconds":
        return duration(value)
    return f"{value:.0f} %" if name in PERCENT else f"{value:.2f}" if name in POINTS else str(value)


def _points(one: Replay) -> Block:
    """The configurations, those that come farthest first."""
    grid, passed, board = one.grid, one.waiting.passed, one.grid.board(one.halving)
    order = sorted(grid.points, key=lambda point: (-passed[point.name], -point.final, point.name))[:SHOWN]
    same = len(grid.epochs) == 1
    ends = [*grid.rungs(one.halving), str(grid.epochs[0]) if same else "end"]
    scores = [
        ["failed"] * len(ends) if point.failed else [f"{score:.2f}" for score in [*board[point.name], point.final]]
        for point in order
    ]
    columns = [
        Column("configuration", [point.label for point in order], words=True),
        *(
            Column(f"epoch {end}" if same else f"at {end}", cells, right=True)
            for end, cells in zip(ends, map(list, zip(*scores)))
        ),
        Column("trained to", [ends[passed[point.name]] for point in order], right=True),
    ]
    which = f"the {SHOWN} that come farthest of {len(grid.points)}" if len(grid.points) > SHOWN else "each"
    return Block([f"kNN top-1 in the grid, and how far halving trains {which} where all wait:"], columns)


def _agreements(found: Sequence[Agreement]) -> list[Column]:
    return [
        Column("epoch", [one.epoch for one in found], right=True),
        Column("Spearman", ["" if one.spearman is None else f"{one.spearman:.2f}" for one in found], right=True),
        Column("configurations", [str(one.number) for one in found], right=True),
        Column("rung of halving", [", ".join(map(str, one.rung_of)) for one in found]),
    ]
