"""Statistics over seeds against scipy, least squares and what intervals should cover."""

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from scipy import stats

from moco.analysis.statistics import Score, below_best, difference, not_told_apart, spread

A, B = [81.2, 82.9, 82.1], [80.4, 81.9, 80.1]
C = [79.2, 78.8, 80.9]


def seeds(values: Sequence[float], first: int = 0) -> dict[str, float]:
    """By seed, from this one on."""
    return {str(first + i): float(value) for i, value in enumerate(values)}


def test_spread_is_mean_sample_deviation_and_count() -> None:
    score = spread(A)
    assert (score.mean, score.std, score.n) == (pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)), 3)
    assert spread([50.0]) == Score(50.0, None, 1)


def test_a_score_as_text_and_in_parts() -> None:
    score = spread([50.0, 53.0, 51.5])
    assert (str(score), score.with_count()) == ("51.50 ± 1.50", "51.50 ± 1.50 (n=3)")
    assert (str(spread([50.0])), spread([50.0]).with_count()) == ("50.00", "50.00")
    assert dataclasses.asdict(spread([50.0])) == {"mean": 50.0, "std": None, "n": 1}


# Two configurations


def test_of_the_same_seeds_the_interval_is_that_of_their_differences() -> None:
    mean = pytest.approx(np.mean(A) - np.mean(B))
    assert difference(seeds(A), seeds(B)) == (mean, *map(pytest.approx, stats.ttest_rel(A, B).confidence_interval()))
    turned = {seed: value for seed, value in reversed(seeds(B).items())}
    assert difference(seeds(A), turned) == difference(seeds(A), seeds(B))  # by their seeds, not by their places


@pytest.mark.parametrize("theirs", [seeds(B, first=1), seeds([*B, 80.0])])
def test_of_other_seeds_it_is_welchs(theirs: dict[str, float]) -> None:
    values = list(theirs.values())
    low, high = stats.ttest_ind(A, values, equal_var=False).confidence_interval()
    found = difference(seeds(A), theirs)
    assert found == (pytest.approx(np.mean(A) - np.mean(values)), pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("same, alike", [(True, 0), (True, 0.8), (False, 0)])
@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_cover_the_true_difference(n: int, ratio: float, alike: float, same: bool) -> None:
    """However alike the runs of a seed are, whatever the variances; 0.02 is three deviations of so many draws."""
    rng, found = np.random.default_rng(0), []
    for _ in range(1000):
        shared, own = rng.normal(size=n), rng.normal(size=(2, n))
        a, b = math.sqrt(alike) * shared + math.sqrt(1 - alike) * own
        found.append(difference(seeds(50 + ratio * a), seeds(48 + b, 0 if same else n)))
    covered = np.mean([each is not None and each.low <= 2 <= each.high for each in found])
    assert covered > 0.95 - 0.02
    assert covered < 0.95 + 0.02 or not same  # paired, it is no wider than it needs to be


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ([50.0], [49.0, 48.0]),
        ([50.0, 51.0], [49.0]),
        ([50.0, 50.0], [49.0, 49.0]),
        ([50.1, 51.1], [49.1, 50.1]),  # of the same seeds, the difference does not vary
        ([50.0, math.nan], [49.0, 48.0]),
        ([50.0, 51.0], [49.0, math.inf]),
    ],
)
def test_without_an_interval_there_is_none(ours: list[float], theirs: list[float]) -> None:
    assert difference(seeds(ours), seeds(theirs)) is None
    assert not_told_apart([seeds(theirs), seeds(ours)]) in ([0], [1])


def test_one_side_may_be_constant() -> None:
    for first in (0, 2):
        found = difference(seeds([50.0, 50.0]), seeds([49.0, 48.0], first))
        half = stats.t.ppf(0.975, 1) * 0.5
        assert found == (1.5, pytest.approx(1.5 - half), pytest.approx(1.5 + half))


# Many configurations


def test_of_the_same_seeds_intervals_are_tukeys_of_what_seeds_leave() -> None:
    """The residual variance is that of least squares with a term per configuration and one per seed."""
    values = np.array([A, B, C, [79.0, 79.5, 79.9]])
    k, n = values.shape
    terms = [
        [float(i == row) for i in range(k)] + [float(j == column) for j in range(n)]
        for row in range(k)
        for column in range(n)
    ]
    left = values.ravel() - np.array(terms) @ np.linalg.lstsq(np.array(terms), values.ravel())[0]
    freedom = (k - 1) * (n - 1)
    half = stats.studentized_range.ppf(0.95, k, freedom) * math.sqrt(np.sum(left**2) / freedom / n)
    best, *below = below_best([seeds(row) for row in values])
    assert best is None
    for row, found in zip(values[1:], below):
        mean, (low, high) = A[0] - row[0], stats.ttest_rel(A, row).confidence_interval()
        mean = np.mean(A) - row.mean()
        assert found == (
            pytest.approx(mean),
            pytest.approx(min(low, mean - half)),
            pytest.approx(max(high, mean + half)),
        )
    assert not_told_apart([seeds(row) for row in values]) == [i for i, d in enumerate(below, 1) if d and d.low <= 0]


def test_of_other_seeds_intervals_are_scipys() -> None:
    values = [C, [82.0, 82.1], A, [79.0, 79.5, 79.9, 80.3, 79.1]]
    tukey = stats.tukey_hsd(*values).confidence_interval()
    found, wider = below_best([seeds(row, 9 * i) for i, row in enumerate(values)]), 0
    assert found[2] is None
    for i in (0, 1, 3):
        low, high = stats.ttest_ind(A, values[i], equal_var=False).confidence_interval()
        assert found[i] is not None and found[i][1:] == (
            pytest.approx(min(low, tukey.low[2, i]), abs=1e-6),
            pytest.approx(max(high, tukey.high[2, i]), abs=1e-6),
        )
        wider += tukey.low[2, i] < low
    assert 0 < wider < 3  # each of the two is the wider one for some


@pytest.mark.parametrize("same", [True, False], ids=["same seeds", "other seeds"])
def test_of_nine_equal_ones_the_best_is_seldom_told_apart(same: bool) -> None:
    """Pair by pair it would be in a third of all cases."""
    rng, apart, pairwise = np.random.default_rng(0), [], []
    for _ in range(300):
        rows = [seeds(row, 0 if same else 3 * i) for i, row in enumerate(rng.normal(50, 1, (9, 3)))]
        apart.append(len(not_told_apart(rows)) < 8)
        best = max(rows, key=lambda row: spread(list(row.values())).mean)
        pairs = [difference(best, row) for row in rows if row is not best]
        pairwise.append(any(pair is not None and pair.low > 0 for pair in pairs))
    assert np.mean(apart) < 0.07 and np.mean(pairwise) > 0.2


def test_what_is_far_below_is_told_apart_by_three_seeds() -> None:
    rng = np.random.default_rng(0)
    rows = [seeds(mean + rng.normal(0, 0.3, 3)) for mean in (60, 60.1, 57, 50, 40)]
    first = max((0, 1), key=lambda i: spread(list(rows[i].values())).mean)
    assert not_told_apart(rows) == [1 - first]


def test_one_seed_tells_nothing_apart() -> None:
    several = [seeds(A), seeds(C), {"0": 10.0}]
    assert 2 in not_told_apart(several) and below_best(several)[:1] == [None] and below_best(several)[2] is None
    assert below_best(several)[1] == difference(seeds(A), seeds(C))  # it says nothing of the others either
    assert not_told_apart([{"0": 99.0}, *several]) == [1, 2, 3]  # nor is it the best for sure
    assert not_told_apart([{"0": 2.0}, {"0": 1.0}]) == [1] and not_told_apart([{"0": 2.0}]) == [] == not_told_apart([])


ROWS = some.lists(
    some.dictionaries(some.sampled_from("01234"), some.floats(0, 100) | some.sampled_from([50.0, 51.0]), min_size=1),
    min_size=1,
    max_size=5,
)
sampled = settings(deadline=None, derandomize=True, max_examples=50)


@sampled
@given(ROWS, some.randoms())
def test_no_order_counts(rows: list[dict[str, float]], draw: random.Random) -> None:
    means = [spread(list(row.values())).mean for row in rows]
    assume(all(abs(a - b) > 1e-6 for a, b in itertools.combinations(means, 2)))
    close = [rows[i] for i in not_told_apart(rows)]
    mixed = [dict(draw.sample(list(row.items()), len(row))) for row in draw.sample(rows, len(rows))]
    assert sorted(map(str, map(sorted, close))) == sorted(str(sorted(mixed[i])) for i in not_told_apart(mixed))


@sampled
@given(ROWS)
def test_what_is_close_stays_close_when_the_best_comes_down(rows: list[dict[str, float]]) -> None:
    """Its variance stays, and others come no further below it."""
    means = [spread(list(row.values())).mean for row in rows]
    first = int(np.argmax(means))
    second = max((mean for i, mean in enumerate(means) if i != first), default=0)
    lower = [
        {s: v - (means[first] - second) / 2 for s, v in row.items()} if i == first else row
        for i, row in enumerate(rows)
    ]
    assume(int(np.argmax([spread(list(row.values())).mean for row in lower])) == first)
    assert set(not_told_apart(rows)) <= set(not_told_apart(lower))
    assert first not in not_told_apart(rows)


@sampled
@given(ROWS)
def test_a_difference_turned_is_its_negative(rows: list[dict[str, float]]) -> None:
    for ours, theirs in itertools.product(rows, rows):
        found, turned = difference(ours, theirs), difference(theirs, ours)
        assert (found is None) == (turned is None)
        if found and turned:
            assert (found.mean, found.low) == (-turned.mean, pytest.approx(-turned.high))
            assert found.low < found.mean < found.high
