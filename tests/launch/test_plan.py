"""From tasks to jobs: what is started, what an order leaves, what a job carries, how a sweep ends."""

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from common import METHODS, ROOT, TINY, python

from moco.config import places
from moco.config.schema import Config
from moco.errors import UserError
from moco.launch import job as jobs
from moco.launch import plan
from moco.launch.job import Task
from moco.launch.options import LocalOptions, SlurmOptions
from moco.runs import provenance
from moco.runs.identity import folder_name
from moco.runs.lease import Place, Stopped
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep
from moco.training import linear_eval, pretrain

Tiny = Callable[..., Config]


@pytest.fixture
def task(tmp_path: Path, tiny: Tiny) -> Task:
    """A training with both linear evaluations, not begun."""
    config = tiny("moco", "probe=cached")
    asked = config.evaluation()
    augmented = asked.model_copy(update={"probe": asked.probe.model_copy(update={"name": "augmented"})})
    return Task(Run(tmp_path / "runs" / "moco-small-digits-abcdefghij"), config, (asked, augmented), "m=64")


def done(task: Task, *metrics: str) -> None:
    task.run.write_result({f"{metric}/top1": 50.0 + i for i, metric in enumerate(metrics)})


def test_a_task_is_done_when_all_its_metrics_are_there(task: Task) -> None:
    assert task.state() == State.PENDING and task.value() is None
    task.freeze()
    assert task.run.config == task.config and task.state() == State.PENDING
    done(task, "knn", "linear_cached")
    assert task.state() == State.PENDING and replace(task, evaluations=task.evaluations[:1]).state() == State.DONE
    done(task, "knn", "linear_cached", "linear")
    assert task.state() == State.DONE and task.value() == 50.0
    assert replace(task, config=None).value() == 51.0


def test_an_order_to_do_it_again_and_its_withdrawal(task: Task) -> None:
    """A training that begins again takes its evaluations along; evaluations alone are ordered each."""
    for ordered, names in (
        (task, ["again.knn"]),
        (replace(task, config=None), ["again.linear", "again.linear_cached"]),
    ):
        ordered.freeze()
        done(ordered, "knn", "linear_cached", "linear")
        ordered.freeze("mine")
        assert sorted(path.name for path in task.run.folder.glob("again.*")) == names
        assert ordered.state() == State.PENDING and task.run.state() == State.DONE
        assert replace(ordered, launch=None).state() == replace(ordered, launch="another's").state() == State.DONE
        replace(ordered, launch="another's").withdraw()
        assert ordered.state() == State.PENDING
        ordered.withdraw()
        assert ordered.state() == State.DONE and not list(task.run.folder.glob("again.*"))


def test_an_order_is_obeyed_by_the_jobs_of_its_launch_alone(tiny: Tiny, tmp_path: Path) -> None:
    """A launcher that is killed, or a queued job that is cancelled, leaves an order that means nothing to anybody."""
    config = tiny("moco", "epochs=1")
    task = Task(Run(tmp_path / "runs" / folder_name(config)), config)
    task.freeze()
    pretrain.train(config, task.run)
    written = lambda: task.run.checkpoint.stat().st_mtime_ns  # noqa: E731
    first = written()
    task.freeze("mine")
    pretrain.train(config, task.run)
    pretrain.train(config, task.run, Place("s", launch="another's"))
    assert written() == first
    pretrain.train(config, task.run, Place("s", launch="mine"))
    again = written()
    assert again != first and len(task.run.metrics()) == 1
    pretrain.train(config, task.run, Place("s", launch="mine"))  # the same job, queued again
    assert written() == again


def test_what_is_refused_takes_back_the_order_to_begin_again(
    tmp_path: Path, tiny: Tiny, finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def begin(self, start: Sequence[Task], waiting: Sequence[Task], paused: Sequence[Task]) -> None:
            assert [task.state() for task in start] == ["pending"] * 3
            raise UserError("sbatch refused")

    runs = tmp_path / "runs"
    tasks = [
        Task(Run(finish(*METHODS["moco"], *TINY, f"seed={seed}")), tiny("moco", f"seed={seed}")) for seed in (0, 1)
    ]
    failed = Task(Run(finish(*METHODS["moco"], *TINY, "seed=2", error="no memory", epochs=1)), tiny("moco", "seed=2"))
    new = Task(Run(runs / "moco-small-digits-new"), tiny("moco", "seed=3"))
    assert [task.state() for task in [*tasks, failed, new]] == ["done"] * 2 + ["failed", "pending"]
    monkeypatch.setattr(plan, "make", lambda options, sweep: Refusing())
    before = sorted(runs.rglob("*"))
    for many in ([*tasks, failed], [*tasks, new]):
        with pytest.raises(UserError, match="sbatch refused"):
            plan.launch(many, LocalOptions(), Sweep(runs, "s"), rerun=True)
        assert [task.state() for task in [*tasks, failed, new]] == ["done"] * 2 + ["failed", "pending"]
    assert [
        path for path in sorted(runs.rglob("*")) if path.parent.name != "sweeps" and path.name != "sweeps"
    ] == before
    assert not list((runs / "sweeps").rglob("*.json"))


def test_ctrl_c_before_anything_was_started_takes_all_back(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Task, launch: str | None = None) -> None:
        if self.label == "seed=1":
            raise KeyboardInterrupt
        freeze(self, launch)

    freeze = Task.freeze
    monkeypatch.setattr(Task, "freeze", interrupted)
    tasks = [Task(Run(tmp_path / "runs" / f"run-{i}"), tiny("moco", f"seed={i}"), (), f"seed={i}") for i in range(3)]
    with pytest.raises(UserError, match="^interrupted before anything was started: nothing has changed$"):
        plan.launch(tasks, LocalOptions(), Sweep(tmp_path / "runs", "s"))
    assert not (tmp_path / "runs").exists()


def test_the_plan_and_its_dry_run(tmp_path: Path, tiny: Tiny, finish: Callable[..., Path]) -> None:
    config, sweep = tiny(), Sweep(tmp_path, "s")
    tasks = [Task(Run(tmp_path / f"moco-small-digits-{name}"), config, (), name) for name in "abcd"]
    for task in tasks[1:]:
        task.freeze()
    done(tasks[1], "knn")
    with tasks[2].run.lease(), pytest.raises(Stopped), tasks[3].run.lease():
        tasks[3].run.checkpoint.touch()
        start, waiting, paused, *_ = plan.plan(tasks, False, sweep)
        assert (start, waiting, paused) == ([tasks[0]], [tasks[2], tasks[3]], [])
        raise Stopped("SIGTERM")
    rows = [line.split() for line in plan.dry_run(tasks, False, sweep).splitlines()]
    assert rows == [
        ["id", "state", "would", "point"],
        ["a", "pending", "start", "a"],
        ["b", "done", "b"],
        ["c", "pending", "start", "c"],
        ["d", "stopped", "resume", "d"],
    ]
    *rows, last = plan.dry_run(tasks, True, sweep).splitlines()[1:]
    assert [row.split()[2] for row in rows] == ["start", "erase", "start", "erase"]
    assert last == "rerun=true erases 1 result and 1 checkpoint, each when its job begins"


def test_failures_that_share_a_reason_print_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Tiny
) -> None:
    tasks = [Task(Run(tmp_path / f"run-{i}"), tiny(), (), f"seed={i}") for i in range(14)]
    for task in tasks:
        task.freeze()
    for task in tasks[:12]:
        task.run.fail(UserError("device=cuda: not available"))
    try:
        raise RuntimeError("a bug")
    except RuntimeError as error:
        tasks[12].run.fail(error)
    ends = {task.run.folder: State.FAILED for task in tasks} | {tasks[13].run.folder: State.STOPPED}
    plan.report(tasks, ends)
    said = capsys.readouterr().err
    assert said.count("failed: seed=") == 11 and "... and 2 more" in said.splitlines()
    assert said.count("    device=cuda: not available\n") == 1
    assert "    RuntimeError: a bug\n" in said and said.endswith(f"stopped: seed=13  ({tasks[13].run.folder})\n")


def test_a_linear_evaluation_that_is_there_with_other_settings_is_told(task: Task) -> None:
    task.freeze()
    done(task, "knn", "linear_cached", "linear")
    asked = task.evaluations[0]
    stored = {**asked.probe.model_dump(), "epochs": 7, "seed": 0}
    task.run.write_result({**(task.run.result or {}), "probes": {"cached": stored}})
    assert plan.differing([task], [task]) == []
    assert plan.differing([task], []) == [
        "m=64: linear evaluation (cached) is there with probe.epochs=7: rerun=true repeats it"
    ]


def test_exit_codes() -> None:
    for ends, code in {
        (State.DONE, State.QUEUED, State.RUNNING): 0,
        (State.DONE, State.STOPPED, State.PENDING): 75,
        (State.STOPPED, State.FAILED): 1,
        (State.TIMED_OUT,): 1,
    }.items():
        assert plan.exit_code({Path(str(i)): end for i, end in enumerate(ends)}) == code


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (lambda: LocalOptions(jobs_per_device=-1), "jobs_per_device=-1 should be a whole number of at least 1"),
        (lambda: LocalOptions(cpus_per_task=0), "cpus_per_task=0 should be a whole number of at least 1"),
        (lambda: LocalOptions(timeout_min=-1), "timeout_min=-1 should be a whole number of at least 1"),
        (lambda: LocalOptions(timeout_min=2), "signal_delay_s=120 should be less than the 120 s of timeout_min=2: the"),
        (lambda: SlurmOptions(array_parallelism=0), "array_parallelism=0 should be a whole number of at least 1"),
        (lambda: SlurmOptions(gpus_per_node=-1), "gpus_per_node=-1 should be a whole number of at least 1"),
        (lambda: SlurmOptions(mem_gb=-2.0), "mem_gb=-2.0 should be a number of GB greater than 0"),
        (lambda: SlurmOptions(mem_gb=float("nan")), "mem_gb=nan should be a number of GB greater than 0"),
        (lambda: SlurmOptions(timeout_min=0), "timeout_min=0 should be a whole number of at least 1"),
        (lambda: LocalOptions(fail_fast=-2), "fail_fast=-2 should be a whole number of at least 0"),
        (lambda: LocalOptions(devices=[]), r"devices=\[\] should be auto, cpu or a list of GPUs such as \[0,1\]"),
        (lambda: SlurmOptions(nodes=0), "nodes=0 should be a whole number of at least 1"),
        (lambda: SlurmOptions(nodes=2, points_per_job=3), "points_per_job=3 lets points share one task, and nodes=2"),
        (lambda: SlurmOptions(tasks_per_node=4, gpus_per_node=2), "gpus_per_node=2 is less than tasks_per_node=4"),
        (lambda: LocalOptions(gpus_per_point=0), "gpus_per_point=0 should be a whole number of at least 1"),
        (lambda: LocalOptions(gpus_per_point=2, devices="cpu"), "gpus_per_point=2 takes several devices"),
        (lambda: SlurmOptions(fail_fast=1), "fail_fast on SLURM takes a launcher that stays: add hydra.launcher.wait"),
    ],
)
def test_options_that_cannot_be(options: Callable[[], object], line: str) -> None:
    with pytest.raises(UserError, match=f"^hydra.launcher.{line}"):
        options()


def test_a_job_reads_the_frozen_configuration_and_does_all_that_is_asked(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(pretrain, "train", lambda *given: seen.append(given))
    evaluate = lambda run, asked, place, more: seen.append((asked.probe.name, place, more))  # noqa: E731
    monkeypatch.setattr(linear_eval, "linear_eval", evaluate)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "77")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    task.freeze()
    job = pickle.loads(pickle.dumps(task.job(Place("s", task.varies, slot="4.0"), gpu="4")))
    assert len(pickle.dumps(job)) < 3000  # the configuration is not carried along
    job()
    [(config, run, place, evaluations, rungs)] = seen
    assert config == task.config and run.folder == task.run.folder and evaluations == task.evaluations and rungs is None
    assert place == Place("s", "m=64", "local", "77", "4.0", "4")
    seen.clear()
    replace(task, config=None).job(Place("s"))()
    place = Place("s", "", "local", "77", None, "4")
    assert seen == [("cached", place, True), ("augmented", place, False)]


def test_an_error_before_the_run_is_held_is_recorded_like_a_later_one(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise UserError("device=cuda:7 is not there")

    monkeypatch.setattr(pretrain, "train", fail)
    task.freeze()
    with pytest.raises(SystemExit, match="^1$"):
        task.job(Place("s"))()
    assert task.state() == State.FAILED and task.run.log_tail(5) == ["device=cuda:7 is not there"]


def test_jobs_import_the_code_of_the_checkout_and_of_an_installed_package_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.CODE == ROOT and not places.INSTALLED
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert jobs.python_path(tmp_path, snapshot=False) == os.pathsep.join([str(ROOT), "mine"])
    monkeypatch.setattr(jobs, "INSTALLED", True)
    assert jobs.python_path(tmp_path, snapshot=False) == "mine"
    monkeypatch.setattr(provenance, "INSTALLED", True)
    with pytest.raises(UserError, match="snapshot=true copies what git tracks, and this is not a git checkout"):
        jobs.python_path(tmp_path, snapshot=True)


def test_a_snapshot_is_a_checkout_that_works(tmp_path: Path) -> None:
    code = Path(jobs.python_path(tmp_path, snapshot=True).partition(os.pathsep)[0])
    assert code.parent == tmp_path and jobs.python_path(tmp_path, snapshot=True).startswith(str(code))
    assert len(list(tmp_path.iterdir())) == 1
    script = (
        "from moco.config.places import CONF, CODE, INSTALLED; print(CODE, (CONF / 'train.yaml').is_file(), INSTALLED)"
    )
    answer = python("-c", script, cwd=tmp_path, PYTHONPATH=str(code), PYTHONSAFEPATH="1")
    assert answer.stdout.split() == [str(code), "True", "False"], answer.stderr
    assert (code / "conf/sweeps").is_symlink() and (code / "moco/conf/sweeps/temperature.yaml").is_file()
