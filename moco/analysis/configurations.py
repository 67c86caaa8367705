"""Configurations: runs that differ in the seed alone, folded into one, named by what varies, ranked by a metric."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from moco.analysis.numbers import Reached
from moco.analysis.records import Cost, Entry, cost, fold
from moco.analysis.statistics import Score, spread
from moco.io import Json
from moco.protocols import KNN
from moco.runs.settings import describe, swept


class AtRung(NamedTuple):
    """kNN top-1 of paused seeds, in percent, and the epoch that it was measured at. Not to be compared with final values."""

    reached: Reached
    score: Score

    def __str__(self) -> str:
        return f"{self.score} at epoch {self.reached.epoch}"


@dataclasses.dataclass(frozen=True, eq=False)  # equal to itself alone, so that scores can be kept
class Configuration:
    """The runs that differ in the seed alone, finished or not.

    Attributes:
        label: the settings that tell it from the others.
        flat: the settings of its first run.
        entries: its runs.
    """

    label: str
    flat: dict[str, Json]
    entries: list[Entry]

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that has it."""
        return list(self.by_seed(metric).values())

    def by_seed(self, metric: str) -> dict[str, float]:
        """The metric of each seed that has it, by seed."""
        return {
            str(e.flat.get("seed")): e.result.metrics[metric]
            for e in self.entries
            if e.result and metric in e.result.metrics
        }

    @functools.cache  # noqa: B019 - lives as long as the command
    def score(self, metric: str) -> Score | None:
        """The metric over the seeds that have it; None without any."""
        values = self.values(metric)
        return spread(values) if values else None

    @functools.cached_property
    def at_rung(self) -> AtRung | None:
        """Where its paused seeds stand that have come farthest; None where none is paused."""
        rungs = [entry.rung for entry in self.entries if entry.rung and KNN.top1 in entry.rung.metrics]
        if not rungs:
            return None
        reached = max((rung.reached for rung in rungs), key=lambda reached: reached.share)
        return AtRung(reached, spread([rung.metrics[KNN.top1] for rung in rungs if rung.reached == reached]))

    @functools.cached_property
    def minutes(self) -> float | None:
        """Mean minutes of training with its evaluations over the finished seeds; None where unknown."""
        found = [c.seconds for c in self._costs() if c.seconds]
        return spread(found).mean / 60 if found else None

    @functools.cached_property
    def images_per_second(self) -> float | None:
        """Mean training images per second over the finished seeds; None where unknown."""
        found = [c.images_per_second for c in self._costs() if c.images_per_second]
        return spread(found).mean if found else None

    def _costs(self) -> list[Cost]:
        return [cost(e.flat, e.result.seconds, e.result.steps) for e in self.entries if e.result]


def configurations(entries: Sequence[Entry]) -> list[Configuration]:
    """The readable runs, folded over seeds; labelled by the method where nothing varies."""
    groups = fold(entries)
    flats = [members[0].flat for members in groups]
    keys = swept(flats)
    methods = [str(flat["method.name"]) for flat in flats]
    labels = methods if keys == ["method.name"] else describe(flats, keys)
    return [
        Configuration(label or method, flat, members)
        for label, method, flat, members in zip(labels, methods, flats, groups)
    ]


def scored(found: Sequence[Configuration], metric: str) -> list[tuple[Configuration, Score]]:
    """Those that have the metric, with their scores, from the highest mean to the lowest."""
    pairs = [(configuration, score) for configuration in found if (score := configuration.score(metric))]
    return sorted(pairs, key=lambda pair: -pair[1].mean)


def ranked(found: Sequence[Configuration], metric: str) -> list[Configuration]:
    """Those that have the metric, from the highest mean to the lowest."""
    return [configuration for configuration, _ in scored(found, metric)]


def in_order(found: Sequence[Configuration]) -> list[Configuration]:
    """All of them: finished ones by kNN, paused ones by how far they have come and by kNN there, then the rest."""
    final = ranked(found, KNN.top1)
    paused = [(c, c.at_rung) for c in found if c.at_rung and not c.values(KNN.top1)]
    paused.sort(key=lambda pair: (-pair[1].reached.share, -pair[1].score.mean))
    shown = {id(c) for c in final} | {id(c) for c, _ in paused}
    return [*final, *(c for c, _ in paused), *(c for c in found if id(c) not in shown)]
