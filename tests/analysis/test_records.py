"""Runs as they are read, one by one: whole, damaged, foreign; the frame for other tools."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import SIZES, write_paused, write_sweep

from moco.analysis.numbers import Reached, Size
from moco.analysis.records import fold, load, look, paused_note, read, states
from moco.errors import UserError
from moco.launch.slurm_client import Queue
from moco.protocols import KNN, LINEAR, LINEAR_CACHED
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.runs.state import State

HEADS = (20_490, 20_490)  # parameters and multiply-adds of a classifier of ten classes over 2048 features


def test_a_finished_run_is_read_whole(finish) -> None:
    entry = read(Run(finish("recipe=simclr_leftthomas", top1=88.0, linear=91.0, seconds=600.0)))
    assert entry.problem == "" and entry.flat["temperature"] == 0.5 and "device" not in entry.flat
    assert entry.published and entry.published.source == "leftthomas/SimCLR"
    assert entry.published.top(KNN) == {1: 89.1, 5: 99.6} and entry.published.top(LINEAR_CACHED) == {}
    result = entry.result
    assert result and (result.metrics["knn/top1"], result.best, result.seconds) == (88.0, 89.0, 600.0)
    assert result.size(KNN) == Size(SIZES["params"], SIZES["multiply_adds"])
    backbone = (SIZES["params_backbone"], SIZES["multiply_adds_backbone"])
    assert result.size(LINEAR) == tuple(size + head for size, head in zip(backbone, HEADS))


def test_a_run_under_way_has_no_result_and_no_problem(finish) -> None:
    entry = read(Run(finish(epochs=3)))
    assert entry.flat and entry.result is None and entry.problem == "" and entry.published is None


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("config.json", "{unbalanced: [", "cannot be read"),
        ("config.json", '"just words"', "does not hold a configuration"),
        ("config.json", '{"method": "moco", "seed": 1}', "lacks method.name, model.name, data.name"),
        ("config.json", "\xff\xfe", "cannot be read"),
        ("config.json", "", "cannot be read"),
        ("config.json", "[1, 2]", "does not hold a configuration"),
        ("result.json", '{"knn/top1": 50.', "cannot be read"),
        ("result.json", "[]", "cannot be read"),
        ("result.json", "17", "cannot be read"),
        (
            "result.json",
            '{"knn/top1": "many", "knn/top5": NaN, "params": 1, "multiply_adds": 1}',
            "lacks knn/top1, knn/top5",
        ),
        ("result.json", '{"loss": 1}', "lacks knn/top1, params, multiply_adds"),
        (
            "result.json",
            '{"knn/top1": 1, "knn/top5": 2, "linear/top1": 3, "params": 1, "multiply_adds": 1}',
            "lacks linear/top5, params_backbone, multiply_adds_backbone",
        ),
    ],
)
def test_what_is_damaged_or_foreign_is_empty_and_says_why(finish, name: str, content: str, said: str) -> None:
    folder = finish()
    (folder / name).write_bytes(content.encode("latin-1"))
    entry = read(Run(folder))
    assert said in entry.problem and str(folder) in entry.problem and entry[1:4] == ({}, None, None)
    assert look([Run(folder)])[1] == [State.DAMAGED]


def test_runs_fold_over_seeds_and_over_nothing_else(finish, tmp_path: Path) -> None:
    folders = [finish(f"seed={seed}", device) for seed, device in ((0, "device=cpu"), (1, "device=auto"))]
    other = finish("seed=0", "temperature=0.3")
    groups = fold(map(read, all_runs(tmp_path / "runs")))
    found = {frozenset(entry.run.folder for entry in group) for group in groups}
    assert found == {frozenset(folders), frozenset([other])}


def test_a_key_without_a_value_folds_with_its_absence(finish) -> None:
    folders = [finish(f"seed={seed}") for seed in (0, 1)]
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["method"].pop("momentum_end", 0) is None
    (folders[0] / "config.json").write_text(json.dumps(config))
    assert len(fold(read(Run(folder)) for folder in folders)) == 1


def test_states_of_what_is_there_and_what_is_not(finish, tmp_path: Path) -> None:
    done, half, failed = finish("seed=0"), finish("seed=1", epochs=7), finish("seed=2", epochs=1, error="no")
    broken = finish("seed=3", epochs=3)
    (broken / "lease.json").write_text('{"machine": 3}')
    runs = [Run(folder) for folder in (done, half, failed, broken)]
    assert states(runs, Queue({})) == [State.DONE, State.PENDING, State.FAILED, State.DAMAGED]
    assert look([*runs[:1], Run(tmp_path / "runs" / "moco-x-y-absentabse")])[1] == [State.DONE, State.MISSING]
    with runs[1].lease():
        assert states(runs[1:2]) == [State.RUNNING]


def test_load_has_one_row_per_run_in_whatever_state(finish: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    done = finish("seed=0", "temperature=0.2", top1=55.0, linear=66.0, seconds=100.0)
    half = finish("seed=1", epochs=7)
    failed = finish("seed=2", epochs=1, error="RuntimeError: no")
    damaged = finish("seed=3")
    (damaged / "config.json").write_text("{")
    write_sweep(tmp_path / "runs", "first", [done, half, tmp_path / "runs" / "moco-x-y-absentabse"])
    write_sweep(tmp_path / "runs", "second", [done])
    frame = load(tmp_path / "runs").set_index("id")
    row = frame.loc[Run(done).id]
    assert (row["state"], row["sweeps"], row["folder"]) == ("done", ["first", "second"], str(done))
    assert (row["temperature"], row["method.name"]) == (0.2, "moco")
    assert (row["knn/top1"], row["linear/top1"], row["seconds"]) == (55.0, 66.0, 100.0)
    assert row["images_per_second"] == 390 * 200 * 512 / 100.0
    row = frame.loc[Run(half).id]
    lines = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert row["train/loss"] == lines[-1]["train/loss"] and row["knn/top1"] == lines[4]["knn/top1"]
    assert frame.loc[Run(failed).id, "state"] == "failed"
    row = frame.loc[Run(damaged).id]
    assert row["state"] == "damaged" and "cannot be read" in row["problem"]
    assert load(tmp_path / "runs", ["first"])["state"].tolist() == ["done", "pending", "missing"]
    with pytest.raises(UserError, match="there is no run third"):
        load(tmp_path / "runs", ["third"])


def test_seeds_from_before_and_after_a_key_came_to_the_schema_are_of_one_configuration(finish, tmp_path: Path) -> None:
    folders = [finish("seed=0"), finish("seed=1"), finish("seed=2", "model.pretrained=true")]
    path = folders[0] / "config.json"
    older = json.loads(path.read_text())
    del older["model"]["pretrained"]
    older["method"]["_target_"] = "where.it.lay.before.MoCo"
    path.write_text(json.dumps(older))
    groups = fold([read(Run(folder)) for folder in folders])
    assert sorted(len(members) for members in groups) == [1, 2]


def test_a_paused_run_is_read_with_its_rung(checked, finish, tmp_path: Path) -> None:
    why = "rung 1 of 2: rank 5 of the 9 that are here, of 9"
    folder = write_paused(tmp_path / "runs", checked("epochs=90"), 10, 33.0, why=why)
    (tmp_path / "runs" / "notes").mkdir()
    assert read(Run(folder)).rung is None  # nobody has asked for its state
    [entry, other], found = look([Run(folder), Run(finish("seed=1"))])
    assert found == [State.PAUSED, State.DONE] and other.rung is None
    assert entry.rung is not None and (entry.result, entry.problem) == (None, "")
    assert entry.rung.reached == Reached(10, 90) and str(entry.rung.reached) == "10 of 90" and entry.rung.why == why
    assert entry.rung.metrics["knn/top1"] == 33.0 and "epoch" not in entry.rung.metrics
    assert paused_note([entry, other]) == "1 of 2 runs is paused at epoch 10" and paused_note([other]) == ""


def test_a_paused_run_that_is_damaged_is_damaged(checked, tmp_path: Path) -> None:
    folder = write_paused(tmp_path / "runs", checked("epochs=90"), 10)
    (folder / "config.json").write_text("{")
    [entry], found = look([Run(folder)])
    assert found == [State.DAMAGED] and entry.rung is None and entry.problem


def test_load_says_where_paused_runs_stand(finish, checked, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    done, half = finish("epochs=90", top1=55.0), finish("epochs=90", "seed=1", epochs=7)
    paused = write_paused(tmp_path / "runs", checked("epochs=90", "seed=2"), 30, 44.0)
    frame = load(tmp_path / "runs").set_index("id")
    rows = [frame.loc[Run(folder).id] for folder in (done, half, paused)]
    assert [(row["state"], row["epoch"], row["epochs"]) for row in rows] == [
        ("done", 90, 90),
        ("pending", 7, 90),
        ("paused", 30, 90),
    ]
    assert [rows[0]["knn/top1"], rows[2]["knn/top1"]] == [55.0, 44.0]
