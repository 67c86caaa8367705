"""How honest intervals over few seeds are: what they cover, and how often the best of equal configurations is told apart.

    python benchmarks/seeds.py [--draws N] [--configurations K] [--runs-dir DIR ...]

Seeds are drawn from normal distributions. `ratio` is how much larger the deviation of one configuration is than that of the
others, `alike` the correlation of the runs of one seed. An interval should cover the true difference in at least 0.95 of all
draws. Of K configurations (nine) with the same mean, any should be told apart from the best in at most 0.05; where one is five
deviations above the others, as many as possible should.

- bootstrap: percentiles of the difference over all resamples (2,000 resamples at five seeds)
- welch, paired: Student's intervals for unequal variances and over the differences of each seed
- narrower: of these two the narrower one, each time
- by pairs: Welch's test of the best against each other; tukey: scipy's tukey_hsd; games-howell: its equal_var=False;
  blocks: Tukey's of what is left without the mean of each seed
- ours: moco.analysis.statistics; "other seeds": the same values, said to be of different seeds (to be read where alike is 0)

--runs-dir: how alike the runs of a seed are in these folders, as the correlation within seeds (ICC) of kNN top-1. Prints JSON.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.interpolate import PchipInterpolator

sys.path.insert(0, str(Path(__file__).parents[1]))
from moco.analysis.configurations import configurations
from moco.analysis.records import read
from moco.analysis.statistics import difference, not_told_apart
from moco.protocols import KNN
from moco.runs.listing import all_runs

SEEDS, ALIKE, RESAMPLES = (2, 3, 5), (0.0, 0.8), 2000
LIFT = 5.0  # deviations of the one that is better


def draw(rng: np.random.Generator, draws: int, sizes: Any, n: int, alike: float) -> Any:
    """n seeds of configurations with these deviations and mean 0.  # [draws, configurations, n]"""
    shared, own = rng.normal(size=(draws, 1, n)), rng.normal(size=(draws, len(sizes), n))
    return (np.sqrt(alike) * shared + np.sqrt(1 - alike) * own) * np.asarray(sizes)[:, None]


def by_seed(values: Any, first: int = 0) -> dict[str, float]:
    return {str(first + i): float(value) for i, value in enumerate(values)}


def welch(variances: Any, others: Any, n: int, quantile: Any) -> Any:
    """Half the width of an interval for unequal variances; quantile(degrees of freedom) is that of its distribution."""
    a, b = variances / n, others / n
    return quantile((a + b) ** 2 / ((a**2 + b**2) / (n - 1))) * np.sqrt(a + b)


def student(freedom: Any) -> Any:
    return stats.t.ppf(0.975, freedom)


def bootstrap(rng: np.random.Generator, x: Any) -> Any:
    """Low and high of the percentile bootstrap of the difference of two."""
    n = x.shape[2]
    if n < 4:
        at = np.array(list(itertools.product(range(n), repeat=n)))
        a, b = (x[:, i][:, at].mean(2) for i in (0, 1))
        means = (a[:, :, None] - b[:, None]).reshape(len(x), -1)
    else:
        at = rng.integers(n, size=(2, RESAMPLES, n))
        means = x[:, 0][:, at[0]].mean(2) - x[:, 1][:, at[1]].mean(2)
    return np.percentile(means, [2.5, 97.5], axis=1)


def two(rng: np.random.Generator, draws: int, n: int, ratio: float, alike: float) -> dict[str, float]:
    """How often each interval covers the difference of two configurations, which is 0, and how wide the paired one is."""
    x = draw(rng, draws, [ratio, 1], n, alike)
    apart, variances = np.abs(x[:, 0].mean(1) - x[:, 1].mean(1)), x.var(2, ddof=1)
    unpaired = welch(variances[:, 0], variances[:, 1], n, student)
    paired = student(n - 1) * (x[:, 0] - x[:, 1]).std(1, ddof=1) / np.sqrt(n)
    low, high = bootstrap(rng, x)
    ours = [[difference(by_seed(a), by_seed(b, first)) for a, b in x] for first in (0, n)]
    covered = {
        "bootstrap": (low <= 0) & (high >= 0),
        "welch": apart <= unpaired,
        "paired": apart <= paired,
        "narrower": apart <= np.minimum(unpaired, paired),
        "ours": [found is None or found.low <= 0 <= found.high for found in ours[0]],
        "ours, other seeds": [found is None or found.low <= 0 <= found.high for found in ours[1]],
    }
    wide = {"paired, times as wide as welch": round(float(np.median(paired) / np.median(unpaired)), 2)}
    return {name: round(float(np.mean(found)), 3) for name, found in covered.items()} | wide


def studentized(k: int) -> Any:
    """The 0.95 quantile of the range of k means as a function of the degrees of freedom, which need not be whole."""
    knots = np.geomspace(1, 100, 40)
    line = PchipInterpolator(np.log(knots), np.log([stats.studentized_range.ppf(0.95, k, d) for d in knots]))
    return lambda freedom: np.exp(line(np.log(freedom)))


def deviations(k: int) -> dict[str, Any]:
    """Of k configurations: equal, one of another size, all of different sizes."""
    return {"equal": np.ones(k), "one thrice": np.r_[3, np.ones(k - 1)], "half to twice": np.geomspace(0.5, 2, k)}


def many(x: Any, quantile: Any) -> dict[str, Any]:
    """For each rule which configurations it tells apart from the best.  # [draws, configurations] each"""
    k, n = x.shape[1:]
    means, variances = x.mean(2), x.var(2, ddof=1)
    best = means.argmax(1)[:, None]
    apart, of_best = np.take_along_axis(means, best, 1) - means, np.take_along_axis(variances, best, 1)
    left = x - x.mean(1, keepdims=True) - means[:, :, None] + means.mean(1)[:, None, None]
    blocks = (left**2).sum((1, 2)) / ((k - 1) * (n - 1))
    return {
        "by pairs": apart > welch(of_best, variances, n, student),
        "tukey": apart > (quantile(k * (n - 1)) * np.sqrt(variances.mean(1) / n))[:, None],
        "games-howell": apart > welch(of_best, variances, n, lambda freedom: quantile(freedom) / np.sqrt(2)),
        "blocks": apart > (quantile((k - 1) * (n - 1)) * np.sqrt(blocks / n))[:, None],
        "ours": told_apart(x, best, 0),
        "ours, other seeds": told_apart(x, best, n),
    }


def told_apart(x: Any, best: Any, step: int) -> Any:
    """Which ours tells apart where each configuration's seeds begin so much later than those of the one before."""
    far = np.ones(x.shape[:2], bool)
    np.put_along_axis(far, best, False, 1)
    for row, found in zip(far, x):
        row[not_told_apart([by_seed(one, step * i) for i, one in enumerate(found)])] = False
    return far


def wrongly(far: dict[str, Any]) -> dict[str, float]:
    """In how many draws any was told apart."""
    return {name: round(float(found.any(1).mean()), 3) for name, found in far.items()}


def rightly(far: dict[str, Any]) -> dict[str, float]:
    """Which share of the others was told apart."""
    return {name: round(float(found.sum(1).mean() / (found.shape[1] - 1)), 3) for name, found in far.items()}


def correlation(folder: Path) -> dict[str, float]:
    """How alike the runs of one seed are: ICC over the seeds that all configurations have."""
    found = [c.by_seed(KNN.top1) for c in configurations([read(run) for run in all_runs(folder)])]
    seeds = sorted(set.intersection(*map(set, found)))
    x = np.array([[one[seed] for seed in seeds] for one in found])
    k, n = x.shape
    if min(k, n) < 2:
        sys.exit(f"error: {folder} has fewer than two configurations with two seeds of the same")
    left = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
    between, within = k * x.mean(0).var(ddof=1), (left**2).sum() / ((k - 1) * (n - 1))
    icc = (between - within) / (between + (k - 1) * within)
    return {"configurations": k, "seeds": n, "correlation": round(float(icc), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--configurations", type=int, default=9)
    parser.add_argument("--runs-dir", type=Path, nargs="*", default=[])
    words = parser.parse_args()
    k = words.configurations
    rng, quantile = np.random.default_rng(0), studentized(k)
    lift = np.r_[LIFT, np.zeros(k - 1)][:, None]
    covered = {
        f"{n} seeds, ratio {ratio}, alike {alike}": two(rng, words.draws, n, ratio, alike)
        for n, ratio, alike in itertools.product(SEEDS, (1, 3, 10), ALIKE)
    }
    equal = {
        f"{n} seeds, {name}, alike {alike}": wrongly(many(draw(rng, words.draws, each, n, alike), quantile))
        for n, (name, each), alike in itertools.product(SEEDS, deviations(k).items(), ALIKE)
    }
    above = {
        f"{n} seeds, alike {alike}": rightly(many(draw(rng, words.draws, np.ones(k), n, alike) + lift, quantile))
        for n, alike in itertools.product(SEEDS, ALIKE)
    }
    shown = {"covered": covered, f"{k} equal, any told apart": equal, "one above, share told apart": above}
    shown["runs"] = {folder.name: correlation(folder) for folder in words.runs_dir}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
