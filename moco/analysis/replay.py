"""What successive halving would have done to a sweep that was trained to its end. Imports no torch.

Ranks and decisions are those of moco.launch.halving, so that a replay and a halved sweep cannot differ.
"""

import random
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from moco.analysis.replay_grid import Grid, Point, Spent, best, total
from moco.analysis.statistics import rank_correlation
from moco.launch.halving import Board, Halving, going_on, measured_at, synchronous
from moco.protocols import KNN

ORDERS = 200  # random orders of arrival
MANY = 100  # of more configurations than that fewer orders are tried, as each takes longer
FEWEST = 10
ROWS = 12  # epochs beside the rungs whose ranks are compared with the last one's


class Outcome(NamedTuple):
    """What halving leads to in one order of arrival.

    Attributes:
        passed: how many rungs each configuration passes, by name; those that pass all are trained to the end.
        finished: how many these are.
        best: the best of those, by its final kNN.
        regret: by how much its final kNN is below that of the grid's best, in percentage points.
    """

    passed: Mapping[str, int]
    spent: Spent
    finished: int
    best: Point
    regret: float


class Replay(NamedTuple):
    """One halving of a grid.

    Attributes:
        waiting: where all wait at each rung for the last one.
        orders: asynchronous, in random orders.
    """

    grid: Grid
    halving: Halving
    waiting: Outcome
    orders: Sequence[Outcome]

    def share(self, outcome: Outcome) -> float:
        """Its epochs in percent of the grid's."""
        return 100 * outcome.spent.epochs / self.grid.whole.epochs

    @property
    def shares(self) -> list[float]:
        """Of the random orders, rising."""
        return sorted(map(self.share, self.orders))

    @property
    def regrets(self) -> list[float]:
        """Of the random orders, rising."""
        return sorted(outcome.regret for outcome in self.orders)

    @property
    def keeps_best(self) -> float:
        """The percentage of the random orders in which the grid's best is trained to the end."""
        return 100 * statistics.fmean(regret == 0 for regret in self.regrets)


def replay(grid: Grid, halving: Halving) -> Replay:
    """What this halving would have done to the grid."""
    board, generator = grid.board(halving), random.Random(0)
    number = max(FEWEST, round(ORDERS * min(1.0, MANY / len(board)) ** 2))
    orders = [_outcome(grid, halving, arrive(board, halving, generator)) for _ in range(number)]
    return Replay(grid, halving, _outcome(grid, halving, wait(board, halving)), orders)


def wait(board: Board, halving: Halving) -> dict[str, int]:
    """How many rungs each configuration passes where all wait at each rung for the last one."""
    through = [synchronous(board, halving.eta, rung) for rung in range(halving.rungs)]
    return {name: sum(name in names for names in through) for name in board}


def arrive(board: Board, halving: Halving, generator: random.Random) -> dict[str, int]:
    """How many rungs each configuration passes where they come to the rungs in a random order.

    As many as there are slots run at a time, anything from one to all of them, and a random one of these is the next to reach
    its rung. What goes on keeps its slot. A free slot takes fresh ones first, then paused ones that rank among the best by
    then, as on one machine.
    """
    slots, fresh = generator.randint(1, len(board)), sorted(board)
    generator.shuffle(fresh)
    running, paused, passed = list[str](), list[str](), dict.fromkeys(board, 0)
    seen: dict[str, Sequence[float]] = dict.fromkeys(board, ())
    while True:
        while fresh and len(running) < slots:
            running.append(fresh.pop())
        if paused and len(running) < slots:
            going = {rung: going_on(seen, halving.eta, rung) for rung in {passed[name] for name in paused}}
            rising = [name for name in paused if name in going[passed[name]]][: slots - len(running)]
            passed |= {name: passed[name] + 1 for name in rising}
            paused, running = [name for name in paused if name not in rising], [*running, *rising]
        if not running:
            return passed
        name = running.pop(generator.randrange(len(running)))
        if (rung := passed[name]) == halving.rungs:
            continue  # it has come to its end
        seen[name] = board[name][: rung + 1]
        if name in going_on(seen, halving.eta, rung):
            passed[name] += 1
            running.append(name)
        else:
            paused.append(name)


def _outcome(grid: Grid, halving: Halving, passed: Mapping[str, int]) -> Outcome:
    spent = total(
        curve.spent([*halving.epochs(curve.epochs), curve.epochs][passed[point.name]])
        for point in grid.points
        for curve in point.curves
    )
    finished = [point for point in grid.points if passed[point.name] == halving.rungs]
    kept = best(finished)
    return Outcome(passed, spent, len(finished), kept, grid.best.final - kept.final)


class Agreement(NamedTuple):
    """How the ranks of the configurations at an epoch agree with those at the end.

    Attributes:
        epoch: as people read it; a share of the epochs where runs have different numbers of them.
        spearman: the rank correlation; None where it says nothing.
        number: of configurations, those that were measured there and have not failed.
        rung_of: the halvings (eta) that have a rung there.
    """

    epoch: str
    spearman: float | None
    number: int
    rung_of: Sequence[int]


def agreements(grid: Grid, halvings: Collection[Halving]) -> list[Agreement]:
    """How the ranks agree with those at the end: at the rungs and, where all runs are as long, at the epochs between them."""
    if len(grid.epochs) > 1:
        parts: dict[int, set[int]] = {}
        rungs: dict[int, Callable[[int], int]] = {}
        for halving in halvings:
            for i in range(halving.rungs):
                part = halving.eta ** (halving.rungs - i)
                parts.setdefault(part, set()).add(halving.eta)
                rungs[part] = _rung(halving, i)
        return [_agreement(grid, f"1/{part}", rungs[part], sorted(parts[part])) for part in sorted(parts, reverse=True)]
    last, at = grid.epochs[0], dict[int, set[int]]()
    for halving in halvings:
        for epoch in halving.epochs(last):
            at.setdefault(epoch, set()).add(halving.eta)
    return [
        _agreement(grid, str(epoch), _fixed(epoch), sorted(at.get(epoch, ()))) for epoch in sorted({*at, *_some(grid)})
    ]


def _rung(halving: Halving, i: int) -> Callable[[int], int]:
    return lambda epochs: halving.epochs(epochs)[i]


def _fixed(epoch: int) -> Callable[[int], int]:
    return lambda epochs: epoch


def _some(grid: Grid) -> set[int]:
    """Some of the epochs before the last at which kNN was measured, evenly spread."""
    lines = [line for curve in grid.curves for line in curve.lines if KNN.top1 in line]
    epochs = sorted({epoch for line in lines if isinstance(epoch := line.get("epoch"), int)} - {*grid.epochs})
    if len(epochs) <= ROWS:
        return set(epochs)
    return {epochs[round(i * (len(epochs) - 1) / (ROWS - 1))] for i in range(ROWS)}


def _agreement(grid: Grid, label: str, at: Callable[[int], int], rung_of: Sequence[int]) -> Agreement:
    """At one epoch; at a rung the next evaluation stands in for one that is not there, as it does in halving."""
    pairs = []
    for point in grid.points:
        epochs = [(at(curve.epochs), measured_at(curve.lines, [at(curve.epochs)])) for curve in point.curves]
        there = all(found and (rung_of or found[0][0] == epoch) for epoch, found in epochs)
        if there and not point.failed:
            pairs.append((point.scores(lambda epochs: [at(epochs)])[0], point.final))
    return Agreement(label, rank_correlation(pairs), len(pairs), rung_of)
