"""Cancelling: processes are told to stop, what cannot be reached is named."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from moco.analysis.cancel import cancel
from moco.errors import UserError
from moco.io import write_json
from moco.launch import slurm_client as slurm
from moco.launch.slurm_client import QueueEntry
from moco.runs.lease import Holder, born, machine
from moco.runs.run import Run


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def hold(run: Run, pid: int, where: str) -> None:
    """A lease of that process on that machine."""
    holder = Holder("x", where, "node7", pid, born(pid), time.time())
    write_json(run.folder / "lease.json", dataclasses.asdict(holder))


def test_what_runs_here_is_told_to_stop_and_what_runs_elsewhere_is_named(process, finish) -> None:
    here, there, idle = (Run(finish(f"seed={seed}", epochs=3)) for seed in range(3))
    hold(here, process.pid, machine())
    hold(there, process.pid, "another machine")
    assert cancel([here, there, idle], []) == [
        f"{here.folder.name}: process {process.pid} told to save and stop",
        f"{there.folder.name} runs as process {process.pid} on node7: cancel it from there",
    ]
    assert process.wait(30) == -signal.SIGTERM


def test_launchers_are_told_first_and_those_that_have_ended_are_left_out(process, finish) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert cancel([], [ended.pid, process.pid]) == [f"launcher {process.pid} told to stop its jobs"]
    assert process.wait(30) == -signal.SIGTERM


def test_what_is_another_users_is_named_and_the_rest_is_told(process, finish, monkeypatch) -> None:
    here, kill = Run(finish("seed=0", epochs=3)), os.kill
    hold(here, process.pid, machine())

    def refuse(pid: int, number: int) -> None:
        if pid != process.pid:
            raise PermissionError
        kill(pid, number)

    monkeypatch.setattr(os, "kill", refuse)
    assert cancel([here], [1]) == [
        "launcher 1 is another user's, who alone can stop it",
        f"{here.folder.name}: process {process.pid} told to save and stop",
    ]


def test_a_damaged_run_does_not_keep_the_others_from_being_cancelled(process, finish) -> None:
    damaged, here = (Run(finish(f"seed={seed}", epochs=3)) for seed in range(2))
    (damaged.folder / "job.json").write_text('{"queue": "slurm"}')
    hold(here, process.pid, machine())
    said = cancel([damaged, here], [])
    assert said[0].startswith(f"{damaged.folder.name} is left as it is: ") and "job.json is damaged" in said[0]
    assert said[1] == f"{here.folder.name}: process {process.pid} told to save and stop"


def test_nothing_to_cancel(finish) -> None:
    assert cancel([Run(finish("seed=0")), Run(finish("seed=1", epochs=3))], []) == []


def test_a_queued_job_that_another_sweep_counts_on_stays_for_it(finish, monkeypatch) -> None:
    run, cancelled = Run(finish("seed=0", epochs=3)), []
    run.note_job("12", "log", "slurm", "first", earlier=["11"])
    run.count_on("second")
    monkeypatch.setattr(slurm, "queued", lambda runs: slurm.Queue({job: QueueEntry("PENDING") for job in ("11", "12")}))
    monkeypatch.setattr(slurm, "cancel_jobs", cancelled.extend)
    assert cancel([run], [], ["first"]) == ["SLURM job 12 stays for sweep second, which counts on it, too"]
    assert not cancelled
    run.count_on("third")
    assert cancel([run], []) == ["SLURM job 12 cancelled", "SLURM job 11 cancelled"]  # named itself
    assert cancel([run], [], ["third"])[0].endswith("stays for sweep second, which counts on it, too")
    assert cancel([run], [], ["second"]) == ["SLURM job 12 cancelled", "SLURM job 11 cancelled"]


def test_a_job_that_runs_share_is_cancelled_for_all_of_them_or_stays(finish, monkeypatch) -> None:
    runs, cancelled = [Run(finish(f"seed={seed}", epochs=3)) for seed in range(3)], []
    names = [run.folder.name for run in runs]
    for run in runs:
        run.note_job("12_0", "log", "slurm", "s", beside=[name for name in names if name != run.folder.name])
    monkeypatch.setattr(slurm, "queued", lambda runs: slurm.Queue({"12_0": QueueEntry("RUNNING")}))
    monkeypatch.setattr(slurm, "cancel_jobs", cancelled.extend)
    why = f"for {runs[2].id}: SLURM cancels whole jobs, so name all that share it, or the sweep"
    assert cancel(runs[:2], []) == [f"SLURM job 12_0 stays {why}"]
    assert not cancelled
    runs[2].fail(ValueError("the others go on"))
    assert cancel(runs[:2], []) == ["SLURM job 12_0 cancelled"]
    (runs[2].folder / "error.txt").unlink()
    runs[2].count_on("another")
    assert cancel(runs, [], ["s"]) == ["SLURM job 12_0 stays for sweep another, which counts on it, too"]


def test_where_slurm_does_not_answer_the_rest_is_cancelled_and_that_is_an_error(process, finish, monkeypatch) -> None:
    run = Run(finish("seed=0", epochs=3))
    hold(run, process.pid, machine())
    monkeypatch.setattr(slurm, "queued", lambda runs: slurm.Queue({}, away=True))
    with pytest.raises(
        UserError, match="told to save and stop\nSLURM does not answer, and none of its jobs was cancelled"
    ):
        cancel([run], [])
    assert process.wait(30) == -signal.SIGTERM
