"""Statistics over seeds against closed forms and a bootstrap by enumeration."""

import dataclasses
import itertools

import numpy as np
import pytest

from moco.analysis.statistics import Score, difference, spread

A, B = [81.2, 82.9, 82.1], [80.4, 81.9, 80.1]


def test_spread_is_mean_sample_deviation_and_count() -> None:
    score = spread(A)
    assert (score.mean, score.std, score.n) == (pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)), 3)
    assert spread([50.0]) == Score(50.0, None, 1)


def test_a_score_as_text_and_in_parts() -> None:
    score = spread([50.0, 53.0, 51.5])
    assert (str(score), score.with_count()) == ("51.50 ± 1.50", "51.50 ± 1.50 (n=3)")
    assert (str(spread([50.0])), spread([50.0]).with_count()) == ("50.00", "50.00")
    assert dataclasses.asdict(spread([50.0])) == {"mean": 50.0, "std": None, "n": 1}


def test_difference_has_the_bootstrap_interval_of_all_resamples() -> None:
    means = lambda values: [np.mean(draw) for draw in itertools.product(values, repeat=len(values))]  # noqa: E731
    differences = [a - b for a in means(A) for b in means(B)]
    low, high = np.percentile(differences, [2.5, 97.5])
    found = difference(A, B)
    assert found is not None and found.mean == pytest.approx(np.mean(A) - np.mean(B))
    assert found.low == pytest.approx(low, abs=0.04) and found.high == pytest.approx(high, abs=0.04)
    assert difference(A, B) == found  # the same each time
    for ours, theirs in itertools.product(itertools.permutations(A), itertools.permutations(B)):
        again = difference(ours, theirs)  # and in whatever order the runs are found
        assert again is not None and (again.low, again.high) == (found.low, found.high)
    turned = difference(B, A)
    assert turned is not None
    assert (turned.mean, turned.low) == (pytest.approx(-found.mean), pytest.approx(-found.high, abs=0.08))


def test_of_many_seeds_the_interval_is_the_normal_one() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(3, 2, 400), draw.normal(0, 1, 300)
    found = difference(list(a), list(b))
    assert found is not None
    half = 1.96 * np.sqrt(a.var(ddof=1) / 400 + b.var(ddof=1) / 300)
    middle = a.mean() - b.mean()
    assert [found.low, found.high] == pytest.approx([middle - half, middle + half], abs=0.1 * half)


def test_of_three_seeds_the_interval_is_as_narrow_as_is_said() -> None:
    draw = np.random.default_rng(1)
    found = [difference(list(draw.normal(size=3)), list(draw.normal(size=3))) for _ in range(150)]
    assert 0.7 < np.mean([f is not None and f.low <= 0 <= f.high for f in found]) < 0.9


def test_equal_values_and_single_ones() -> None:
    assert difference([50.0, 50.0], [49.0, 49.0]) == (1, 1, 1)
    assert difference([50.0], [49.0, 48.0]) is None and difference([50.0, 51.0], [49.0]) is None
