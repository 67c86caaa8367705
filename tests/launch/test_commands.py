"""Sweeps as people type them: what is refused, what is one run, sweep files, linear evaluations, Optuna."""

from pathlib import Path

import yaml
from common import ROOT, python
from sweeping import SHORT, TRAIN, results

LINEAR_EVAL = str(ROOT / "linear_eval.py")
DRY = "hydra.launcher.dry_run=true"


def refused(cwd: Path, *words: str) -> list[str]:
    """The lines of an answer that refuses the command and leaves nothing behind."""
    answer = python(*words, cwd=cwd)
    assert answer.returncode == 1 and list(cwd.iterdir()) == [], answer.stdout
    lines = answer.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), answer.stderr
    return lines


def dry(cwd: Path, *words: str) -> list[str]:
    """The lines of a dry run below its head."""
    answer = python(TRAIN, "-m", *words, DRY, cwd=cwd)
    assert answer.returncode == 0 and list(cwd.iterdir()) == [], answer.stderr
    return answer.stdout.splitlines()[1:]


def test_arguments_that_a_group_does_not_take_are_refused_before_anything_starts(tmp_path: Path) -> None:
    words = ["+optimizer.foo=3", "+model.fo=1", "seed=0,1", "+optimizer.nesterov=true", "+data.zz=1"]
    said = "\n".join(refused(tmp_path, TRAIN, "-m", *SHORT, *words))
    for part in (
        "sgd has no setting foo: it takes params, lr",
        "small has no setting fo: ",
        "digits has no setting zz",
    ):
        assert said.count(part) == 2


def test_bad_points_are_listed_together_and_nothing_is_written(tmp_path: Path) -> None:
    said = "\n".join(refused(tmp_path, TRAIN, "-m", *SHORT, "temperature=0.1,-1,0", "m=64,-5"))
    assert said.count("temperature=-1 should be greater than 0") == 2 and said.count("m=-5 should") == 3


def test_options_of_launchers_are_refused_in_one_line(tmp_path: Path) -> None:
    for word, line in {
        "hydra.launcher.devices=0": "hydra.launcher.devices=0 should be auto, cpu or a list of GPUs such as [0,1]",
        "hydra.launcher.cpus_per_task=-1": "hydra.launcher.cpus_per_task=-1 should be a whole number of at least 1",
    }.items():
        assert refused(tmp_path, TRAIN, "-m", "seed=0,1", word) == [f"error: {line}"]
    foreign = refused(tmp_path, LINEAR_EVAL, "sweep=s", "hydra/launcher=basic")
    assert foreign == ["error: a sweep of linear evaluations takes hydra/launcher=local or hydra/launcher=slurm"]


def test_sweep_files(tmp_path: Path) -> None:
    rows = dry(tmp_path, "sweeps=temperature")
    assert len(rows) == 6 and all("start" in row for row in rows) and rows[0].endswith("temperature=0.05")
    fewer = dry(tmp_path, "sweeps=temperature", "temperature=0.3,0.4", "seed=0,1")
    assert len(fewer) == 4 and "temperature=0.3" in fewer[0]
    unknown = python(TRAIN, "sweeps=temprature", cwd=tmp_path)
    assert unknown.returncode == 1 and "temperature" in unknown.stderr and "queue" in unknown.stderr
    nowhere = refused(tmp_path, TRAIN, "-m", "seed=0,1", "runs_dir=/proc/nowhere")
    assert len(nowhere) == 1 and "runs_dir=/proc/nowhere cannot be written" in nowhere[0]


def test_what_a_method_does_not_use_is_dropped_where_a_file_brought_it_or_another_method_is_swept(
    tmp_path: Path,
) -> None:
    assert len(dry(tmp_path, "recipe=quickstart", "method=moco,simclr")) == 2  # m=1024 is the recipe's
    folded = dry(tmp_path, "method=moco,simclr", "m=1024,4096")
    assert len(folded) == 3 and sum("method=simclr" in row for row in folded) == 1
    said = refused(tmp_path, TRAIN, "-m", "method=simclr", "m=64,128")
    assert said == [f"error: method=simclr m={m}: m={m} is not used by method=simclr: leave m out" for m in (64, 128)]


def test_both_linear_evaluations_of_one_run_are_done(tmp_path: Path) -> None:
    words = [TRAIN, "-m", *SHORT, "linear_eval=true", "probe=cached,augmented", "probe.epochs=2"]
    answer = python(*words, cwd=tmp_path)
    assert answer.returncode == 0 and "1 run, 0 done, 0 running elsewhere, 1 to start" in answer.stdout, answer.stderr
    [result] = results(tmp_path)
    assert {"knn/top1", "linear/top1", "linear_cached/top1"} <= set(result)
    assert len(list(tmp_path.glob("runs/sweeps/probe/jobs/*_submitted.pkl"))) == 1
    again = python(*words, cwd=tmp_path)
    assert again.returncode == 0 and "1 run, 1 done" in again.stdout


def test_sweep_of_linear_evaluations(tmp_path: Path) -> None:
    trained = python(TRAIN, "-m", *SHORT, "seed=0,1", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    words = [LINEAR_EVAL, "sweep=seed", "probe=cached", "probe.epochs=2", "tracker=none", "device=cpu"]
    answer = python(*words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    first = results(tmp_path)
    assert len(first) == 2 and all("linear_cached/top1" in result for result in first)
    again = python(*words, cwd=tmp_path)
    assert again.returncode == 0 and "2 runs, 2 done" in again.stdout
    assert results(tmp_path) == first
    rerun = python(*words, "rerun=true", cwd=tmp_path)
    assert rerun.returncode == 0 and "2 runs, 0 done, 0 running elsewhere, 2 to start" in rerun.stdout
    finished = [result["probes"]["cached"]["finished"] for result in results(tmp_path)]
    assert all(new > old["probes"]["cached"]["finished"] for new, old in zip(finished, first))
    assert not list(tmp_path.glob("runs/*/again.*"))


def test_optuna_gets_the_objective_of_each_batch(tmp_path: Path) -> None:
    """Hydra's sweeper for Optuna asks, two points at a time, and picks the best of the returned values."""
    space = {
        "hydra/sweeper": "optuna",
        "hydra.sweeper.n_trials": 4,
        "hydra.sweeper.n_jobs": 2,
        "hydra.sweeper.direction": "maximize",
    }
    words = [*SHORT, *(f"{key}={value}" for key, value in space.items()), "temperature=interval(0.05,0.5)"]
    answer = python(TRAIN, "-m", *words, cwd=tmp_path, PYTHONWARNINGS="default")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    scores = [result["knn/top1"] for result in results(tmp_path)]
    best = yaml.safe_load((tmp_path / "runs/sweeps/optimization_results.yaml").read_text())
    assert len(scores) == 4 and best["best_value"] == max(scores)
