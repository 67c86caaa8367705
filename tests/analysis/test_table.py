"""The table's rows from run folders written by hand."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import write_paused

from moco.analysis.configurations import configurations
from moco.analysis.numbers import Reached
from moco.analysis.records import look
from moco.analysis.report_table import table as page_table
from moco.analysis.selection import select
from moco.analysis.statistics import Score, spread
from moco.analysis.table import Row, is_published, lines
from moco.runs.listing import all_runs
from moco.runs.run import Run

FIXED = [
    "Protocol",
    "Method",
    "Model",
    "Data",
    "Params",
    "Multiply-adds",
    "Feature Dim",
    "Negatives",
    "Momentum",
    "Batch",
    "Epochs",
    "Temperature",
    "Neighbours",
]


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[], list[Row]]:
    return lambda: select(lines(all_runs(tmp_path / "runs")))


def one(value: float) -> Score:
    return Score(value, None, 1)


def test_a_run_is_a_row_of_numbers(finish, rows):
    folder = finish("method=npid", top1=55.5)
    assert rows() == [
        {
            "Protocol": "kNN",
            "Method": "npid",
            "Model": "resnet18",
            "Data": "cifar10",
            "Params": 24_615_616,
            "Multiply-adds": 1_298_923_520,
            "Feature Dim": 128,
            "Negatives": 4096,
            "Momentum": 0.5,
            "Batch": 128,
            "Epochs": 200,
            "Temperature": 0.1,
            "Neighbours": 200,
            "Top-1": one(55.5),
            "Top-5": one(95.5),
            "Best": one(56.5),
            "path": folder.name,
        }
    ]
    assert list(rows()[0]) == [*FIXED, "Top-1", "Top-5", "Best", "path"]


def test_linear_rows_follow_with_backbone_and_classifier(finish, rows):
    finish(top1=50.0, linear=61.0, linear_cached=60.0)
    found = rows()
    assert [row["Protocol"] for row in found] == ["kNN", "Linear", "Linear (cached)"]
    assert [row["Params"] for row in found] == [24_615_616, 23_520_842, 23_520_842]
    assert [row["Top-1"] for row in found] == [one(50.0), one(61.0), one(60.0)]
    assert [row["Best"] for row in found] == [one(51.0), None, None]


def test_seeds_fold_into_mean_deviation_and_count(finish, rows):
    values = [50.0, 53.0, 51.5]
    folders = [finish(f"seed={seed}", top1=value) for seed, value in enumerate(values)]
    finish("temperature=0.3", "seed=1", top1=9.0)
    folded = next(row for row in rows() if row["Temperature"] == 0.1)
    assert len(rows()) == 2 and "seed" not in folded
    assert folded["Top-1"] == spread(values) and folded["Best"].mean == pytest.approx(52.5)
    assert sorted(folded["path"].split()) == sorted(folder.name for folder in folders)


def test_a_linear_row_counts_the_seeds_that_have_one(finish):
    bare, *probed = finish("seed=0"), finish("seed=1", linear=60.0), finish("seed=2", linear=62.0)
    [knn, linear] = select(lines([Run(folder) for folder in (bare, *probed)]))
    assert knn["Top-1"].n == 3 and linear["Top-1"].n == 2 and linear["Top-1"].mean == 61.0
    assert linear["Params"] == 23_520_842  # although the first seed has no classifier
    assert sorted(linear["path"].split()) == sorted(folder.name for folder in probed)


def test_seeds_that_were_probed_differently_are_pointed_out(finish, rows, capsys):
    folders = []
    for seed, epochs in ((0, 100), (1, 10)):
        folder = finish(f"seed={seed}", linear=60.0 + seed)
        folders.append((folder, epochs))
        path = folder / "result.json"
        result = json.loads(path.read_text())
        result["probes"]["augmented"] |= {"epochs": epochs, "lr": 1e-3, "seed": seed}
        path.write_text(json.dumps(result))
    assert rows()[1]["Top-1"].mean == 60.5
    [line] = capsys.readouterr().err.splitlines()
    told, _, remedy = line.removeprefix("warning: one row of Linear mixes probes: ").partition(" (")
    assert sorted(told.split(", ")) == sorted(f"{folder.name[-10:]} epochs={n}" for folder, n in folders)
    assert remedy == "rerun=true evaluates again)"  # neither lr, which is the same, nor seed is named


def test_scores_on_other_data_have_rows_and_a_column(finish, rows, tmp_path):
    for seed in (0, 1):
        finish(
            f"seed={seed}", linear_cached=60.0 + seed, **{"cifar100/knn": 30.0, "cifar100/linear_cached": 40.0 + seed}
        )
    finish("epochs=10", linear_cached=50.0, **{"stl10/linear_grid": 44.0})
    found = [(row["Protocol"], row["Transfer to"], row["Epochs"], row["Top-1"].mean) for row in rows()]
    assert found == [
        ("kNN", None, 10, 50),
        ("Linear (cached)", None, 10, 50),
        ("Linear (grid)", "stl10", 10, 44),
        ("kNN", None, 200, 50),
        ("Linear (cached)", None, 200, 60.5),
        ("kNN", "cifar100", 200, 30),
        ("Linear (cached)", "cifar100", 200, 40.5),
    ]
    assert [*rows()[0]][:3] == ["Protocol", "Transfer to", "Method"]

    entries, states = look(all_runs(tmp_path / "runs"))
    page = page_table(configurations(entries), ["epochs"], dict(zip([e.run.folder for e in entries], states)))
    heads = [head["name"] for head in page["heads"]]
    told = [dict(zip(heads, (text for text, _ in row["cells"]))) for row in page["rows"]]
    assert [row["Linear (cached) on cifar100 top-1"].split()[0] for row in told if row["epochs"] == "200"] == ["40.50"]
    assert {row["epochs"]: row["Linear (grid) on stl10 top-1"] for row in told} == {"10": "44.00", "200": ""}


def test_the_published_row_stands_beside_ours(finish, rows):
    finish("recipe=simclr_leftthomas", top1=88.0, linear=91.0, linear_cached=90.0)
    found = rows()
    assert [row["Protocol"] for row in found] == [
        "kNN",
        "kNN, published",
        "Linear",
        "Linear, published",
        "Linear (cached)",
    ]
    assert (found[1]["Top-1"], found[1]["Top-5"], found[1]["path"]) == (one(89.1), one(99.6), "leftthomas/SimCLR")
    assert (found[3]["Top-1"], found[3]["Top-5"]) == (one(92.0), one(99.8))
    assert found[1]["Method"] is None and list(found[1]) == list(found[0])
    assert [is_published(row) for row in found] == [False, True, False, True, False]


@pytest.mark.parametrize("changes", [["temperature=0.3"], ["data=digits"], ["epochs=1"], ["model=small"]])
def test_the_published_row_stands_beside_the_recipe_alone(finish, rows, changes: list[str]):
    finish("recipe=simclr_cifar", *changes)
    assert [row["Protocol"] for row in rows()] == ["kNN"]
    finish("recipe=simclr_cifar", "seed=3", "device=cpu", "data.root=/elsewhere", "tracker=none")
    assert sorted(row["Protocol"] for row in rows()) == ["kNN", "kNN", "kNN, published"]


def test_a_published_row_without_top5_and_with_a_note(finish):
    # The same settings with and without the recipe's name: one configuration with two seeds.
    folders = finish("seed=0"), finish("recipe=moco_cifar", "seed=1")
    [ours, published] = select(lines([Run(folder) for folder in folders]))
    assert ours["Top-1"].n == 2 and published["Top-1"] == one(82.6) and published["Top-5"] is None
    assert published["path"].endswith("200 epochs (kNN on the 128-d output (knn_head/top1))")


def test_other_settings_get_a_column_where_they_vary(finish, rows):
    finish("augment.gray=0.1", "device=cpu")
    assert set(rows()[0]) == {*FIXED, "Top-1", "Top-5", "Best", "path"}
    finish("augment.gray=0.2", "optimizer.lr=0.03", "tracker=none", "data.root=/elsewhere")
    found = rows()
    assert set(found[0]) == {*FIXED, "augment.gray", "optimizer.lr", "Top-1", "Top-5", "Best", "path"}
    assert sorted((row["augment.gray"], row["optimizer.lr"]) for row in found) == [(0.1, 0.06), (0.2, 0.03)]


def test_another_choice_of_a_group_is_named_and_its_own_settings_are_not(finish, rows):
    finish()
    finish("optimizer=adam")
    finish("method=simclr", "batch_size=64")
    found = rows()
    assert set(found[0]) - {*FIXED, "Top-1", "Top-5", "Best", "path"} == {"augment.name", "optimizer.name"}
    assert {row["optimizer.name"] for row in found} == {"sgd", "adam"}
    assert next(row for row in found if row["Method"] == "simclr")["Negatives"] is None


def test_the_methods_copies_of_root_keys_get_no_columns(finish, rows):
    finish("temperature=0.1")
    finish("temperature=0.2")
    assert set(rows()[0]) == {*FIXED, "Top-1", "Top-5", "Best", "path"}
    assert sorted(row["Temperature"] for row in rows()) == [0.1, 0.2]


# What lies beside finished runs


def test_what_is_not_finished_has_no_row(finish, rows, tmp_path: Path, capsys):
    (finish("seed=1") / "result.json").unlink()
    finish("seed=2", epochs=20)
    (tmp_path / "runs" / "sweeps" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "notes.txt").write_text("")
    finish("seed=3")
    [row] = rows()
    assert row["Top-1"].n == 1
    ids = [
        folder.name.rpartition("-")[2]
        for folder in sorted((tmp_path / "runs").glob("moco*"))
        if not (folder / "result.json").exists()
    ]
    assert capsys.readouterr().err == f"left out of the table: 2 pending ({' '.join(ids)}); see python -m moco status\n"


def test_of_many_that_are_left_out_the_first_are_named(finish, rows, capsys):
    finish("seed=0")
    for seed in range(1, 9):
        finish(f"seed={seed}", epochs=20, error="no")
    rows()
    assert re.fullmatch(r"left out of the table: 8 failed \((\w{10} ){6}and 2 more\); .*\n", capsys.readouterr().err)


def test_rows_stand_in_the_order_of_their_settings(finish, rows):
    """Words by letters, numbers by size: 0.5 before 0.07 would be the order of texts, 1024 before 512 too."""
    for m, temperature in ((1024, 0.5), (512, 0.5), (1024, 0.07), (512, 0.07)):
        finish(f"m={m}", f"temperature={temperature}")
    finish("method=simclr", "temperature=0.07")
    finish("method=npid", "temperature=0.07")
    found = [(row["Method"], row["Negatives"], row["Temperature"]) for row in rows()]
    grid = [("moco", m, temperature) for m in (512, 1024) for temperature in (0.07, 0.5)]
    assert [row for row in found if row[0] == "moco"] == grid
    assert [method for method, *_ in found] == ["moco"] * 4 + ["npid", "simclr"]


def test_a_damaged_run_is_named_and_left_out(finish, rows, capsys):
    finish("seed=1", top1=60.0)
    damaged = finish("seed=2")
    (damaged / "result.json").write_text("[]")
    [row] = rows()
    assert row["Top-1"] == one(60.0)
    said = f"warning: left out of the table: {damaged}/result.json cannot be read"
    assert capsys.readouterr().err.splitlines() == [said]


def test_running_and_failed_folders_have_no_rows(finish):
    run = Run(finish(epochs=3))
    with run.lease():
        assert lines([run]) == []
    run.fail(RuntimeError("no"))
    assert lines([run]) == []


def test_no_runs():
    assert lines([]) == [] and select([]) == []


# Paused runs


@pytest.fixture
def halved(finish, checked, tmp_path: Path) -> Callable[..., list[Row]]:
    """halved(paused=True, where=...) -> the table of one that is done and has a linear value, and three that are paused."""
    finish("epochs=90", "temperature=0.1", top1=50.0, linear=60.0)
    for t, epoch, top1 in ((0.2, 10, 90.0), (0.3, 30, 40.0), (0.4, 10, 91.0)):
        write_paused(tmp_path / "runs", checked("epochs=90", f"temperature={t}"), epoch, top1)
    return lambda paused=False, **options: select(lines(all_runs(tmp_path / "runs"), paused), **options)


def test_by_default_the_table_is_of_finished_runs_and_counts_the_paused(halved, finish, capsys):
    assert [row["Temperature"] for row in halved()] == [0.1, 0.1] and "Epoch" not in halved()[0]
    said = "3 of 4 runs are paused at a rung; --paused shows them"
    assert capsys.readouterr().err.splitlines() == [said, said]
    failed = finish("epochs=90", "temperature=0.9", epochs=3, error="no").name.rpartition("-")[2]
    halved()
    assert capsys.readouterr().err.splitlines() == [
        "3 of 5 runs are paused at a rung; --paused shows them",
        f"left out of the table: 1 failed ({failed}); see python -m moco status",
    ]
    halved(paused=True)
    assert capsys.readouterr().err.splitlines() == [
        f"left out of the table: 1 failed ({failed}); see python -m moco status"
    ]


def test_one_that_is_paused_is_said_in_the_singular(checked, rows, tmp_path: Path, capsys):
    write_paused(tmp_path / "runs", checked("epochs=90"), 10)
    assert rows() == []
    assert capsys.readouterr().err == "1 of 1 runs is paused at a rung; --paused shows it\n"


def test_with_paused_each_row_has_its_epoch_and_finished_ones_come_first(halved, tmp_path: Path):
    found = halved(paused=True)
    assert list(found[0]) == [*FIXED, "Epoch", "Top-1", "Top-5", "Best", "path"] and len({tuple(r) for r in found}) == 1
    told = [(row["Protocol"], row["Temperature"], row["Epoch"], row["Top-1"]) for row in found]
    assert told[:3] == [
        ("kNN", 0.1, Reached(90, 90), one(50.0)),
        ("Linear", 0.1, Reached(90, 90), one(60.0)),
        ("kNN", 0.3, Reached(30, 90), one(40.0)),
    ]
    assert sorted(told[3:]) == [("kNN", 0.2, Reached(10, 90), one(90.0)), ("kNN", 0.4, Reached(10, 90), one(91.0))]
    assert found[2]["Best"] is None and found[2]["Params"] is None and found[2]["path"].startswith("moco-resnet18-")


def test_accuracies_are_sorted_among_rows_of_one_epoch(halved):
    knn = {"paused": True, "where": "Protocol=kNN"}
    assert [row["Temperature"] for row in halved(sort="Top-1", **knn)] == [0.1, 0.3, 0.4, 0.2]
    assert [row["Temperature"] for row in halved(sort="-Top-1", **knn)] == [0.1, 0.3, 0.2, 0.4]
    assert [row["Temperature"] for row in halved(sort="temperature", **knn)] == [0.1, 0.2, 0.3, 0.4]
    assert [row["Epoch"].epoch for row in halved(sort="-Epoch", **knn)] == [90, 30, 10, 10]
    assert sorted(row["Temperature"] for row in halved(paused=True, where="Epoch<90")) == [0.2, 0.3, 0.4]


def test_seeds_at_different_epochs_are_rows_of_their_own(finish, checked, tmp_path: Path):
    runs_dir = tmp_path / "runs"
    finish("epochs=90", "seed=0", top1=50.0)
    for seed, epoch, top1 in ((1, 30, 30.0), (2, 30, 32.0), (3, 10, 20.0)):
        write_paused(runs_dir, checked("epochs=90", f"seed={seed}"), epoch, top1)
    found = select(lines(all_runs(runs_dir), paused=True))
    assert [(row["Epoch"].epoch, row["Top-1"]) for row in found] == [
        (90, one(50.0)),
        (30, spread([30.0, 32.0])),
        (10, one(20.0)),
    ]


def test_a_paused_recipe_has_no_published_row(checked, tmp_path: Path):
    write_paused(tmp_path / "runs", checked("recipe=simclr_cifar"), 10)
    assert [row["Protocol"] for row in select(lines(all_runs(tmp_path / "runs"), paused=True))] == ["kNN"]
