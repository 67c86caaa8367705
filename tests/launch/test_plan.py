"""From tasks to jobs: what is started, what an order leaves, what a job carries, how a sweep ends."""

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from common import METHODS, ROOT, TINY

from moco.config import places
from moco.config.schema import Config
from moco.errors import UserError
from moco.launch import job as jobs
from moco.launch import plan
from moco.launch.job import Task
from moco.launch.options import LocalOptions, SlurmOptions
from moco.runs import provenance
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
        ordered.freeze(again=True)
        assert sorted(path.name for path in task.run.folder.glob("again.*")) == names
        assert ordered.state() == State.PENDING
        ordered.withdraw()
        assert ordered.state() == State.DONE


def test_what_is_refused_takes_back_the_order_to_begin_again(
    tmp_path: Path, tiny: Tiny, finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def run(self, start: Sequence[Task], waiting: Sequence[Task]) -> dict[Path, State]:
            assert [task.state() for task in start] == ["pending"] * 2
            raise UserError("sbatch refused")

    tasks = [
        Task(Run(finish(*METHODS["moco"], *TINY, f"seed={seed}")), tiny("moco", f"seed={seed}")) for seed in (0, 1)
    ]
    assert [task.state() for task in tasks] == ["done"] * 2
    monkeypatch.setattr(plan, "make", lambda options, sweep: Refusing())
    with pytest.raises(UserError, match="sbatch refused"):
        plan.launch(tasks, LocalOptions(), Sweep(tmp_path / "runs", "s"), rerun=True)
    assert [task.state() for task in tasks] == ["done"] * 2


def test_the_plan_and_its_dry_run(tmp_path: Path, tiny: Tiny, finish: Callable[..., Path]) -> None:
    config = tiny()
    tasks = [Task(Run(tmp_path / f"moco-small-digits-{name}"), config, (), name) for name in "abcd"]
    for task in tasks[1:]:
        task.freeze()
    done(tasks[1], "knn")
    with tasks[2].run.lease(), pytest.raises(Stopped), tasks[3].run.lease():
        tasks[3].run.checkpoint.touch()
        start, waiting, _ = plan.plan(tasks, rerun=False)
        assert (start, waiting) == ([tasks[0]], [tasks[2], tasks[3]])
        raise Stopped("SIGTERM")
    rows = [line.split() for line in plan.dry_run(tasks, rerun=False).splitlines()]
    assert rows == [
        ["id", "state", "would", "point"],
        ["a", "pending", "start", "a"],
        ["b", "done", "b"],
        ["c", "pending", "start", "c"],
        ["d", "stopped", "resume", "d"],
    ]
    assert [line.split()[2] for line in plan.dry_run(tasks, rerun=True).splitlines()[1:]] == ["start"] * 4


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
        (lambda: SlurmOptions(timeout_min=0), "timeout_min=0 should be a whole number of at least 1"),
        (lambda: LocalOptions(fail_fast=-2), "fail_fast=-2 should be a whole number of at least 0"),
        (lambda: LocalOptions(devices=[]), r"devices=\[\] should be auto, cpu or a list of GPUs such as \[0,1\]"),
        (lambda: SlurmOptions(nodes=2), "nodes and tasks_per_node are 1 for each point: a run is one process"),
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
    monkeypatch.setattr(linear_eval, "linear_eval", lambda run, asked, place: seen.append((asked.probe.name, place)))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "77")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    task.freeze()
    job = pickle.loads(pickle.dumps(task.job(Place("s", task.varies, slot="4.0"), gpu="4")))
    assert len(pickle.dumps(job)) < 3000  # the configuration is not carried along
    job()
    [(config, run, place, evaluations)] = seen
    assert config == task.config and run.folder == task.run.folder and evaluations == task.evaluations
    assert place == Place("s", "m=64", "local", "77", "4.0", "4")
    seen.clear()
    replace(task, config=None).job(Place("s"))()
    assert seen == [(name, Place("s", "", "local", "77", None, "4")) for name in ("cached", "augmented")]


def test_an_error_before_the_run_is_held_is_recorded_like_a_later_one(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise UserError("device=cuda:7 is not there")

    monkeypatch.setattr(pretrain, "train", fail)
    task.freeze()
    with pytest.raises(UserError):
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
