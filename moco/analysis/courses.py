"""Learning curves over seeds: what is drawn of each configuration, mean and deviation where all its seeds have a value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from moco.analysis.charts import coloured
from moco.analysis.configurations import Configuration, in_order
from moco.analysis.numbers import is_number
from moco.analysis.statistics import spread
from moco.io import Json

GREY = 300  # so many grey curves are drawn
POINTS, GREY_POINTS = 200, 30  # of a curve

Points: TypeAlias = list[tuple[float, float]]  # epochs and values
Curve: TypeAlias = tuple[list[float], list[float]]  # the same apart


class Course(NamedTuple):
    """The lines of a run's metrics, and whether it is paused where they end."""

    lines: list[dict[str, Json]]
    paused: bool


class Learning(NamedTuple):
    """What is drawn of a configuration's runs."""

    label: str
    colour: int | None  # None for grey
    runs: list[Course]


@dataclass(frozen=True)
class Drawn:
    """A metric of a configuration over the epochs.

    Attributes:
        seeds: the curve of each seed that has one; of many seeds or one.
        mean: over the seeds, at the epochs that all of them have; of one seed its own curve.
        deviation: the sample standard deviation there; None for one seed.
        tails: how seeds go on that have epochs which others lack; each begins where the mean ends.
        paused: where seeds are paused; once, on the mean, for all that are paused where it ends.
    """

    seeds: list[Curve]
    mean: Curve
    deviation: list[float] | None
    tails: list[Curve]
    paused: Points


def learning(found: Sequence[Configuration]) -> list[Learning]:
    """The configurations by kNN, unfinished ones last; of the grey ones at most about GREY, spread over the ranking."""
    drawn = coloured(in_order(found))
    dull = [c for c, colour in drawn if colour is None]
    kept = {id(c) for c in dull[:: -(-len(dull) // GREY) or 1]}
    return [
        Learning(c.label, n, [Course(e.run.metrics(), bool(e.rung)) for e in c.entries])
        for c, n in drawn
        if n is not None or id(c) in kept
    ]


def course(one: Learning, metric: str) -> Drawn | None:
    """What is drawn of a metric; None where no seed has it."""
    most = GREY_POINTS if one.colour is None else POINTS
    known = [(points, run.paused) for run in one.runs if (points := measured(run.lines, metric))]
    if not known:
        return None
    every = [dict(points) for points, _ in known]
    shared = [epoch for epoch in every[0] if all(epoch in values for values in every)]
    scores = [spread([values[epoch] for values in every]) for epoch in shared]
    last = shared[-1] if shared else float("-inf")
    ends = [points[-1] for points, paused in known if paused]
    ends = [*dict.fromkeys((epoch, scores[-1].mean) if epoch == last else (epoch, value) for epoch, value in ends)]
    tails = [[point for point in points if point[0] >= last] for points, _ in known]
    places = _kept(len(shared), most)
    several = len(known) > 1
    return Drawn(
        seeds=[thinned(points, most) for points, _ in known],
        mean=([shared[i] for i in places], [_short(scores[i].mean) for i in places]),
        deviation=[_short(scores[i].std or 0.0) for i in places] if several else None,
        tails=[thinned(tail, most) for tail in tails if tail[-1][0] > last],
        paused=[(epoch, _short(value)) for epoch, value in ends],
    )


def measured(lines: Iterable[Mapping[str, Json]], metric: str) -> Points:
    """Epochs and values of a metric in a run's lines."""
    return [
        (epoch, value)
        for line in lines
        if is_number(epoch := line.get("epoch")) and is_number(value := line.get(metric)) and "train/loss" in line
    ]


def thinned(points: Points, most: int) -> Curve:
    """What the eye can tell apart of a curve, the last one kept."""
    kept = [points[i] for i in _kept(len(points), most)]
    return [epoch for epoch, _ in kept], [_short(value) for _, value in kept]


def _kept(count: int, most: int) -> range:
    """At most so many of the places, evenly spread, with the last."""
    step = -(-count // most) or 1
    return range((count - 1) % step if count else 0, count, step)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
