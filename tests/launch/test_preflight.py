"""From points to tasks: what is refused, and what is one run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from common import METHODS, TINY, composed

from moco.config.check import check_linear_eval
from moco.errors import UserError
from moco.io import Json
from moco.launch.job import Task
from moco.launch.preflight import Point, in_vain, linear_tasks, merged, preflight
from moco.runs.run import Run
from moco.runs.sweep import Sweep

BASE = [*METHODS["moco"], *TINY]


def points(*many: str, entry: str = "train") -> list[Point]:
    """points("m=64", "m=128 seed=1") -> two points with those words, as the composer gives them."""
    return [Point(words.split(), lambda words=words: composed(*words.split(), entry=entry)) for words in many]


def tasks(*many: str) -> list[Task]:
    return preflight(points(*(" ".join([*BASE, *words.split()]) for words in many)))


def probes(task: Task) -> list[str]:
    return [asked.probe.name for asked in task.evaluations]


def test_equal_points_are_one_run_and_labels_tell_the_others_apart() -> None:
    found = tasks("temperature=0.2", "temperature=0.20", "")
    assert [task.label for task in found] == ["temperature=0.2", "temperature=0.2", "temperature=0.1"]
    assert [task.label for task in merged(found)] == ["temperature=0.2", "temperature=0.1"]
    assert in_vain(found) == ""


def test_all_bad_points_are_told_at_once() -> None:
    def broken() -> dict[str, Json]:
        raise ValueError("no such choice\nand more")

    bad = [*points("m=-1", "seed=0", "temperature=0"), Point(["method=mocco"], broken)]
    with pytest.raises(UserError) as refused:
        preflight(bad)
    said = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in said] == ["method=mocco", "m=-1", "temperature=0"]
    assert said[0] == "method=mocco: no such choice"


def test_runs_may_lie_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    [task] = tasks("runs_dir='~/x'")
    assert task.run.folder.parent == Sweep("~/x", "s").runs_dir == tmp_path / "x"


def test_what_a_recipe_brings_along_is_dropped_and_what_is_typed_is_refused() -> None:
    both = preflight(points("recipe=quickstart method=moco", "recipe=quickstart method=simclr"))
    assert [task.config and task.config.m for task in both] == [1024, None]
    [alone] = preflight(points("recipe=quickstart method=simclr"))
    assert alone.run.folder == both[1].run.folder
    with pytest.raises(UserError, match="^method=simclr m=64: m=64 is not used by method=simclr: leave m out$"):
        preflight(points("method=simclr m=64"))


def test_in_a_sweep_over_methods_what_one_lacks_is_dropped_there() -> None:
    found = preflight(points("method=moco m=64", "method=moco m=128", "method=simclr m=64", "method=simclr m=128"))
    assert len(merged(found)) == 3 and found[2].run.folder == found[3].run.folder
    assert in_vain(found) == ""  # nothing is left that tells them apart


def test_linear_evaluations_of_one_run_are_one_task() -> None:
    found = tasks("linear_eval=true probe=cached", "linear_eval=true probe=augmented", "linear_eval=false")
    assert [probes(task) for task in found] == [["cached"], ["augmented"], []]
    [task] = merged(found)
    assert probes(task) == ["cached", "augmented"] and [p.prefix for p in task.protocols] == [
        "knn",
        "linear_cached",
        "linear",
    ]
    assert in_vain(found) == ""


@pytest.mark.parametrize("setting", ["probe.epochs=3,4", "probe.lr=0.1,0.2"])
def test_two_evaluations_by_one_protocol_that_differ_are_refused_with_training(setting: str) -> None:
    key, _, values = setting.partition("=")
    found = tasks(*(f"linear_eval=true probe=cached {key}={value}" for value in values.split(",")))
    line = f"two linear evaluations of {found[0].run.folder.name} that differ: start one after the other"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        merged(found)


def test_two_evaluations_by_one_protocol_that_differ_are_refused_without_training(
    tmp_path: Path, finish: Callable[..., Path]
) -> None:
    """One run may be named by its id, its folder's name and its path."""
    run = Run(finish(*BASE))
    base = f"runs_dir={tmp_path}/runs probe=cached"
    names = [f"{base} run={name}" for name in (run.id, run.folder.name, run.folder)]
    same = preflight(points(*names, entry="linear_eval"))
    assert len(merged(same)) == 1 and [probes(task) for task in merged(same)] == [["cached"]]
    other = preflight(points(names[0], f"{base} run={run.id} probe=augmented", entry="linear_eval"))
    assert [probes(task) for task in merged(other)] == [["cached", "augmented"]]
    differing = preflight(points(*names, f"{names[0]} seed=1", entry="linear_eval"))
    with pytest.raises(UserError, match=f"{run.folder.name} that differ: start one after the other"):
        merged(differing)


@pytest.mark.parametrize(
    ("many", "line"),
    [
        (["compile=true", "compile=false"], "2 points are one run: they differ in compile alone, which does not"),
        (
            ["compile=true eval_every=1", "compile=true eval_every=2", "compile=false", ""],
            "4 points are one run: they differ in compile and eval_every alone, which do not",
        ),
        (
            ["seed=0 tracker=wandb", "seed=0", "seed=1 tracker=wandb", "seed=1", "seed=2"],
            "4 points are 2 runs: they differ in tracker alone, which does not",
        ),
        (["probe=cached", "probe=augmented"], "2 points are one run: they differ in probe alone, which does not"),
        (
            ["device=cpu probe=cached linear_eval=true", "device=auto probe=augmented linear_eval=true"],
            "2 points are one run: they differ in device alone, which does not",
        ),
    ],
)
def test_points_that_differ_in_vain_are_named_in_one_line(many: list[str], line: str) -> None:
    assert in_vain(tasks(*many)) == f"{line} change the result"


def test_linear_evaluation_of_a_sweep_takes_its_finished_runs(
    tmp_path: Path, finish: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [finish(*BASE, "seed=0"), finish(*BASE, "seed=1"), finish(*BASE, "seed=2", epochs=1)]
    Sweep(tmp_path / "runs", "s").record([folder.name for folder in folders])
    values = composed(f"runs_dir={tmp_path}/runs", "sweep=s", "rerun=true", entry="linear_eval")
    found = linear_tasks(check_linear_eval(values))
    assert [(task.run.folder, task.config, task.label) for task in found] == [
        (folder, None, f"seed={seed}") for seed, folder in enumerate(folders[:2])
    ]
    assert not any(asked.rerun for task in found for asked in task.evaluations)  # an order in the folder stands for it
    assert "1 of 3 runs of sweep s are not done" in capsys.readouterr().out
    for folder in folders[:2]:
        (folder / "result.json").unlink()
    with pytest.raises(UserError, match="no run of sweep s is done"):
        linear_tasks(check_linear_eval(values))


def test_a_linear_evaluation_needs_a_run() -> None:
    with pytest.raises(UserError, match="run is missing: give the id or folder of a finished run, run=<id>"):
        preflight(points("probe=cached", entry="linear_eval"))
