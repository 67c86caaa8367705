"""A replay of halving in plain words: is early stopping safe for this question, and what the answer rests on."""

import statistics
from collections.abc import Collection, Sequence

from moco.analysis.replay import Outcome, Replay
from moco.analysis.replay_grid import Grid
from moco.analysis.statistics import not_told_apart
from moco.launch.halving import Halving

QUESTION = "Is early stopping safe for this question?"


def notes(grid: Grid, halvings: Collection[Halving]) -> list[str]:
    """What the numbers rest on."""
    said = []
    pairs = {point.name: {p for h in halvings for p in point.stand_ins(h.epochs)} for point in grid.points}
    if lacking := sum(map(bool, pairs.values())):
        shown = ", ".join(f"epoch {epoch} for {at}" for at, epoch in sorted(set().union(*pairs.values())))
        said.append(
            f"{lacking} of {len(grid.points)} configurations lack kNN at a rung (eval_every), and their next one stands in: "
            f"{shown}."
        )
    if len(grid.epochs) > 1:
        said.append("The runs have different numbers of epochs, and rungs are shares of each one's own.")
    if grid.on_test:
        said.append(
            "kNN was measured on the test set, so what is chosen by it looks a little too good: data.validation=0.1 chooses on "
            "held-out training images."
        )
    return said


def answer(replays: Sequence[Replay]) -> list[str]:
    """Whether a best configuration of the grid is trained to the end, and for how much."""
    return _of_one(replays[0]) if len(replays) == 1 else _of_several(replays)


def _of_several(replays: Sequence[Replay]) -> list[str]:
    """Which of the halvings to choose."""
    grid = replays[0].grid
    safe = [one for one in replays if one.waiting.regret == 0]
    if safe:
        chosen = min(safe, key=lambda one: one.share(one.waiting))
        which = "each of these" if len(safe) == len(replays) else f"{len(safe)} of these {len(replays)}"
        return [
            f"{QUESTION} Yes, with {which}: the best of the grid, {grid.best.label}, is trained to the end in whatever order "
            "the points come.",
            f"The cheapest is {chosen.halving}, which takes {_cost(chosen)}.",
        ]
    chosen = min(replays, key=lambda one: (one.waiting.regret, one.share(one.waiting)))
    return [
        f"{QUESTION} No: where all wait, none of these trains the best of the grid, {grid.best.label}, to the end.",
        f"The least regret, {chosen.waiting.regret:.2f} points, is that of {chosen.halving}, which takes {_cost(chosen)}.",
        *_chance(grid, chosen.waiting),
    ]


def _of_one(replay: Replay) -> list[str]:
    """Whether this halving is safe, and if it is not, where it went wrong."""
    grid, kept, best = replay.grid, replay.waiting.best, replay.grid.best
    cost = f"It takes {_cost(replay)}."
    if replay.waiting.regret == 0:
        found = f"the best by halving, {kept.label}, is the best of the grid of {len(grid.points)}"
        return [f"{QUESTION} Yes: {found}, in whatever order the points come.", cost]
    return [
        f"{QUESTION} No: the best of the grid, {best.label}, is paused {_place(replay)}.",
        f"The best by halving, {kept.label}, is {replay.waiting.regret:.2f} points below it: {kept.final:.2f} instead of "
        f"{best.final:.2f}.",
        f"The best is trained to the end in {replay.keeps_best:.0f} % of the random orders; their median regret is "
        f"{statistics.median(replay.regrets):.2f} points.",
        *_chance(grid, replay.waiting),
        cost,
    ]


def _place(replay: Replay) -> str:
    """Where the best of the grid is paused, and the rank that it has there."""
    grid, name, passed = replay.grid, replay.grid.best.name, replay.waiting.passed
    rung = passed[name]
    scores = {other: board[rung] for other, board in grid.board(replay.halving).items() if passed[other] >= rung}
    rank = 1 + sum(score > scores[name] for score in scores.values())
    at = grid.rungs(replay.halving)[rung]
    where = f"at epoch {at}" if len(grid.epochs) == 1 else f"at {at} of its epochs"
    return f"{where}, where it has rank {rank} of {len(scores)}"


def _cost(replay: Replay) -> str:
    waiting, low, high = replay.share(replay.waiting), replay.shares[0], replay.shares[-1]
    return f"{waiting:.0f} % of the grid's epochs where all wait, and {low:.0f} to {high:.0f} % in random orders"


def _chance(grid: Grid, outcome: Outcome) -> list[str]:
    """Whether the regret may be chance."""
    points = [point for point in grid.points if not point.failed]
    seeds = [{c.seed: c.final for c in point.curves if c.final is not None} for point in points]
    if all(len(one) == 1 for one in seeds):
        return ["With one seed each, a difference of that size may be chance."]
    close = points.index(outcome.best) in not_told_apart(seeds)
    return ["Seeds do not tell the two apart." if close else "Seeds tell the two apart."]
