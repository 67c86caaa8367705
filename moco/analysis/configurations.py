"""Configurations: runs that differ in the seed alone, folded into one, named by what varies, ranked by a metric."""

import dataclasses
import functools
from collections.abc import Sequence

from moco.analysis.records import Cost, Entry, cost, fold
from moco.analysis.statistics import Score, spread
from moco.io import Json
from moco.runs.settings import describe, swept


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
