"""Sweeps as people type them: what is refused, what is one run, sweep files, linear evaluations, Optuna."""

import json
import re
from pathlib import Path

import pytest
import yaml
from common import ROOT, python
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweeping import SHORT, TRAIN, results

from hydra_plugins.moco.sweepers import _typed, grid
from moco.runs.sweep import Sweep

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
        assert said.count(part) == 1
    assert said.count("(2 points, the first is seed=0)") == 3


def test_bad_points_are_listed_together_and_nothing_is_written(tmp_path: Path) -> None:
    said = refused(tmp_path, TRAIN, "-m", *SHORT, "temperature=0.1,-1,0", "m=64,-5")
    assert len(said) == 3 and sum("temperature=-1 should be greater than 0" in line for line in said) == 1
    counts = [re.findall(r"\((\d) points, the first is .*\)", line) for line in sorted(said)]
    assert counts == [["3"], ["2"], ["2"]]  # of m=-5, temperature=-1 and temperature=0
    said = refused(tmp_path, TRAIN, "-m", *SHORT, "seed=range(300)", "temperature=-1")
    assert len(said) == 1 and "(300 points, the first is seed=0)" in said[0]


def test_options_of_launchers_are_refused_in_one_line(tmp_path: Path) -> None:
    for word, line in {
        "hydra.launcher.devices=0": "hydra.launcher.devices=0 should be auto, cpu or a list of GPUs such as [0,1]",
        "hydra.launcher.cpus_per_task=-1": "hydra.launcher.cpus_per_task=-1 should be a whole number of at least 1",
    }.items():
        assert refused(tmp_path, TRAIN, "-m", "seed=0,1", word) == [f"error: {line}"]
    foreign = refused(tmp_path, LINEAR_EVAL, "sweep=s", "hydra/launcher=basic")
    assert foreign == ["error: give hydra/launcher=local or hydra/launcher=slurm: another launcher cannot do this"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweeps=temperature,queue"], "sweeps=temperature,queue names several sweeps: give one, sweeps=temperature"),
        (["seed=range(0)"], "seed=range(0) has no values: give at least one"),
        (["optimizer=glob(zz*)"], "optimizer=glob(zz*) has no values: give at least one"),
        (
            ["seed=0,1", "temperature=0.1,0.2,0.3", "hydra.sweeper.paired=[seed,temperature]"],
            "hydra.sweeper.paired takes keys with the same number of values: seed has 2 and temperature has 3",
        ),
        (
            ["seed=0,1", "hydra.sweeper.paired=[seed,m]"],
            "hydra.sweeper.paired names m, which has no values: give m=...",
        ),
        (["runs_dir=a,b"], "runs_dir is one for all points of a sweep: start one sweep for each of a and b"),
        (["rerun=true,false"], "rerun is one for all points of a sweep: start those with rerun=true apart"),
    ],
)
def test_sweeps_that_cannot_be_are_refused_in_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    assert refused(tmp_path, TRAIN, "-m", *words) == [f"error: {line}"]


@pytest.mark.parametrize("name", ["..", "2026_01", "1e3", "a/b", "-x", "null", "x" * 101])
def test_a_sweeps_name_that_cannot_be_read_back_is_refused(name: str, tmp_path: Path) -> None:
    [line] = refused(tmp_path, TRAIN, "-m", "seed=0,1", f"hydra.launcher.sweep='{name}'")
    assert line.startswith(f"error: {name} cannot be a sweep's name: begin with a letter")


def test_a_range_of_decimal_numbers_makes_them_as_people_write_them(tmp_path: Path) -> None:
    rows = dry(tmp_path, *SHORT, "temperature=range(0.1,0.5,0.1)")
    assert [row.split()[-1] for row in rows] == [f"temperature={value}" for value in (0.1, 0.2, 0.3, 0.4)]
    assert rows[2].split()[0] == dry(tmp_path, *SHORT, "temperature=0.1,0.3")[1].split()[0]


def test_paired_keys_go_through_their_values_in_step(tmp_path: Path) -> None:
    swept = ["temperature=0.1,0.2", "seed=0,1", "m=64,128"]
    rows = dry(tmp_path, *SHORT, *swept, "hydra.sweeper.paired=[temperature,seed]")
    assert len(rows) == 4 and all(("temperature=0.1" in row) == ("seed=0" in row) for row in rows)
    rows = dry(tmp_path, *SHORT, *swept, "hydra.sweeper.paired=[[temperature,seed,m]]")
    assert len(rows) == 2


def test_what_files_say_of_launchers_is_heeded_or_refused(tmp_path: Path) -> None:
    """A sweeps file may choose a launcher; one of several recipes may not."""
    sweeps, recipes, cwd = tmp_path / "conf" / "sweeps", tmp_path / "conf" / "recipe", tmp_path / "cwd"
    for folder in (sweeps, recipes, cwd):
        folder.mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\nhydra:\n  mode: MULTIRUN\n"
    text += "  launcher:\n    dry_run: true\n    partition: p\n  sweeper:\n    params:\n      seed: 0,1\n"
    (sweeps / "mine.yaml").write_text(text + "      k: 5\n      compile: false\n")
    (recipes / "mine.yaml").write_text("# @package _global_\nhydra:\n  launcher:\n    dry_run: true\n")
    conf = ["--config-dir", str(tmp_path / "conf")]
    short = [word for word in SHORT if not word.startswith("hydra")]
    answer = python(TRAIN, *conf, *short, "sweeps=mine", cwd=cwd)
    assert answer.returncode == 0 and answer.stdout.count("seed=") == 2 and list(cwd.iterdir()) == [], answer.stderr
    alone = python(TRAIN, *conf, *short, "recipe=mine", cwd=cwd)
    assert alone.returncode == 0 and alone.stdout.startswith("id ") and list(cwd.iterdir()) == [], alone.stderr
    said = refused(cwd, TRAIN, *conf, "-m", *short, "recipe=mine,quickstart")
    assert len(said) == 1 and said[0].startswith("error: recipe=mine: it sets hydra.launcher, which is one"), said


def test_keys_of_some_choices_are_paired_and_typed_over_like_others() -> None:
    """They stand with ++ by then."""
    parse = OverridesParser.create().parse_overrides
    paired = ["++optimizer.momentum=0.8,0.9", "seed=0,1"]
    assert grid(parse(paired), ["optimizer.momentum", "seed"]) == [
        ["++optimizer.momentum=0.8", "seed=0"],
        ["++optimizer.momentum=0.9", "seed=1"],
    ]
    assert grid(parse(["optimizer.momentum=0.8,0.9", "++optimizer.momentum=0.5"])) == [["++optimizer.momentum=0.5"]]


def test_values_of_a_sweeps_file_are_those_that_yaml_means() -> None:
    assert [_typed(value) for value in (None, True, 0.1, "0,1")] == ["null", "true", "0.1", "0,1"]


def test_words_for_a_launcher_launch_a_single_run(tmp_path: Path) -> None:
    answer = python(TRAIN, *SHORT, DRY, cwd=tmp_path)
    assert answer.returncode == 0 and answer.stdout.splitlines()[1].split()[1:3] == ["pending", "start"], answer.stderr
    assert list(tmp_path.iterdir()) == []
    [line] = refused(tmp_path, TRAIN, *SHORT, "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1")
    assert "sbatch is not on PATH" in line or "sbatch refused" in line or "does not answer" in line or "failed" in line
    assert refused(tmp_path, TRAIN, "hydra/launcher=basic")[0].startswith("error: give hydra/launcher=local or")
    done = python(TRAIN, *SHORT, cwd=tmp_path)  # SHORT names the threads of a job
    assert done.returncode == 0 and "sweep single: 1 run, 0 done" in done.stdout, done.stderr
    [folder] = tmp_path.glob("runs/*/result.json")
    words = [LINEAR_EVAL, f"run={folder.parent.name}", "probe=cached", "probe.epochs=2", "tracker=none", "device=cpu"]
    assert "start" in python(*words, DRY, cwd=tmp_path).stdout
    assert "linear_cached/top1" not in results(tmp_path)[0]


def test_settings_of_hydra_that_a_sweep_does_not_heed_are_told(tmp_path: Path) -> None:
    words = ["hydra.sweep.dir=/nowhere", "hydra.job.chdir=true", "+hydra.callbacks.mine._target_=hydra.Callback"]
    answer = python(TRAIN, "-m", *SHORT, "seed=0,1", DRY, *words[:2], cwd=tmp_path)
    assert answer.stderr.splitlines() == [
        "hydra.sweep.dir has no effect: give runs_dir",
        "hydra.job.chdir has no effect: jobs stay in the working directory",
    ]


def test_sweeps_over_the_same_keys_that_share_other_settings_are_two(tmp_path: Path) -> None:
    for words in (["seed=0,1"], ["seed=0,1,2", "tracker=none"], ["seed=0,1", "temperature=0.2"]):
        answer = python(TRAIN, "-m", *SHORT, *words, "+hydra.job.env_set.MOCO_TEST=1", cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
    members = {path.parent.name: json.loads(path.read_text())["runs"] for path in tmp_path.glob("runs/sweeps/*/*.json")}
    assert {name: len(runs) for name, runs in members.items()} == {"seed": 3, "seed-2": 2}
    assert "2 done" in python("-m", "moco", "status", "seed-2", cwd=tmp_path).stdout
    many = [f"{key}=1,2" for key in ("seed", "m", "k", "epochs", "feature_dim", "batch_size", "eval_every")]
    assert len(Sweep.unnamed(tmp_path, [word * 4 for word in many]).name) <= 90


def test_sweep_files(tmp_path: Path) -> None:
    rows = dry(tmp_path, "sweeps=temperature")
    assert len(rows) == 6 and all("start" in row for row in rows) and rows[0].endswith("temperature=0.05")
    fewer = dry(tmp_path, "sweeps=temperature", "temperature=0.3,0.4", "seed=0,1")
    assert len(fewer) == 4 and "temperature=0.3" in fewer[0]
    assert refused(tmp_path, TRAIN, "sweeps=temprature") == [
        "error: sweeps=temprature is not a choice: did you mean temperature?"
    ]
    nowhere = refused(tmp_path, TRAIN, "-m", "data=digits", "seed=0,1", "runs_dir=/proc/nowhere")
    assert len(nowhere) == 1 and "runs_dir=/proc/nowhere cannot be written" in nowhere[0]


def test_what_a_method_does_not_use_is_dropped_where_a_file_brought_it_or_another_method_is_swept(
    tmp_path: Path,
) -> None:
    assert len(dry(tmp_path, "recipe=quickstart", "method=moco,simclr")) == 2  # m=1024 is the recipe's
    folded = dry(tmp_path, "method=moco,simclr", "m=1024,4096")
    assert len(folded) == 3 and sum("method=simclr" in row for row in folded) == 1
    said = refused(tmp_path, TRAIN, "-m", "method=simclr", "m=64,128")
    assert said == [f"error: m={m}: m={m} is not used by method=simclr: leave m out" for m in (64, 128)]


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
    assert [path.parent.name for path in tmp_path.glob("runs/sweeps/*/sweep.json")] == ["temperature"]
    dry_run = python(TRAIN, "-m", *words, DRY, cwd=tmp_path, PYTHONWARNINGS="default")
    assert dry_run.returncode == 0 and "a dry run shows the first points" in dry_run.stdout, dry_run.stderr
    bad = python(TRAIN, "-m", *words, "temperature=interval(-2,-1)", cwd=tmp_path, PYTHONWARNINGS="default")
    assert bad.returncode == 1 and "Traceback" not in bad.stderr and "should be greater than 0" in bad.stderr
    words = [word for word in words if not word.startswith("hydra.launcher")] + ["hydra/launcher=slurm"]
    left = python(TRAIN, "-m", *words, cwd=tmp_path, PYTHONWARNINGS="default")
    assert left.returncode == 1 and "Traceback" not in left.stderr and "add hydra.launcher.wait=true" in left.stderr
