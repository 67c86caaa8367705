"""What the launcher for SLURM hands to sbatch; tests/launch/slurm sends it to a real one."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from submitit.core.utils import FailedJobError

from moco.config.schema import Config
from moco.errors import UserError
from moco.io import write_json
from moco.launch import plan, promotion, slurm, slurm_client
from moco.launch.halving import Halving
from moco.launch.job import Task
from moco.launch.options import SlurmOptions
from moco.launch.parts import Part
from moco.launch.slurm import SlurmLauncher
from moco.launch.together import Jobs
from moco.runs.lease import Holder, Paused, Place, born, machine
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

Tasks = Callable[[int], list[Task]]


@pytest.fixture
def tasks(tmp_path: Path, tiny: Callable[..., Config]) -> Tasks:
    """tasks(3) -> three frozen tasks."""
    config = tiny("moco")

    def make(number: int) -> list[Task]:
        made = [Task(Run(tmp_path / "runs" / f"moco-small-digits-{i}"), config, (), f"seed={i}") for i in range(number)]
        for task in made:
            task.freeze()
        return made

    return make


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SlurmLauncher]:
    """launcher(wait=True) -> a launcher on a cluster with arrays of at most four."""
    monkeypatch.setattr(slurm.shutil, "which", lambda program: program)
    monkeypatch.setattr(slurm_client, "max_array_size", lambda: 4)
    return lambda **options: SlurmLauncher(SlurmOptions(**options), Sweep(tmp_path / "runs", "s"))


class Sbatch:
    """Takes parts as sbatch would: `room` jobs at most; what each part was to wait for."""

    def __init__(self, room: int):
        self.room, self.sent, self.after = room, list[int](), list[str | None]()

    def __call__(self, executor: object, part: Part) -> None:
        if sum(self.sent) + len(part.groups) > self.room:
            raise FailedJobError("sbatch: error: AssocMaxSubmitJobLimit\\nsbatch: error: Batch job submission failed")
        self.after.append(part.dependency)
        self.sent.append(len(part.groups))
        part.sent += [f"{len(self.sent)}_{i}" for i in range(len(part.groups))]


@pytest.mark.parametrize(
    ("parallel", "each", "after"),
    [
        (1, [1, 1, 1], [None, "afterany:1", "afterany:2"]),
        (2, [1, 1, 1], [None, None, "afterany:1"]),
        (3, [1, 1, 1], [None] * 3),
        (256, [86, 85, 85], [None] * 3),
    ],
)
def test_so_many_jobs_run_at_a_time_in_all_arrays_together(
    parallel: int, each: list[int], after: list[str | None], launcher: Callable[..., SlurmLauncher], tasks: Tasks
) -> None:
    made = launcher(array_parallelism=parallel)
    parts = made._arrays(tasks(10))
    assert [len(part.tasks) for part in parts] == [4, 4, 2] and [part.parallel for part in parts] == each
    sbatch = Sbatch(10)
    for part in parts:
        sbatch(None, part)
    assert sbatch.after == after


def test_what_is_not_given_is_left_to_the_partition(launcher: Callable[..., SlurmLauncher], tasks: Tasks) -> None:
    given = launcher(timeout_min=None, additional_parameters={"requeue": False})._parameters(Part(tasks(1), 1))
    assert given["time"] is None and given["additional_parameters"] == {"no-requeue": True}
    assert launcher()._parameters(Part([], 1, jobs=["7", "9_1"]))["dependency"] == "afterany:7:9_1"


def test_a_point_of_several_tasks_keeps_the_log_of_each_and_a_promotion_is_one_task(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    submitted: list[object] = []
    executor = Executor(submitted)
    monkeypatch.setattr(SlurmLauncher, "_executor", lambda self: executor)
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    monkeypatch.chdir(tmp_path)
    [task], made = tasks(1), launcher(nodes=2, tasks_per_node=2, cpus_per_task=3, srun_args=["--cpu-bind=none"])
    made._submit(made._arrays([task]))
    asked = executor.parameters
    assert (asked["nodes"], asked["ntasks_per_node"]) == (2, 2)
    assert asked["srun_args"] == ["--cpus-per-task=3", "--kill-on-bad-exit=1", "--wait=0", "--cpu-bind=none"]
    small = promotion.small(asked)
    assert (small["nodes"], small["ntasks_per_node"], small.get("srun_args")) == (1, 1, None)
    job = task.run.job()
    assert job and job.logs == [f"7_0_{rank}_log.out" for rank in range(4)]
    for rank, text in enumerate(["an epoch", "submitit INFO - begins", "error: out of memory"]):
        Path(job.logs[rank]).write_text(f"{text}\n")
    assert task.run.log_tail(5) == ["an epoch"] and task.run.rank_tails(5) == {2: ["error: out of memory"]}
    assert "--kill-on-bad-exit=1" not in launcher()._parameters(Part([], 1))["srun_args"]  # type: ignore[operator]


def test_a_sweep_above_the_submit_limit_goes_in_waves_where_the_launcher_stays(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch, cancelled, many = Sbatch(7), list[str](), tasks(10)
    monkeypatch.setattr(SlurmLauncher, "_send", lambda self, executor, part: sbatch(executor, part))
    monkeypatch.setattr(slurm_client, "cancel_jobs", cancelled.extend)
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    staying = launcher(wait=True)
    staying._submit(staying._arrays(many))
    assert sbatch.sent == [4, 2, 1] and sum(len(part.tasks) for part in staying.left) == 3 and not cancelled
    sbatch.room += 7
    staying._submit(staying.left)
    assert sum(sbatch.sent) == 10 and not staying.left
    leaving, sbatch.room = launcher(), 14
    with pytest.raises(UserError, match=r"wait=true sends them in waves\); the 4 jobs before it were cancelled$"):
        leaving._submit(leaving._arrays(many))
    assert len(cancelled) == 4


def test_points_share_jobs_and_what_is_refused_for_now_is_cut_between_jobs(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 points in jobs of 3 are an array of four jobs, which go one at a time, and another one."""
    sbatch, many = Sbatch(5), tasks(24)
    monkeypatch.setattr(SlurmLauncher, "_send", lambda self, executor, part: sbatch(executor, part))
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    staying = launcher(points_per_job=3, wait=True, array_parallelism=1)
    parts = staying._arrays(many)
    assert [len(part.groups) for part in parts] == [4, 4] and [part.parallel for part in parts] == [1, 1]
    staying._submit(parts)
    assert sbatch.sent == [4, 1] and [len(part.tasks) for part in staying.left] == [3, 6]
    sbatch.room += 3
    staying._submit(staying.left)
    assert sbatch.sent == [4, 1, 1, 2] and sbatch.after == [None, "afterany:1", "afterany:2", "afterany:2:3"]


def test_points_that_share_a_job_keep_logs_of_their_own(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[object] = []
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    monkeypatch.setattr(SlurmLauncher, "_executor", lambda self: Executor(submitted))
    many, made = tasks(5), launcher(points_per_job=4)
    made._submit(made._arrays(many))
    together, alone = submitted
    assert isinstance(together, Jobs) and [job.run for job in together.jobs] == [task.run for task in many[:4]]
    assert not isinstance(alone, Jobs)
    records = [job for task in many if (job := task.run.job())]
    assert [job.job for job in records] == ["7_0"] * 4 + ["7_1"]
    assert [Path(job.log).name for job in records] == [*(f"7_0_point{i}.out" for i in range(4)), "7_1_0_log.out"]
    assert [job.shared_log for job in records] == ["7_0_0_log.out"] * 4 + [""]
    assert records[1].beside == [many[i].run.folder.name for i in (0, 2, 3)] and not records[4].beside


class Submitted:
    def __init__(self, job: str):
        self.job_id = job
        self.paths = SimpleNamespace(stdout=Path(f"{job}_0_log.out"))


class Executor:
    """submitit's, which keeps what is submitted, and refuses what it is told to."""

    def __init__(self, submitted: list[object], refuses: Callable[[dict[str, object]], str] = lambda parameters: ""):
        self.submitted, self.refuses, self.parameters = submitted, refuses, dict[str, object]()

    def update_parameters(self, **parameters: object) -> None:
        self.parameters |= parameters

    def batch(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def submit(self, work: object) -> Submitted:
        if error := self.refuses(self.parameters):
            raise FailedJobError(error)
        self.submitted.append(work)
        return Submitted(f"7_{len(self.submitted) - 1}")


def test_the_promotion_takes_no_gpu_except_where_its_partition_wants_one(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def wants_gpu(parameters: dict[str, object]) -> str:
        asked.append(dict(parameters))
        return "" if "gpus_per_node" in parameters else "sbatch: error: QOSMinGRES"

    for refuses in (lambda parameters: "", wants_gpu):
        submitted: list[object] = []
        monkeypatch.setattr(SlurmLauncher, "_executor", lambda self, s=submitted, r=refuses: Executor(s, r))
        monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
        made = launcher(gpus_per_node=1, mem_gb=40)
        made.sweep.record([])
        made.begin([replace(task, halving=Halving(3, 1)) for task in tasks(2)], [], [])
        assert isinstance(submitted[-1], promotion.Promotion) and promotion.noted(made.sweep)[-1] == "7_2"
    small = next(parameters for parameters in asked if "gpus_per_node" not in parameters)
    assert (small["mem"], small["cpus_per_task"], small["time"]) == ("1GB", 1, promotion.MINUTES)
    assert small["dependency"] == "afterany:7" == asked[-1]["dependency"] and asked[-1]["mem"] == "40960MB"


def test_a_promotion_that_has_no_room_in_the_queue_is_sent_later(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[object] = []
    full = lambda parameters: "QOSMaxSubmitJobPerUserLimit" if len(submitted) == 2 else ""  # noqa: E731
    monkeypatch.setattr(SlurmLauncher, "_executor", lambda self: Executor(submitted, full))
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    monkeypatch.setattr(slurm_client, "cancel_jobs", lambda jobs: None)
    halved = [replace(task, halving=Halving(3, 1)) for task in tasks(2)]
    staying = launcher(wait=True)
    staying.sweep.record([])
    staying.begin(halved, [], [])
    assert staying.owed and len(submitted) == 2
    submitted.append("another job has ended, say")
    staying._submit(staying.left)
    assert not staying.owed and isinstance(submitted[-1], promotion.Promotion)
    del submitted[:]
    with pytest.raises(UserError, match="the 2 jobs before it were cancelled"):
        launcher().begin(halved, [], [])


def test_a_paused_point_is_told_of_when_no_promotion_is_left(
    launcher: Callable[..., SlurmLauncher],
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not in the moment in which one has ended and noted the next, nor while that one waits."""
    [task], made = tasks(1), launcher(wait=True)
    task = replace(task, halving=Halving(3, 1))
    made.sweep.record([])
    with pytest.raises(Paused), task.run.lease("train", place=Place("s", queue="slurm", job="1")):
        raise Paused("rank 2")
    promotion.note(made.sweep, "2")
    waits = slurm_client.QueueEntry("PENDING")
    looks = iter([["2"], [], ["3"], []])

    def look(runs: object) -> slurm_client.Queue:
        at = next(looks)
        if not at and "3" not in promotion.noted(made.sweep):
            promotion.note(made.sweep, "3")
        return slurm_client.Queue(dict.fromkeys(at, waits))

    monkeypatch.setattr(slurm_client, "queued", look)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    assert made._follow([task]) == {task.run.folder: State.PAUSED}
    assert next(looks, None) is None and capsys.readouterr().out == "paused  seed=0\n"


def test_what_had_no_room_at_all_is_sent_once_there_is_some(
    launcher: Callable[..., SlurmLauncher],
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though no job of the sweep's is there whose end would tell."""
    sbatch, made, two, looks = Sbatch(0), launcher(wait=True), tasks(2), list[float]()
    monkeypatch.setattr(SlurmLauncher, "_send", lambda self, executor, part: sbatch(executor, part))
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) < 9, "it waits for ever"
        sbatch.room = 2 * (len(looks) > 3)
        for task in two if sbatch.sent else []:
            task.run.write_result({"knn/top1": 50.0})

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    made._submit(made._arrays(two))
    assert made.left and not sbatch.sent
    made.start, made.waiting, made.paused = two, [], []
    monkeypatch.setattr(slurm.time, "sleep", interrupted)
    assert plan.exit_code(made.finish()) == 75
    assert "not all of them were submitted yet: the same command does that" in capsys.readouterr().err
    monkeypatch.setattr(slurm.time, "sleep", sleep)
    assert made.finish() == {task.run.folder: State.DONE for task in two}
    assert not made.left and sum(sbatch.sent) == 2


def test_fail_fast_takes_the_promotion_out_of_the_queue(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would submit others once those that are cancelled have ended."""
    failed, paused = (replace(task, halving=Halving(3, 1)) for task in tasks(2))
    made, cancelled = launcher(wait=True, fail_fast=1), list[str]()
    made.sweep.record([])
    failed.run.fail(UserError("the loss became infinite"))
    with pytest.raises(Paused), paused.run.lease("train", place=Place("s", queue="slurm", job="1")):
        raise Paused("rank 2")
    promotion.note(made.sweep, "9")
    looks = iter([["9"], []])
    look = lambda runs: slurm_client.Queue(dict.fromkeys(next(looks), slurm_client.QueueEntry("PENDING")))  # noqa: E731
    monkeypatch.setattr(slurm_client, "queued", look)
    monkeypatch.setattr(slurm_client, "cancel_jobs", cancelled.extend)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    assert made._follow([failed, paused]) == {failed.run.folder: State.FAILED, paused.run.folder: State.PAUSED}
    assert cancelled == ["9"]


def test_the_lease_of_a_job_that_is_gone_is_released_and_that_of_a_living_process_is_not(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may take a run by hand while thousands of others are made ready."""
    by_hand, gone = tasks(2)
    for task, place in ((by_hand, Place()), (gone, Place("s", queue="slurm", job="12_1"))):
        holder = Holder("x", machine(), "node7", os.getpid(), born(os.getpid()), time.time(), "train", "cpu", place)
        write_json(task.run.folder / "lease.json", dataclasses.asdict(holder))
    queue = slurm_client.Queue({})
    monkeypatch.setattr(queue, "end", lambda job: "NODE_FAIL")
    monkeypatch.setattr(slurm_client, "queued", lambda runs: queue)
    monkeypatch.setattr(SlurmLauncher, "_submit", lambda self, parts: None)
    launcher().begin([by_hand, gone], [], [])
    ends = [holder.ended for task in (by_hand, gone) if (holder := task.run.holder())]
    assert ends == [None, State.KILLED]


def test_all_waves_run_one_copy_of_the_code(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[bool] = []
    monkeypatch.setattr(slurm, "python_path", lambda folder, snapshot: copies.append(snapshot) or "code")
    sbatch, made = Sbatch(4), launcher(wait=True, snapshot=True)
    monkeypatch.setattr(SlurmLauncher, "_send", lambda self, executor, part: sbatch(executor, part))
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    made._submit(made._arrays(tasks(8)))
    sbatch.room = 8
    made._submit(made.left)
    assert sum(sbatch.sent) == 8 and copies == [True]


def test_jobs_that_cannot_be_taken_back_are_named_and_keep_their_folders(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(jobs: Sequence[str]) -> None:
        raise UserError("scancel does not answer")

    sbatch, many = Sbatch(4), tasks(8)
    monkeypatch.setattr(SlurmLauncher, "_send", lambda self, executor, part: sbatch(executor, part))
    monkeypatch.setattr(slurm_client, "cancel_jobs", away)
    monkeypatch.setattr(slurm_client, "forget_job", lambda: None)
    leaving = launcher()
    with pytest.raises(UserError, match=r"the 4 jobs before it are in the queue still \(scancel .*\): scancel 1$"):
        leaving._submit(leaving._arrays(many))
    for task in many:
        task.undo()
    assert [task.run.folder.exists() for task in many] == [True] * 4 + [False] * 4


def test_what_a_queued_job_does_not_do_waits_for_it_and_the_rest_is_not_sent_twice(
    launcher: Callable[..., SlurmLauncher], tasks: Tasks, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Config]
) -> None:
    sent: list[Part] = []
    monkeypatch.setattr(SlurmLauncher, "_submit", lambda self, parts: sent.extend(parts))
    queue = slurm_client.Queue({"12_0": slurm_client.QueueEntry("PENDING"), "12_1": slurm_client.QueueEntry("RUNNING")})
    monkeypatch.setattr(slurm_client, "queued", lambda runs: queue)
    same, more = tasks(2)
    for i, task in enumerate((same, more)):
        task.run.note_job(f"12_{i}", "log", "slurm", "first", work=["knn"])
    more = replace(more, evaluations=(tiny("moco", "probe=cached").evaluation(),))
    assert more.missing == ["knn", "linear_cached"]
    launcher().begin([], [same, more], [])
    [part] = sent
    assert [*part.tasks] == [more] and part.dependency == "afterany:12_1"
    job = same.run.job()
    assert job and job.sweeps == ["s"]  # two sweeps count on it
