"""What the launcher for SLURM hands to sbatch; tests/launch/slurm sends it to a real one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from submitit.core.utils import FailedJobError

from moco.config.schema import Config
from moco.errors import UserError
from moco.launch import slurm, slurm_client
from moco.launch.job import Task
from moco.launch.options import SlurmOptions
from moco.launch.slurm import Part, SlurmLauncher
from moco.runs.run import Run
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
        if sum(self.sent) + len(part.tasks) > self.room:
            raise FailedJobError("sbatch: error: AssocMaxSubmitJobLimit\\nsbatch: error: Batch job submission failed")
        self.after.append(part.dependency)
        self.sent.append(len(part.tasks))
        part.sent += [f"{len(self.sent)}_{i}" for i in range(len(part.tasks))]


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
