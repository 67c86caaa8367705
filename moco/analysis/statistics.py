"""Statistics over the seeds of a configuration, of the difference of two, of all against the best, and of ranks."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

CONFIDENCE = 0.95
ROUNDING = 1e-9  # what is less than this, in percent, comes from floating point

Seeds: TypeAlias = Mapping[str, float]  # a metric of one configuration by seed, at least one


@dataclass(frozen=True)
class Score:
    """One metric over the seeds that have it.

    Attributes:
        mean: in the metric's unit; accuracies in percent.
        std: the sample standard deviation (n - 1); None for one seed.
        n: the number of seeds.
    """

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        """The mean with two decimals, and the deviation where there are several seeds."""
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"

    def with_count(self) -> str:
        """The same, followed by the number of seeds where there are several."""
        return str(self) if self.std is None else f"{self} (n={self.n})"


class Difference(NamedTuple):
    """The difference of two means, in percentage points, with its 95% interval over seeds."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Score:
    """Mean, sample standard deviation and count of at least one value."""
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(ours: Seeds, theirs: Seeds) -> Difference | None:
    """By how much the mean of `ours` is above that of `theirs`; None where seeds give no interval.

    They give none where either has one seed, where a value is not finite, and where nothing varies from seed to seed.

    Of the same seeds, the interval is Student's over the differences of each seed. It covers the true difference in 95 of
    100 cases whatever the variances and however alike the runs of a seed are, which share initial weights and the order of
    their data. Of other seeds it is Welch's, which covers it in 94 to 98. Neither is chosen for being narrower: the narrower
    of the two covers the true difference in 93 (benchmarks/seeds.py).
    """
    return _between(ours, theirs, _pair(ours, theirs))


def below_best(configurations: Sequence[Seeds]) -> list[Difference | None]:
    """By how much each is below the one with the highest mean, with intervals that hold for all of them together.

    Each interval is the wider of two. That of Tukey's HSD allows for the best having been picked from many, but takes all
    variances as equal; that of `difference` is the other way round. Of the same seeds, Tukey's is computed without what
    a seed adds to all configurations (a randomized block design); of others it is Kramer's, for unequal numbers of seeds.
    None for the best itself, and where seeds give no interval.
    """
    if not configurations:
        return []
    at = _best(configurations)
    first, scale = configurations[at], _tukey([seeds for seeds in configurations if _usable(seeds)])
    halves = [max(scale * math.sqrt(1 / len(first) + 1 / len(one)), _pair(first, one)) for one in configurations]
    found = [_between(first, one, half) for one, half in zip(configurations, halves)]
    return [*found[:at], None, *found[at + 1 :]]


def not_told_apart(configurations: Sequence[Seeds]) -> list[int]:
    """The places of those that seeds do not tell apart from the one with the highest mean, which is not among them.

    What has one seed is never told apart. Where nine are equal, any is told apart in 1 to 6 of 100 cases, and in up to 10
    where their deviations differ by a factor of 3 or 4 (benchmarks/seeds.py).
    """
    below, first = below_best(configurations), _best(configurations) if configurations else None
    return [i for i, found in enumerate(below) if i != first and (found is None or found.low <= 0)]


def _best(configurations: Sequence[Seeds]) -> int:
    """The place of the highest mean, the first of equals; what is not finite comes last."""
    means = [statistics.fmean(seeds.values()) for seeds in configurations]
    return max(range(len(means)), key=lambda i: means[i] if math.isfinite(means[i]) else -math.inf)


def _between(ours: Seeds, theirs: Seeds, half: float) -> Difference | None:
    """The difference with an interval of half this width; None where the width is not finite or nothing."""
    if not (_usable(ours) and _usable(theirs) and half > ROUNDING):
        return None
    mean = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
    return Difference(mean, mean - half, mean + half)


def _usable(seeds: Seeds) -> bool:
    return len(seeds) > 1 and all(map(math.isfinite, seeds.values()))


def _pair(ours: Seeds, theirs: Seeds) -> float:
    """Half the width of the interval of two; 0 where they give none."""
    if not (_usable(ours) and _usable(theirs)):
        return 0.0
    if ours.keys() == theirs.keys():
        return _student(len(ours) - 1) * math.sqrt(statistics.variance(ours[s] - theirs[s] for s in ours) / len(ours))
    a, b = (statistics.variance(seeds.values()) / len(seeds) for seeds in (ours, theirs))
    if not a + b:
        return 0.0
    freedom = 1 / ((a / (a + b)) ** 2 / (len(ours) - 1) + (b / (a + b)) ** 2 / (len(theirs) - 1))
    return _student(freedom) * math.sqrt(a + b)


def _student(freedom: float) -> float:
    """The quantile of Student's distribution for an interval of both sides."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _tukey(configurations: Sequence[Seeds]) -> float:
    """Half the width of Tukey's intervals over sqrt(1/n + 1/n'), for usable configurations; 0 for fewer than two."""
    if len(configurations) < 2:
        return 0.0
    k, seeds = len(configurations), configurations[0].keys()
    paired = all(one.keys() == seeds for one in configurations)
    everything = statistics.fmean(value for one in configurations for value in one.values())
    shift = {s: statistics.fmean(one[s] for one in configurations) - everything for s in seeds} if paired else {}
    squares = [
        (value - mean - shift.get(seed, 0.0)) ** 2
        for one in configurations
        for mean in [statistics.fmean(one.values())]
        for seed, value in one.items()
    ]
    freedom = (k - 1) * (len(seeds) - 1) if paired else len(squares) - k
    return _studentized_range(k, freedom) * math.sqrt(math.fsum(squares) / freedom / 2)


@functools.cache
def _studentized_range(k: int, freedom: int) -> float:
    """The quantile of the range of k means."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, k, freedom))


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's; None for fewer than three pairs, and where one side does not vary."""
    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs)):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*pairs)).statistic)
