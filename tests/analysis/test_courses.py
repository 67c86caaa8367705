"""Learning curves over seeds: the mean where all have a value, what goes on alone, where they are paused."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from folders import write_paused

from moco.analysis import courses
from moco.analysis.configurations import configurations, in_order
from moco.analysis.courses import Course, Learning, course, learning
from moco.analysis.records import look
from moco.runs.listing import all_runs

TOP1 = "knn/top1"


def lines(values: dict[int, float], end: int) -> list[dict[str, Any]]:
    """The lines of a run of so many epochs with these kNN values."""
    return [
        {"epoch": epoch, "train/loss": 1 / epoch} | ({TOP1: values[epoch]} if epoch in values else {})
        for epoch in range(1, end + 1)
    ]


def seeds(*runs: dict[int, float], paused: tuple[int, ...] = (), colour: int | None = 0) -> Learning:
    return Learning("moco", colour, [Course(lines(one, max(one)), i in paused) for i, one in enumerate(runs)])


def test_mean_and_deviation_where_all_seeds_have_a_value() -> None:
    found = course(seeds({2: 10, 4: 20, 6: 30}, {2: 14, 3: 1, 4: 26}, {2: 12, 4: 20, 6: 40, 8: 50}), TOP1)
    assert found is not None
    assert found.mean == ([2, 4], [12, 22])
    assert found.deviation == [2, pytest.approx(statistics.stdev([20, 26, 20]), abs=1e-3)]
    assert found.tails == [
        ([4, 6], [20, 30]),
        ([4, 6, 8], [20, 40, 50]),
    ]  # the second has come no farther than the mean
    assert [x for x, _ in found.seeds] == [[2, 4, 6], [2, 3, 4], [2, 4, 6, 8]] and found.paused == []


def test_one_seed_is_its_own_curve_without_a_band() -> None:
    found = course(seeds({1: 10, 2: 20}, paused=(0,)), TOP1)
    assert found == courses.Drawn([([1, 2], [10, 20])], ([1, 2], [10, 20]), None, [], [(2, 20)])
    assert course(seeds({1: 10}), "linear/top1") is None


def test_seeds_without_a_common_epoch_have_no_mean() -> None:
    found = course(seeds({1: 10, 3: 30}, {2: 20}, paused=(1,)), TOP1)
    assert found is not None and found.mean == ([], []) and found.deviation == []
    assert found.tails == found.seeds and found.paused == [(2, 20)]


def test_a_mark_stands_on_the_mean_where_it_ends_and_else_on_the_seed() -> None:
    found = course(seeds({1: 10, 2: 20}, {1: 20, 2: 30}, paused=(0, 1)), TOP1)
    assert found is not None and found.paused == [(2, 25)]
    found = course(seeds({1: 10}, {1: 20, 2: 30}, {1: 30, 2: 40, 3: 50}, paused=(0, 1)), TOP1)
    assert found is not None and found.paused == [(1, 20), (2, 30)]


def test_curves_are_thinned_alike_and_end_where_the_run_ended() -> None:
    long = [{"epoch": i, "train/loss": 1 / i, TOP1: None} for i in range(1, 1001)]
    long += [{"epoch": 1000, "linear/top1": 60.0}, {"epoch": 1001, "train/loss": float("nan")}]
    for colour, most in ((0, courses.POINTS), (None, courses.GREY_POINTS)):
        found = course(Learning("moco", colour, [Course(long, False), Course(long[:700], False)]), "train/loss")
        assert found is not None
        for x, y in (found.mean, *found.seeds, *found.tails):
            assert len(x) <= most and y[-1] == pytest.approx(1 / x[-1], rel=1e-4)
        assert (found.mean[0][-1], found.tails[0][0][-1]) == (700, 1000)
    assert course(Learning("moco", 0, [Course(long, False)]), TOP1) is None


def test_curves_of_paused_runs_say_so(finish, checked, tmp_path: Path) -> None:
    finish("temperature=0.1", "epochs=90", top1=51.0)
    for t, (epoch, top1) in ((0.2, (10, 95.0)), (0.3, (30, 40.0))):
        write_paused(tmp_path / "runs", checked(f"temperature={t}", "epochs=90"), epoch, top1)
    found = learning(in_order(configurations(look(all_runs(tmp_path / "runs"))[0])))
    drawn = [course(one, TOP1) for one in found]
    assert [one.label for one in found] == ["temperature=0.1", "temperature=0.3", "temperature=0.2"]
    assert [one and one.paused for one in drawn] == [[], [(30, 40.0)], [(10, 95.0)]]
