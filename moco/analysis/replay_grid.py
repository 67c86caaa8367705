"""The curves of a sweep that was trained to its end, as a replay of halving needs them."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

from moco.analysis import summary
from moco.analysis.configurations import Configuration, configurations
from moco.analysis.numbers import is_number
from moco.analysis.records import Entry, look, state_counts
from moco.errors import UserError
from moco.io import Json
from moco.launch.halving import FAILED, Halving, means, measured_at, measured_on, scores_at, total_epochs
from moco.protocols import KNN
from moco.runs.run import Run
from moco.runs.state import State

NAMED = 4  # so many runs are named, the rest counted

Rungs: TypeAlias = Callable[[int], Sequence[int]]  # from the epochs of a run to those of its rungs


class Spent(NamedTuple):
    """Epochs of training, and their seconds with evaluations; None where unknown."""

    epochs: int
    seconds: float | None


def total(parts: Iterable[Spent]) -> Spent:
    """The sum; seconds are unknown where those of a part are."""
    listed = list(parts)
    seconds = [part.seconds for part in listed if part.seconds is not None]
    return Spent(sum(part.epochs for part in listed), math.fsum(seconds) if len(seconds) == len(listed) else None)


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        seed: as text.
        epochs: of the whole run.
        lines: of metrics.jsonl, those of the training.
        failed: whether it has failed, at whatever epoch.
    """

    seed: str
    epochs: int
    lines: Sequence[Mapping[str, Json]]
    failed: bool

    @classmethod
    def read(cls, entry: Entry) -> "Curve":
        """That of a finished or failed run; one whose kNN was not finite has failed, whatever came later."""
        lines = [line for line in entry.run.metrics() if "train/loss" in line]
        diverged = any(isinstance(score := line.get(KNN.top1), float) and not math.isfinite(score) for line in lines)
        return cls(str(entry.flat.get("seed")), total_epochs(entry.flat), lines, not entry.result or diverged)

    @property
    def final(self) -> float | None:
        """kNN top-1 after the last epoch, in percent; None where it was not measured."""
        return next(iter(scores_at(self.lines, [self.epochs])), None)

    def spent(self, end: int) -> Spent:
        """What it costs up to that epoch, or up to where it failed."""
        reached = [line for line in self.lines if isinstance(epoch := line.get("epoch"), int) and epoch <= end]
        if not reached:
            return Spent(0, 0.0)
        epoch, seconds = reached[-1]["epoch"], reached[-1].get("seconds")
        assert isinstance(epoch, int)
        return Spent(epoch, seconds if is_number(seconds) else None)


@dataclass(frozen=True)
class Point:
    """A configuration.

    Attributes:
        name: the first of its folders, by which halving orders equals.
        label: the settings that tell it from the others.
        curves: of its seeds.
    """

    name: str
    label: str
    curves: Sequence[Curve]

    @property
    def failed(self) -> bool:
        """Whether a seed has failed, by which the configuration is last everywhere."""
        return any(curve.failed for curve in self.curves)

    def scores(self, rungs: Rungs) -> list[float]:
        """What it is ranked by at these epochs."""
        at = [rungs(curve.epochs) for curve in self.curves]
        return means(
            [scores_at(curve.lines, epochs) for curve, epochs in zip(self.curves, at)], len(at[0]), self.failed
        )

    @cached_property
    def final(self) -> float:
        """kNN top-1 after the last epoch, in percent, the mean over its seeds."""
        return self.scores(lambda epochs: [epochs])[0]

    def stand_ins(self, rungs: Rungs) -> list[tuple[int, int]]:
        """The rungs at which a seed was not measured, with the epoch that stands in: the next that was measured."""
        wanted = [(curve, rungs(curve.epochs)) for curve in self.curves if not curve.failed]
        found = [pair for curve, at in wanted for pair in zip(at, (e for e, _ in measured_at(curve.lines, at)))]
        return [(at, epoch) for at, epoch in found if epoch != at]


@dataclass(frozen=True)
class Grid:
    """The configurations whose kNN is measured on the same images.

    Attributes:
        where: the words for these images.
        on_test: whether they are the test set.
    """

    where: str
    on_test: bool
    points: Sequence[Point]

    @property
    def curves(self) -> list[Curve]:
        return [curve for point in self.points for curve in point.curves]

    @cached_property
    def epochs(self) -> list[int]:
        """The different numbers of epochs that its runs have, rising."""
        return sorted({curve.epochs for curve in self.curves})

    @cached_property
    def whole(self) -> Spent:
        """What the grid has cost."""
        return total(curve.spent(curve.epochs) for curve in self.curves)

    @cached_property
    def best(self) -> Point:
        return best(self.points)

    def board(self, halving: Halving) -> dict[str, list[float]]:
        """The scores of each configuration at all rungs."""
        return {point.name: point.scores(halving.epochs) for point in self.points}

    def rungs(self, halving: Halving) -> list[str]:
        """The rungs as people read them: epochs, or shares of the epochs where runs have different numbers of them."""
        if len(self.epochs) == 1:
            return [str(epoch) for epoch in halving.epochs(self.epochs[0])]
        return [f"1/{halving.eta ** (halving.rungs - i)}" for i in range(halving.rungs)]

    def why_not(self, halving: Halving) -> str:
        """Why this halving cannot be replayed; empty where it can."""
        shortest = self.epochs[0]
        if shortest < halving.eta**halving.rungs:
            return f"epochs={shortest} leaves no epoch before a rung"
        ends = {curve.epochs for curve in self.curves}
        late = sum(any(epoch in ends for _, epoch in point.stand_ins(halving.epochs)) for point in self.points)
        if late:
            return f"{late} of {len(self.points)} configurations have no kNN between a rung and the last epoch (eval_every)"
        return ""


def best(points: Sequence[Point]) -> Point:
    """The one with the highest final kNN, the first by name of equals."""
    return min(points, key=lambda point: (-point.final, point.name))


def grids(runs: Sequence[Run]) -> tuple[list[Grid], list[str]]:
    """What can be replayed of these runs, and a line for each thing that is left out or counts as last.

    Raises:
        UserError: nothing has finished, or there are no two configurations to compare.
    """
    entries, states = look(runs)
    notes = [f"left out: {entry.problem}" for entry in entries if entry.problem]
    readable = [(entry, state) for entry, state in zip(entries, states) if not entry.problem]
    others = [state for _, state in readable if state not in (State.DONE, *FAILED)]
    if others:
        notes.append(f"left out: {state_counts(others)} (python -m moco status names them)")
    if State.PAUSED in others:
        notes.append("paused points have no last epoch to compare: the same command without halving trains them on")
    curves = {entry.run: Curve.read(entry) for entry, state in readable if state in (State.DONE, *FAILED)}
    if without := [run.id for run, curve in curves.items() if not curve.failed and curve.final is None]:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        notes.append(f"left out, as metrics.jsonl lacks kNN of the last epoch: {', '.join(without[:NAMED])}{more}")
    kept = [entry for entry, _ in readable if entry.run in curves and entry.run.id not in without]
    if failed := sum(curves[entry.run].failed for entry in kept):
        notes.append(f"{failed} of {len(kept)} runs failed: their configurations count as last")
    known = f" ({state_counts(states)})"
    if failed == len(kept):
        raise UserError(
            f"none of these runs has finished with a kNN{known}: a replay needs runs that are trained to the end"
        )
    found, alone = _grids(configurations(kept), curves)
    if not found:
        more = ", or train the paused points on (the same command without halving)" if State.PAUSED in others else ""
        raise UserError(
            f"a replay compares configurations, as seeds of one rise together, and there are no two that have finished{known}: "
            f"name a sweep over more{more}"
        )
    return found, [*notes, *alone]


def _grids(found: Sequence[Configuration], curves: Mapping[Run, Curve]) -> tuple[list[Grid], list[str]]:
    """The configurations by the images that they are scored on, and a line for each that has none to be compared with."""
    groups: dict[object, list[Configuration]] = {}
    for configuration in found:
        groups.setdefault(measured_on(configuration.flat), []).append(configuration)
    made, alone = list[Grid](), list[str]()
    for group in groups.values():
        flat = group[0].flat
        where, on_test = summary.measured_on(flat), not flat.get("data.validation")
        points = [
            Point(min(e.run.folder.name for e in c.entries), c.label, [curves[e.run] for e in c.entries]) for c in group
        ]
        if len(points) > 1 and not all(point.failed for point in points):
            made.append(Grid(where, on_test, points))
        else:
            alone.append(f"left out: {points[0].label}, as nothing else has finished on {where}")
    return made, alone


def possible(grid: Grid, halvings: Collection[Halving]) -> tuple[list[Halving], list[str]]:
    """Those of the halvings that can be replayed, and a line for each reason why others cannot.

    Raises:
        UserError: none can.
    """
    reasons: dict[str, list[Halving]] = {}
    for halving in halvings:
        reasons.setdefault(grid.why_not(halving), []).append(halving)
    fine = reasons.pop("", [])
    said = [f"{why}, so there is no replay of {', '.join(map(str, unfit))}" for why, unfit in reasons.items()]
    if not fine:
        raise UserError(f"{'; '.join(said)}: give a smaller --halving or fewer --rungs")
    return fine, said
