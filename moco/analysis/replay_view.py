"""A replay of halving in tables and in plain words: is early stopping safe for this question?"""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from moco.analysis.replay import Agreement, Outcome, Replay
from moco.analysis.replay_grid import Grid, Point
from moco.analysis.statistics import not_told_apart
from moco.analysis.table import Row
from moco.analysis.terminal import Column, draw, plain
from moco.launch.halving import Halving
from moco.training.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 40  # configurations that are listed

Block: TypeAlias = str | list[Column]


def show(blocks: Sequence[Block], console: "Console | None") -> None:
    """Prints the blocks with a blank line between them; console: the terminal, None where the output goes elsewhere."""
    for i, block in enumerate(blocks):
        if i:
            print()
        if isinstance(block, str):
            print(block)
        elif console is None:
            print(plain(block))
        else:
            table, note = draw(block, console.width)
            console.print(table, *filter(None, [note]), sep="\n", markup=False)


def blocks(grid: Grid, replays: Sequence[Replay], agreements: Sequence[Agreement]) -> list[Block]:
    """What is shown of one grid."""
    halvings = [replay.halving for replay in replays]
    found: list[Block] = [
        _headline(grid),
        "Where all wait at each rung for the last one:",
        _waiting(replays),
        f"In {len(replays[0].orders)} random orders of arrival, where each goes on as soon as it ranks among the best:",
        _orders(replays),
    ]
    if len(replays) == 1:
        found += ["How far each is trained where all wait, and its kNN top-1 in the grid:", *_points(replays[0])]
    found += [
        "How kNN ranks the configurations at an epoch, compared with the last one (Spearman's rank correlation):",
        _agreements(agreements),
        "\n".join([*_notes(grid, halvings), *answer(replays)]),
    ]
    return found


def rows(grid: Grid, replays: Sequence[Replay]) -> list[Row]:
    """One row for each halving, with numbers; percentages are of the grid's epochs, or of the random orders."""
    found: list[Row] = []
    for replay in replays:
        waiting = replay.waiting
        seconds = waiting.spent.seconds
        found.append(
            {
                "data": grid.where,
                "halving": replay.halving.eta,
                "rungs": replay.halving.rungs,
                "at epoch": ", ".join(rungs(grid, replay.halving)),
                "epochs": waiting.spent.epochs,
                "share": round(replay.share(waiting), 1),
                "seconds": None if seconds is None else round(seconds, 1),
                "finished": waiting.finished,
                "best kept": waiting.regret == 0,
                "regret": round(waiting.regret, 2),
                "median share": round(statistics.median(replay.shares), 1),
                "highest share": round(replay.shares[-1], 1),
                "best kept in": round(replay.keeps_best, 1),
                "median regret": round(statistics.median(replay.regrets), 2),
                "highest regret": round(replay.regrets[-1], 2),
            }
        )
    return found


def rungs(grid: Grid, halving: Halving) -> list[str]:
    """The rungs as people read them: epochs, or shares of the epochs where runs have different numbers of them."""
    if len(grid.epochs) == 1:
        return [str(epoch) for epoch in halving.epochs(grid.epochs[0])]
    return [f"1/{halving.eta ** (halving.rungs - i)}" for i in range(halving.rungs)]


def _headline(grid: Grid) -> str:
    counts = sorted({len(point.curves) for point in grid.points})
    seeds = f"{counts[0]} seeds each" if counts[0] > 1 else "one seed each"
    if len(counts) > 1:
        seeds = f"{counts[0]} to {counts[-1]} seeds"
    finals = [point.final for point in grid.points if not point.failed]
    whole = grid.whole
    took = "" if whole.seconds is None else f" in {duration(whole.seconds)}"
    return (
        f"{len(grid.points)} configurations on {grid.where}, {seeds}: {whole.epochs} epochs{took}.\n"
        f"kNN top-1 after the last epoch is {min(finals):.2f} to {max(finals):.2f}; the best is {grid.best.label}."
    )


def _number(name: str, cells: Sequence[str], rank: int = 0) -> Column:
    return Column(name, cells, rank, right=True)


def _asked(replays: Sequence[Replay]) -> list[Column]:
    """What tells the halvings apart."""
    return [
        _number("halving", [str(replay.halving.eta) for replay in replays]),
        _number("rungs", [str(replay.halving.rungs) for replay in replays]),
        _number("at epoch", [", ".join(rungs(replay.grid, replay.halving)) for replay in replays]),
    ]


def _waiting(replays: Sequence[Replay]) -> list[Column]:
    outcomes = [replay.waiting for replay in replays]
    times = ["" if o.spent.seconds is None else duration(o.spent.seconds) for o in outcomes]
    columns = [
        *_asked(replays),
        _number("epochs", [str(outcome.spent.epochs) for outcome in outcomes], 2),
        _number("share", [f"{replay.share(replay.waiting):.0f} %" for replay in replays]),
        _number("time", times, 1),
        _number("finished", [f"{outcome.finished} of {len(outcome.passed)}" for outcome in outcomes]),
        Column("best kept", ["yes" if outcome.regret == 0 else "no" for outcome in outcomes]),
        _number("regret", [f"{outcome.regret:.2f}" for outcome in outcomes]),
    ]
    return [column for column in columns if any(column.cells)]


def _orders(replays: Sequence[Replay]) -> list[Column]:
    return [
        *_asked(replays),
        _number("median share", [f"{statistics.median(replay.shares):.0f} %" for replay in replays]),
        _number("highest share", [f"{replay.shares[-1]:.0f} %" for replay in replays]),
        _number("best kept in", [f"{replay.keeps_best:.0f} %" for replay in replays]),
        _number("median regret", [f"{statistics.median(replay.regrets):.2f}" for replay in replays]),
        _number("highest regret", [f"{replay.regrets[-1]:.2f}" for replay in replays]),
    ]


def _points(replay: Replay) -> list[Block]:
    """The configurations, those that come farthest first."""
    grid, passed = replay.grid, replay.waiting.passed
    ends = [*rungs(grid, replay.halving), "end" if len(grid.epochs) > 1 else str(grid.epochs[0])]
    order = sorted(grid.points, key=lambda point: (-passed[point.name], -point.final, point.name))
    board = grid.board(replay.halving)
    scores = [["failed"] * len(ends) if p.failed else [f"{s:.2f}" for s in [*board[p.name], p.final]] for p in order]
    columns = [
        Column("configuration", [point.label for point in order[:SHOWN]], words=True),
        *(
            _number(f"at {end}" if "/" in end or end == "end" else f"epoch {end}", [s[i] for s in scores[:SHOWN]])
            for i, end in enumerate(ends)
        ),
        _number("trained to", [ends[passed[point.name]] for point in order[:SHOWN]]),
    ]
    return [columns, *([f"... and {len(order) - SHOWN} more"] if len(order) > SHOWN else [])]


def _agreements(found: Sequence[Agreement]) -> list[Column]:
    columns = [
        _number("epoch", [one.epoch for one in found]),
        _number("correlation", ["" if one.spearman is None else f"{one.spearman:.2f}" for one in found]),
        _number("configurations", [str(one.number) for one in found]),
        Column("rung of halving", [", ".join(map(str, one.rung_of)) for one in found]),
    ]
    return columns


def _notes(grid: Grid, halvings: Sequence[Halving]) -> list[str]:
    """What the numbers rest on."""
    said = []
    pairs = sorted({pair for halving in halvings for point in grid.points for pair in point.stand_ins(halving.epochs)})
    if pairs:
        shown = ", ".join(f"that of epoch {epoch} for {at}" for at, epoch in pairs)
        lacking = sum(any(point.stand_ins(halving.epochs) for halving in halvings) for point in grid.points)
        said.append(
            f"{lacking} of {len(grid.points)} configurations were not scored at every rung (eval_every), and their next kNN stands "
            f"in: {shown}."
        )
    if len(grid.epochs) > 1:
        said.append("Runs have different numbers of epochs, so rungs are shares of each one's own.")
    if grid.on_test:
        said.append(
            "kNN was measured on the test set, so what is chosen by it looks a little too good: data.validation=0.1 chooses on "
            "held-out training images."
        )
    return said


def answer(replays: Sequence[Replay]) -> list[str]:
    """Whether early stopping is safe for this question, in plain words."""
    question = "Is early stopping safe for this question?"
    grid = replays[0].grid
    if len(replays) == 1:
        return [f"{question} {line}" if i == 0 else line for i, line in enumerate(_one(replays[0]))]
    safe = [replay for replay in replays if replay.waiting.regret == 0]
    if safe:
        chosen = min(safe, key=lambda replay: replay.share(replay.waiting))
        which = "all of these" if len(safe) == len(replays) else f"{len(safe)} of these {len(replays)}"
        return [
            f"{question} For {which}: the best of the grid, {grid.best.label}, is trained to the end.",
            f"The cheapest of them is {_words(chosen.halving)}: {_cost(chosen)}.",
        ]
    chosen = min(replays, key=lambda replay: (replay.waiting.regret, replay.share(replay.waiting)))
    lines = [
        f"{question} No: none of these trains the best of the grid, {grid.best.label}, to the end.",
        f"The least regret, {chosen.waiting.regret:.2f} points, is that of {_words(chosen.halving)}: {_cost(chosen)}.",
    ]
    return [*lines, *_chance(grid, chosen.waiting)]


def _one(replay: Replay) -> list[str]:
    grid, waiting, best = replay.grid, replay.waiting, replay.grid.best
    costs = f"It takes {_cost(replay)}."
    if waiting.regret == 0:
        return [f"Yes: the best by halving, {waiting.best.label}, is the best of the grid of {len(grid.points)}.", costs]
    rung = waiting.passed[best.name]
    scores = sorted((board[rung] for board in grid.board(replay.halving).values()), reverse=True)
    rank = scores.index(grid.board(replay.halving)[best.name][rung]) + 1
    at = rungs(grid, replay.halving)[rung]
    where = f"epoch {at}" if len(grid.epochs) == 1 else f"{at} of its epochs"
    lines = [
        f"No: the best of the grid, {best.label}, is paused at {where}, where it has rank {rank} of {len(grid.points)}.",
        f"The best by halving, {waiting.best.label}, is {waiting.regret:.2f} points below it: {waiting.best.final:.2f} instead of "
        f"{best.final:.2f}.",
    ]
    random = f"In {replay.keeps_best:.0f} % of the random orders the best is kept, and the median regret is "
    lines.append(f"{random}{statistics.median(replay.regrets):.2f}.")
    return [*lines, *_chance(grid, waiting), costs]


def _words(halving: Halving) -> str:
    return f"halving={halving.eta} rungs={halving.rungs}"


def _cost(replay: Replay) -> str:
    low, high = replay.shares[0], replay.shares[-1]
    return (
        f"{replay.share(replay.waiting):.0f} % of the grid's epochs where all wait, {low:.0f} to {high:.0f} % in random orders"
    )


def _chance(grid: Grid, outcome: Outcome) -> list[str]:
    """Whether the regret may be chance."""
    points: list[Point] = [point for point in grid.points if not point.failed]
    seeds = [{c.seed: c.final for c in point.curves if c.final is not None} for point in points]
    if all(len(one) == 1 for one in seeds):
        return ["With one seed each, a difference of that size may be chance."]
    if points.index(outcome.best) in not_told_apart(seeds):
        return ["Seeds do not tell the two apart."]
    return ["Seeds tell the two apart."]
