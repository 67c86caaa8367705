"""Sweeps on this machine: slots, claims, kills, Ctrl-C. Real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from common import ENVIRONMENT, METHODS, ROOT, TINY, python

from moco.errors import UserError
from moco.launch import local as queues
from moco.launch import plan as launching
from moco.launch import slurm_client as slurm
from moco.launch.job import Task
from moco.launch.local import LocalQueue
from moco.runs import sweep as sweeps
from moco.runs.run import Run

Sweep = Callable[..., subprocess.Popen[str]]
TRAIN = str(ROOT / "train.py")
ONE_THREAD = "hydra.launcher.cpus_per_task=1"
SHORT = [*METHODS["moco"], *[word for word in TINY if not word.startswith("epochs")], "epochs=1", ONE_THREAD]
LONG = [*SHORT, "epochs=300", "eval_every=300", "checkpoint_minutes=0.01"]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """sweep("seed=0,1") -> the launcher, started in tmp_path with a session of its own; none outlives the test."""
    with contextlib.ExitStack() as launchers:

        def start(*words: str) -> subprocess.Popen[str]:
            launcher = subprocess.Popen(
                [sys.executable, TRAIN, "-m", *words],
                cwd=tmp_path,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            launchers.enter_context(launcher)
            launchers.callback(launcher.kill)
            return launcher

        yield start


def claims(cwd: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in cwd.glob("runs/*/claim.json")]


def wait_for(condition: Callable[[], Any], seconds: float = 300) -> Any:
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def lines(cwd: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in cwd.glob("runs/*/metrics.jsonl"))


def overlap(spans: list[tuple[float, float]]) -> int:
    """The most spans that hold at one moment."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    height = most = 0
    for _, step in edges:
        height += step
        most = max(most, height)
    return most


def test_eight_points_on_two_slots(tmp_path: Path, sweep: Sweep) -> None:
    """The first is held still until the other slot has a point too, so that on no machine it is done before."""
    launcher = sweep(*SHORT, "seed=range(8)", "epochs=8", "hydra.launcher.devices=[4,6]")
    first = wait_for(lambda: [c for c in claims(tmp_path) if not c["ended"]])[0]
    os.kill(first["pid"], signal.SIGSTOP)
    wait_for(lambda: {c["slot"] for c in claims(tmp_path)} == {"4.0", "6.0"})
    os.kill(first["pid"], signal.SIGCONT)
    output = launcher.communicate(timeout=600)[0]
    assert launcher.returncode == 0, output
    held = claims(tmp_path)
    assert len(held) == 8 and {c["ended"] for c in held} == {"done"}
    assert overlap([(c["started"], c["finished"]) for c in held]) == 2
    assert {c["slot"] for c in held} == {"4.0", "6.0"} and {c["visible"] for c in held} == {"4", "6"}
    for slot in ("4.0", "6.0"):
        assert overlap([(c["started"], c["finished"]) for c in held if c["slot"] == slot]) == 1
        assert {c["visible"] for c in held if c["slot"] == slot} == {slot[0]}


def test_killed_launcher_and_the_same_command_again(tmp_path: Path, sweep: Sweep) -> None:
    words = [*LONG, "epochs=40", "seed=0,1,2", "hydra.launcher.devices=cpu", "hydra.launcher.jobs_per_device=1"]
    launcher = sweep(*words)
    wait_for(lambda: lines(tmp_path) >= 3)
    launcher.kill()
    launcher.communicate()
    # The job notices that its launcher is gone, saves and stops.
    wait_for(lambda: [c["ended"] for c in claims(tmp_path)] == ["stopped"])
    first = lines(tmp_path)
    again = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert again.returncode == 0 and "3 points, 0 done" in again.stdout, again.stdout + again.stderr
    for path in tmp_path.glob("runs/*/metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 41))
    attempts = sorted(len(json.loads(p.read_text())) for p in tmp_path.glob("runs/*/provenance.json"))
    assert attempts == [1, 1, 2] and first >= 3
    third = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert "3 points, 3 done, 0 running elsewhere, 0 to start" in third.stdout


def test_two_launchers_at_once_train_each_point_once(tmp_path: Path, sweep: Sweep) -> None:
    words = [*SHORT, "seed=range(4)", "epochs=8", "hydra.launcher.devices=cpu", "hydra.launcher.jobs_per_device=1"]
    both = [sweep(*words) for _ in range(2)]
    outputs = [launcher.communicate(timeout=600)[0] for launcher in both]
    assert [launcher.returncode for launcher in both] == [0, 0], outputs
    attempts = [len(json.loads(p.read_text())) for p in tmp_path.glob("runs/*/provenance.json")]
    assert attempts == [1] * 4, outputs
    assert {c["ended"] for c in claims(tmp_path)} == {"done"}


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, sweep: Sweep) -> None:
    words = [*LONG, "epochs=60", "seed=0,1", "hydra.launcher.devices=cpu", "hydra.launcher.jobs_per_device=2"]
    launcher = sweep(*words)
    wait_for(lambda: lines(tmp_path) >= 4 and len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 2)
    os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does: the launcher, the controllers and the jobs get it
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 75, output
    assert {c["ended"] for c in claims(tmp_path)} == {"stopped"}
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 2
    assert not [c for c in claims(tmp_path) if Path(f"/proc/{c['pid']}").exists()]
    again = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [len(json.loads(p.read_text())) for p in tmp_path.glob("runs/*/provenance.json")] == [2, 2]


def test_closed_terminal_does_not_end_the_sweep(tmp_path: Path, sweep: Sweep) -> None:
    launcher = sweep(*SHORT, "seed=0,1")
    wait_for(lambda: claims(tmp_path))
    os.killpg(launcher.pid, signal.SIGHUP)
    assert launcher.stdout
    launcher.stdout.close()
    assert launcher.wait(300) == 0
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 2


def test_one_failure_stops_no_other_and_is_listed(tmp_path: Path) -> None:
    words = [*SHORT, "optimizer.lr=0.01,1e30,0.02", "hydra.launcher.devices=cpu"]
    answer = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert answer.returncode == 1 and len(list(tmp_path.glob("runs/*/result.json"))) == 2
    assert "failed: optimizer.lr=1e+30" in answer.stderr and "infinite or NaN at step" in answer.stderr
    status = python("-m", "moco", "status", "optimizer.lr", cwd=tmp_path)
    assert "2 done, 1 failed" in status.stdout
    rest = python(
        TRAIN,
        "-m",
        *SHORT,
        "optimizer.lr=1e30,2e30,0.03",
        "hydra.launcher.fail_fast=1",
        "hydra.launcher.jobs_per_device=1",
        cwd=tmp_path,
    )
    assert rest.returncode == 1 and len(list(tmp_path.glob("runs/*/result.json"))) == 2


def test_killed_and_out_of_memory_points_beside_one_that_finishes(tmp_path: Path, sweep: Sweep) -> None:
    launcher = sweep(*LONG, "seed=0,1", "hydra.launcher.jobs_per_device=2", "hydra.launcher.devices=cpu")
    wait_for(lambda: len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 2)
    os.kill(claims(tmp_path)[0]["pid"], signal.SIGKILL)
    other = claims(tmp_path)[1]["pid"]
    wait_for(lambda: "1 killed" in python("-m", "moco", "status", cwd=tmp_path).stdout)
    assert Path(f"/proc/{other}").exists()
    cancelled = python("-m", "moco", "cancel", "seed", cwd=tmp_path)
    assert f"launcher {launcher.pid} told to stop" in cancelled.stdout
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 1 and "killed: seed=" in output


def test_arguments_that_a_group_does_not_take_are_refused_before_anything_starts(tmp_path: Path) -> None:
    words = ["+optimizer.foo=3", "+model.fo=1", "seed=0,1", "+optimizer.nesterov=true", "+data.zz=1"]
    answer = python(TRAIN, "-m", *SHORT, *words, cwd=tmp_path)
    assert answer.returncode == 1 and list(tmp_path.iterdir()) == []
    for said in (
        "sgd has no setting foo: it takes params, lr",
        "small has no setting fo: ",
        "digits has no setting zz: ",
    ):
        assert answer.stderr.count(said) == 2


def test_bad_points_are_listed_together_and_nothing_is_written(tmp_path: Path) -> None:
    answer = python(TRAIN, "-m", *SHORT, "temperature=0.1,-1,0", "m=64,-5", cwd=tmp_path)
    assert answer.returncode == 1 and list(tmp_path.iterdir()) == []
    assert (
        answer.stderr.count("temperature=-1 should be greater than 0") == 2 and answer.stderr.count("m=-5 should") == 3
    )


def test_sweep_files(tmp_path: Path) -> None:
    dry = python(TRAIN, "sweeps=temperature", "hydra.launcher.dry_run=true", cwd=tmp_path)
    assert dry.returncode == 0 and dry.stdout.count("start") == 6 and "temperature=0.05" in dry.stdout
    fewer = python(
        TRAIN, "sweeps=temperature", "temperature=0.3,0.4", "seed=0,1", "hydra.launcher.dry_run=true", cwd=tmp_path
    )
    assert fewer.stdout.count("start") == 4 and "temperature=0.3" in fewer.stdout
    assert list(tmp_path.iterdir()) == []
    unknown = python(TRAIN, "sweeps=temprature", cwd=tmp_path)
    assert unknown.returncode == 1 and "temperature" in unknown.stderr and "queue" in unknown.stderr
    nowhere = python(TRAIN, "-m", "seed=0,1", "runs_dir=/proc/nowhere", cwd=tmp_path)
    assert nowhere.returncode == 1 and "runs_dir=/proc/nowhere cannot be written" in nowhere.stderr
    assert len(nowhere.stderr.splitlines()) == 1


def test_methods_that_lack_a_key_fold_into_one_run(tmp_path: Path) -> None:
    dry = python(TRAIN, "-m", "method=moco,simclr", "m=1024,4096", "hydra.launcher.dry_run=true", cwd=tmp_path)
    rows = dry.stdout.splitlines()[1:]
    assert len({row.split()[0] for row in rows}) == 3 and sum("method=simclr" in row for row in rows) in (1, 2)


def test_sweep_of_linear_evaluations(tmp_path: Path) -> None:
    trained = python(TRAIN, "-m", *SHORT, "seed=0,1", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    words = [str(ROOT / "linear_eval.py"), "sweep=seed", "probe=cached", "probe.epochs=2", "tracker=none", "device=cpu"]
    answer = python(*words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/result.json")]
    assert len(results) == 2 and all("linear_cached/top1" in r for r in results)
    again = python(*words, cwd=tmp_path)
    assert again.returncode == 0 and "2 points, 2 done" in again.stdout


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
    scores = [json.loads(path.read_text())["knn/top1"] for path in tmp_path.glob("runs/*/result.json")]
    best = yaml.safe_load((tmp_path / "runs/sweeps/optimization_results.yaml").read_text())
    assert len(scores) == 4 and best["best_value"] == max(scores)


def test_equal_points_share_a_task(tiny: Callable[..., dict[str, Any]]) -> None:
    points = [
        ("a", lambda: tiny("moco", "temperature=0.2")),
        ("b", lambda: tiny("moco", "temperature=0.20")),
        ("c", tiny),
    ]
    tasks = launching.preflight(points)
    assert len(tasks) == 3 and len(launching.unique(tasks)) == 2
    assert tasks[0].label == "temperature=0.2" and tasks[2].label == "temperature=0.1"

    def broken() -> dict[str, Any]:
        raise ValueError("no such choice")

    with pytest.raises(UserError, match="d: no such choice"):
        launching.preflight([*points, ("d", broken)])


def test_an_order_to_stop_reaches_jobs_that_still_load_torch(tmp_path: Path, sweep: Sweep) -> None:
    launcher = sweep(*LONG, "seed=0,1", "hydra.launcher.devices=cpu", "hydra.launcher.jobs_per_device=2")
    wait_for(lambda: len(list(tmp_path.glob("runs/*/job.json"))) == 2)
    assert not claims(tmp_path)
    launcher.send_signal(signal.SIGTERM)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 75, output
    assert not list(tmp_path.glob("runs/*/result.json"))
    assert {c["ended"] for c in claims(tmp_path)} <= {"stopped"}


def test_what_is_refused_takes_back_the_order_to_begin_again(
    tmp_path: Path, tiny: Callable[..., dict[str, Any]], finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def run(self, start: list[Any], waiting: list[Any]) -> Any:
            assert [task.state() for task in start] == ["pending"] * 2
            raise UserError("sbatch refused")

    finish(*METHODS["moco"], *TINY, "seed=0"), finish(*METHODS["moco"], *TINY, "seed=1")
    points = [(f"seed={seed}", lambda seed=seed: tiny("moco", f"seed={seed}")) for seed in (0, 1)]
    tasks = launching.preflight(points)
    assert [task.state() for task in tasks] == ["done"] * 2
    monkeypatch.setattr(queues, "make", lambda options, sweep: Refusing())
    with pytest.raises(UserError, match="sbatch refused"):
        launching.launch(tasks, {"dry_run": False}, sweeps.Sweep(tmp_path / "runs", "s"), rerun=True)
    assert [task.state() for task in tasks] == ["done"] * 2


def test_linear_evaluations_of_one_run_that_differ_are_refused(
    tiny: Callable[..., dict[str, Any]], finish: Callable[..., Path]
) -> None:
    run = Run(finish(*METHODS["moco"], *TINY))
    given = [(run.id, 0), (str(run.folder), 0), (run.id, 1)]
    tasks = [Task(run, "linear_eval", {"run": name, "probe": tiny()["probe"], "seed": seed}) for name, seed in given]
    assert len(launching.unique(tasks[:2])) == 1
    with pytest.raises(UserError, match=f"{run.folder.name} that differ: start one after the other"):
        launching.unique(tasks)


def test_a_local_jobs_id_is_not_looked_for_in_slurms_queue(finish: Callable[..., Path]) -> None:
    run = Run(finish(*METHODS["moco"], *TINY))
    for queue, found in (("local", None), ("slurm", "77")):
        run.note_job("77", "log", queue, "s")
        assert slurm.queued_job(run, {"77": {"state": "PENDING"}}) == found


@pytest.mark.parametrize(
    ("listed", "names"),
    [("0,2", ["0", "2"]), ("GPU-5a1f,MIG-77", ["GPU-5a1f", "MIG-77"]), ("", []), ("-1", []), ("3,-1,4", ["3"])],
)
def test_gpus_are_those_that_the_environment_names(listed: str, names: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert queues.chosen_gpus("auto") == names and queues.chosen_gpus("cpu") == []
    assert queues.chosen_gpus([1, "MIG-77"]) == ["1", "MIG-77"]
    with pytest.raises(UserError, match="devices=0 should be auto, cpu or a list"):
        queues.chosen_gpus(0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_not_a_cpu(tmp_path: Path) -> None:
    words = [*SHORT, "device=auto", "seed=0,1", "hydra.launcher.devices=[GPU-5a1f]"]
    answer = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert answer.returncode == 1 and not list(tmp_path.glob("runs/*/result.json"))
    assert answer.stderr.count("CUDA_VISIBLE_DEVICES=GPU-5a1f names a GPU that is not to be had") == 2


def test_local_slots_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    given = {"cpus_per_task": None, "jobs_per_device": None, "devices": "cpu"}
    for changes, slots, threads in (
        ({}, 8, 1),
        ({"jobs_per_device": 3}, 3, 4),
        ({"devices": [0, 1]}, 2, 6),
        ({"cpus_per_task": 5}, 8, 5),
        ({"devices": [0, 1], "jobs_per_device": 2}, 4, 3),
    ):
        queue = LocalQueue({**given, **changes}, sweeps.Sweep(tmp_path, "s"))
        assert (len(queue.slots), queue.threads) == (slots, threads)
    for name in ("jobs_per_device", "cpus_per_task"):
        with pytest.raises(UserError, match=f"hydra.launcher.{name}=-1 should be a whole number of at least 1"):
            LocalQueue({**given, name: -1}, sweeps.Sweep(tmp_path, "s"))
