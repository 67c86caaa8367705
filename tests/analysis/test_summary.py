"""Configurations over their seeds, and the answer in words."""

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import point, write_paused, write_run
from scipy import stats

from moco.analysis.configurations import Configuration, configurations, ranked, scored
from moco.analysis.records import look
from moco.analysis.summary import sentences
from moco.analysis.table import lines
from moco.runs.listing import all_runs
from moco.runs.run import Run

A, B = [81.2, 82.9, 82.1], [80.4, 81.9, 80.1]


@pytest.fixture
def answer(tmp_path: Path) -> Callable[..., str]:
    """The answer for all runs, or for these; lines apart."""
    return lambda runs=None: "\n".join(sentences(*look(runs or all_runs(tmp_path / "runs"))))


@pytest.fixture
def seeds(finish: Callable[..., Path]) -> Callable[..., list[Path]]:
    """seeds([50.0, 51.0], "m=512") -> a run a value, of seeds 0, 1, ..."""
    return lambda values, *words, **more: [
        finish(f"seed={i}", *words, top1=value, **more) for i, value in enumerate(values)
    ]


def read(folder: Path) -> list[Configuration]:
    return configurations(look(all_runs(folder))[0])


def test_seeds_fold_into_mean_deviation_and_count_best_first(seeds, finish, tmp_path: Path) -> None:
    seeds(B, "temperature=0.2")
    seeds(A, "temperature=0.1", linear=70.0)
    finish("temperature=0.3", epochs=5)
    found = read(tmp_path / "runs")
    order = ranked(found, "knn/top1")
    assert [c.label for c in order] == ["temperature=0.1", "temperature=0.2"] and len(found) == 3
    for configuration, values in zip(order, (A, B)):
        assert sorted(configuration.values("knn/top1")) == sorted(values)
        score = configuration.score("knn/top1")
        expected = (pytest.approx(sum(values) / 3), pytest.approx(statistics.stdev(values)), 3)
        assert score is not None and (score.mean, score.std, score.n) == expected
    assert [c.label for c in ranked(found, "linear/top1")] == ["temperature=0.1"]
    assert order[1].score("linear/top1") is None
    assert [(c.label, score.n) for c, score in scored(found, "knn/top1")] == [(c.label, 3) for c in order]


def test_minutes_and_speed_are_means_over_the_finished_seeds(finish, tmp_path: Path) -> None:
    for seed, seconds in enumerate((1200.0, 2400.0)):
        finish(f"seed={seed}", seconds=seconds)
    finish("seed=2", epochs=5)
    [configuration] = read(tmp_path / "runs")
    images = 390 * 200 * 512  # steps of each of 200 epochs, 512 images per step
    assert configuration.minutes == 30 and len(configuration.entries) == 3
    assert configuration.images_per_second == pytest.approx((images / 1200 + images / 2400) / 2)


def test_labels_are_the_method_or_what_was_swept(finish, tmp_path: Path) -> None:
    finish()
    assert [c.label for c in read(tmp_path / "runs")] == ["moco"]
    finish("method=simclr", "batch_size=64")
    assert sorted(c.label for c in read(tmp_path / "runs")) == ["moco", "simclr"]
    finish("temperature=0.3")
    labels = sorted(c.label for c in read(tmp_path / "runs"))
    assert labels == ["method=moco temperature=0.1", "method=moco temperature=0.3", "method=simclr temperature=0.5"]


# The answer in words


def test_seeds_that_tell_two_apart(seeds, answer) -> None:
    lower = [76.2, 77.8, 77.2]
    seeds(A, "temperature=0.1")
    seeds(lower, "temperature=0.2")
    first, second, *rest = answer().splitlines()
    expected = f"{np.mean(A):.2f} ± {statistics.stdev(A):.2f} % (n=3) kNN top-1 after the last epoch"
    assert first == f"temperature=0.1 is the best of 2 configurations: {expected}, told apart from the other by seeds."
    low, high = stats.ttest_rel(A, lower).confidence_interval()
    assert (
        second == f"The next, temperature=0.2, is 5.00 points below (95% interval over seeds: {low:.2f} to {high:.2f})."
    )
    assert "Seeds of each configuration: 3." in rest


def test_seeds_that_do_not(seeds, answer) -> None:
    seeds(A, "temperature=0.1")
    seeds(B, "temperature=0.2")
    first, second, *_ = answer().splitlines()
    assert first.startswith(
        "The best of 2 configurations may be any of them, which seeds do not tell apart: temperature=0.1 "
    )
    assert first.endswith(" after the last epoch), temperature=0.2.")
    assert "is 1.27 points below (95% interval over seeds: -0.33 to 2.86)." in second


def test_those_that_are_not_told_apart_are_named(seeds, answer) -> None:
    for t, values in ((0.1, A), (0.2, B), (0.3, [60.0, 61.0, 60.5]), (0.4, [81.0, 80.9, 81.1])):
        seeds(values, f"temperature={t}", linear=60 - t)
    first, second, *rest = answer().splitlines()
    assert first.startswith(
        "The best of 4 configurations may be one of 3, which seeds do not tell apart: temperature=0.1 with "
    )
    assert first.endswith(" after the last epoch), temperature=0.4, temperature=0.2.")
    assert "(95% interval over seeds, 4 compared at once: " in second
    assert rest[0].startswith("Linear evaluation puts the same one first: 59.90 ± 0.00 % (n=3), but none")


def test_many_that_are_not_told_apart_are_counted(seeds, answer) -> None:
    for t in range(1, 8):
        seeds([A[0] - t / 100, A[1], A[2] + t / 50 * (t % 2)], f"temperature=0.{t}", linear=60 + t / 10)
    assert "The best of 7 configurations may be any of them" in (first := answer().splitlines()[0])
    assert first.count("temperature=") == 5 and first.endswith(" and 2 more.")


def test_linear_evaluation_names_how_many_are_not_told_apart(finish, answer) -> None:
    for t, values in ((0.1, A), (0.2, B), (0.3, [50.0, 51.0, 50.5])):
        for seed, value in enumerate(values):
            finish(f"temperature={t}", f"seed={seed}", top1=50.0, linear=value)
    assert "Linear evaluation puts" in answer()
    assert "(n=3), but 1 of 2 others is not told apart from it." in answer()


def test_without_variation_there_is_no_interval(seeds, answer) -> None:
    seeds([51.0, 51.0], "temperature=0.1")
    seeds([50.0, 50.0], "temperature=0.2")
    assert "may be any of them, which seeds do not tell apart: temperature=0.1 " in answer()
    assert "is 1.00 points below. That does not vary from seed to seed, so there is no interval." in answer()


def test_one_seed_each_may_be_chance_and_says_what_to_type(finish, answer) -> None:
    finish("temperature=0.1", top1=51.0)
    finish("temperature=0.2", top1=50.0)
    first, second, *_ = answer().splitlines()
    assert first == (
        "With one seed each nothing is told apart: temperature=0.1 is the highest of 2 configurations, "
        "51.00 % kNN top-1 after the last epoch."
    )
    assert second.startswith("The next, temperature=0.2, is 1.00 points below, which may be chance with one seed each")
    assert "seed=0,1,2" in answer() and "interval" not in answer() and "±" not in answer()


def test_one_seed_beside_several(seeds, finish, answer) -> None:
    seeds([50.0, 51.0], "temperature=0.1")
    finish("temperature=0.2", top1=60.0)
    assert "which seeds do not tell apart (1 of them with one seed): temperature=0.2 with the highest mean" in answer()
    assert "which may be chance with one seed of temperature=0.2" in answer()
    assert "Seeds of each configuration: 1 to 2." in answer()
    finish("temperature=0.3", top1=40.0)
    assert "which seeds do not tell apart (2 of them with one seed): temperature=0.2 with" in answer()


def test_the_same_run_in_two_folders_counts_once(seeds, answer, tmp_path: Path) -> None:
    seeds([50.0, 51.0], "temperature=0.1")
    seeds([40.0, 41.5], "temperature=0.2")
    runs = all_runs(tmp_path / "runs")
    copy = shutil.copytree(runs[0].folder, tmp_path / "elsewhere" / runs[0].folder.name)
    assert answer([*runs, Run(copy)]) == answer(runs)


def test_the_last_epoch_counts_and_the_best_is_never_shown(finish, answer) -> None:
    for t, last, best in ((0.1, 51.0, 77.77), (0.2, 50.0, 88.88)):
        folder = finish(f"temperature={t}", top1=last)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"best": {"knn/top1": best, "epoch": 3}}))
    assert "temperature=0.1 is the highest of 2 configurations, 51.00 %" in answer()
    assert "77.77" not in answer() and "88.88" not in answer()


def test_picking_on_the_test_set_is_said(finish, answer, tmp_path: Path) -> None:
    first = finish("temperature=0.1", top1=51.0)
    assert "test set" not in answer()  # nothing was picked
    finish("temperature=0.2")
    assert "kNN was measured on the test set, and the best setting was picked by it" in answer()
    held = [finish(f"temperature={t}", "data.validation=0.1") for t in (0.1, 0.2)]
    assert "test set" not in answer([Run(folder) for folder in held])
    assert answer([Run(first), Run(held[0])]).count("One configuration has finished") == 2


def test_data_sets_are_not_compared_with_each_other(finish, answer) -> None:
    finish("temperature=0.1", top1=90.0)
    finish("temperature=0.2", top1=91.0)
    finish("data=cifar100", top1=60.0)
    said = answer()
    assert (
        "On cifar10: With one seed each nothing is told apart: data=cifar10 temperature=0.2 is the highest of 2" in said
    )
    assert "Results on cifar10 and cifar100 are not compared; the table and the charts show them together." in said
    assert "On cifar100: One configuration has finished, data=cifar100 temperature=0.1: 60.00 %" in said


@pytest.mark.parametrize(
    "words, named",
    [
        (("epochs=8", "epochs=14"), "(epochs=8, 14; images seen 1.6 to 2.8 million)"),
        (("data.validation=0.1", "data.validation=0.2"), "(data.validation=0.1, 0.2)"),
        (("temperature=0.1", "batch_size=1024"), "(images seen 39.9 to 79.9 million)"),
        (("method=simclr", "method=simclr method.views=4"), "(method.views=2, 4)"),
    ],
)
def test_what_differs_in_budget_is_not_ranked_without_a_warning(finish, answer, words, named: str) -> None:
    finish(*words[0].split(), "optimizer.lr=0.06", top1=51.0)
    finish(*words[1].split(), "optimizer.lr=0.06", top1=50.0)
    first, second, *_ = answer().splitlines()
    assert f"is the highest of 2 configurations of different budgets {named}, 51.00 %" in first
    assert second.startswith("A number may be higher for a longer training or another split of the images alone")


def test_of_one_budget_there_is_no_warning(finish, answer) -> None:
    for t in (0.1, 0.2):
        finish(f"temperature={t}", "data.validation=0.1")
    assert "budget" not in answer()


def test_linear_evaluation_agrees_or_does_not(finish, answer) -> None:
    finish("temperature=0.1", top1=51.0, linear=60.0, linear_cached=63.0)
    finish("temperature=0.2", top1=50.0, linear=62.0)
    assert "Linear evaluation puts temperature=0.2 first: 62.00 %." in answer()
    assert "Linear evaluation on cached features puts the same one first (of 1 that have it): 63.00 %." in answer()


def test_what_has_no_result_is_named_by_its_state(finish, answer, checked, tmp_path: Path) -> None:
    finish("seed=0")
    half, failed = finish("seed=1", epochs=5), finish("seed=2", epochs=1, error="RuntimeError: no")
    damaged = finish("seed=3")
    (damaged / "config.json").write_text("{")
    runs = [*all_runs(tmp_path / "runs"), Run(tmp_path / "runs" / "moco-x-y-absentabse")]
    ids = [folder.name.rpartition("-")[2] for folder in (half, failed)]
    last = answer(runs).splitlines()[-1]
    assert last.startswith("4 of 5 runs are not included: ") and f"1 pending ({ids[0]})" in last
    assert (
        f"1 failed ({ids[1]})" in last
        and f"1 damaged ({damaged.name})" in last
        and "1 missing (moco-x-y-absent" in last
    )
    with Run(half).lease():
        assert f"1 running ({ids[0]})" in answer(runs)


def test_runs_on_data_without_labels_have_finished(finish, answer, tmp_path: Path, capsys) -> None:
    folder = finish()
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "knn/top1": None, "knn/top5": None}))
    assert answer().startswith("1 of 1 runs have finished, without a score, as their data has no labels.")
    assert lines([Run(folder)]) == []
    assert f"1 without a score ({Run(folder).id}): no labels" in capsys.readouterr().err


def test_many_are_counted_and_a_few_named(checked, answer, tmp_path: Path) -> None:
    for seed in range(7):
        write_run(tmp_path / "runs", point(checked(), {"seed": seed}), epochs=2)
    assert answer().splitlines()[0] == "No run has finished yet."
    assert "7 of 7 runs are not included: 7 pending (" in answer() and answer().count(",") == 3 and " ...)" in answer()


# Paused runs


def test_paused_runs_are_counted_apart_and_not_compared(finish, answer, checked, tmp_path: Path) -> None:
    runs_dir, cfg = tmp_path / "runs", checked("epochs=90")
    for t, top1 in ((0.1, 51.0), (0.2, 50.0)):
        finish(f"temperature={t}", "epochs=90", top1=top1)
    for seed, epoch in enumerate((10, 10, 30)):
        write_paused(runs_dir, point(cfg, {"temperature": 0.3, "seed": seed}), epoch, 99.0)
    failed = write_run(runs_dir, point(cfg, {"temperature": 0.4}), epochs=1, error="no")
    said = answer().splitlines()
    assert "temperature=0.1 is the highest of 2 finished configurations, 51.00 %" in said[0]
    trained, grid = 2 * 90 + 10 + 10 + 30 + 1, 6 * 90
    assert said[-3:] == [
        "3 of 6 runs are paused at epochs 10 to 30: they are not compared with those that have finished.",
        f"All runs together have trained {trained} of the grid's {grid} epochs ({100 * trained / grid:.0f} %).",
        f"1 of 6 runs are not included: 1 failed ({Run(failed).id}).",
    ]


def test_one_that_has_finished_was_picked_from_the_paused(finish, answer, checked, tmp_path: Path) -> None:
    write_paused(tmp_path / "runs", checked("epochs=90", "temperature=0.2"), 10)
    assert answer().splitlines()[:2] == [
        "No run has finished yet.",
        "1 of 1 runs is paused at epoch 10: it is not compared with those that have finished.",
    ]
    finish("epochs=90", top1=51.0)
    assert answer().startswith("One configuration has finished, temperature=0.1: 51.00 %")
    assert "kNN was measured on the test set, and the best setting was picked by it" in answer()


def test_without_paused_runs_nothing_is_said_of_them(finish, answer) -> None:
    finish("temperature=0.1")
    finish("temperature=0.2", epochs=3)
    assert "paused" not in answer() and "grid" not in answer()
