"""What SLURM's queue corrects of states on disk; its client programs are imitated, tests/launch/slurm has the real ones."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from common import METHODS, TINY

from moco.errors import UserError
from moco.launch import slurm_client as slurm
from moco.launch.slurm_client import QueueEntry
from moco.runs.lease import Place
from moco.runs.run import Run
from moco.runs.state import State

Answers = dict[str, str]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What SLURM's programs print, by name; those that are not in it are not on PATH."""
    found: Answers = {}

    def client(*command: str) -> str:
        if command[0] not in found:
            raise UserError(f"{command[0]} failed")
        return found[command[0]]

    monkeypatch.setattr(slurm, "_client", client)
    monkeypatch.setattr(shutil, "which", lambda program: program if program in found else None)
    return found


@pytest.fixture
def run(finish: Callable[..., Path]) -> Run:
    """A run that was submitted to SLURM as job 12_3 and has no result."""
    run = Run(finish(*METHODS["moco"], *TINY, epochs=1))
    run.note_job("12_3", run.folder / "log", "slurm", "s")
    return run


def test_a_local_jobs_id_is_not_looked_for_in_slurms_queue(run: Run) -> None:
    for queue, found in (("local", None), ("slurm", "77")):
        run.note_job("77", "log", queue, "s")
        assert slurm.queued_job(run, {"77": QueueEntry("PENDING")}) == found


def test_the_queue_is_asked_only_where_a_run_was_submitted_to_it(run: Run, answers: Answers) -> None:
    assert slurm.queued([run]) == {}  # no SLURM here
    answers["squeue"] = "12_3|PENDING|Priority|\n12_4|RUNNING|None|n1\n"
    assert slurm.queued([run]) == {"12_3": ("PENDING", "Priority", ""), "12_4": ("RUNNING", "None", "n1")}
    run.note_job("12_3", "log", "local", "s")
    assert slurm.queued([run]) == {}


@pytest.mark.parametrize(
    ("entry", "state"),
    [("PENDING", State.QUEUED), ("REQUEUED", State.QUEUED), ("RUNNING", State.RUNNING), ("COMPLETING", State.RUNNING)],
)
def test_a_job_in_the_queue(entry: str, state: State, run: Run, answers: Answers) -> None:
    answers["squeue"] = ""
    for before in (State.PENDING, State.STOPPED, State.KILLED):
        assert slurm.corrected(run, before, {"12_3": QueueEntry(entry)}) == state
    assert slurm.corrected(run, State.DONE, {"12_3": QueueEntry(entry)}) == State.DONE
    assert slurm.corrected(run, State.PENDING, {}) == State.PENDING
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")):
        assert slurm.corrected(run, State.RUNNING, {"12_3": QueueEntry(entry)}) == state


@pytest.mark.parametrize(
    ("end", "silence", "state"),
    [
        ("NODE_FAIL", 0.0, State.KILLED),
        ("TIMEOUT", 0.0, State.KILLED),
        ("RUNNING", 1e9, State.RUNNING),  # it came into the queue after that was read
        (None, 0.0, State.RUNNING),
        (None, 1e9, State.KILLED),
    ],
)
def test_a_holder_whose_job_is_not_in_the_queue(
    end: str | None, silence: float, state: State, run: Run, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["squeue"] = ""
    if end:
        answers["scontrol"] = f"JobId=15 ArrayJobId=12 JobState={end} Reason=None"
    monkeypatch.setattr(Run, "silence", lambda self: silence)
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")):
        assert slurm.corrected(run, State.RUNNING, {}) == state
    with run.lease("train", place=Place("s", queue="local", job="12")):
        assert slurm.corrected(run, State.RUNNING, {}) == State.RUNNING


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("OUT_OF_MEMORY", State.OUT_OF_MEMORY),
        ("TIMEOUT", State.TIMED_OUT),
        ("PREEMPTED", State.PREEMPTED),
        ("NODE_FAIL", State.NODE_FAIL),
        ("CANCELLED by 0", State.CANCELLED),
        ("FAILED", State.KILLED),
        ("COMPLETED", State.KILLED),
        ("", State.KILLED),
    ],
)
def test_why_a_job_was_killed(end: str, state: State, run: Run, answers: Answers) -> None:
    answers |= {"squeue": "", "sacct": f"{end}\n"}
    assert slurm.explain(run, State.KILLED) == state
    assert slurm.explain(run, State.STOPPED) == State.STOPPED
    (run.folder / "log").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=15.0\n")
    assert slurm.explain(run, State.KILLED) == State.OUT_OF_MEMORY
    run.note_job("12", run.folder / "log", "local", "s")
    assert slurm.explain(run, State.KILLED) == State.KILLED


def test_a_refusal_names_the_partitions(answers: Answers) -> None:
    said = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition"
    )
    assert slurm.refusal(said) == "Batch job submission failed: Invalid partition"
    answers["sinfo"] = "normal\nurgent\n"
    assert slurm.refusal(said) == "Batch job submission failed: Invalid partition; there are normal, urgent"
    assert slurm.refusal("") == "it does not say why"


def test_a_job_that_cannot_be_queued_again_tries_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([UserError("scontrol does not answer: is SLURM's controller up?"), None])
    asked: list[tuple[str, ...]] = []

    def client(*command: str) -> str:
        asked.append(command)
        if error := next(answers):
            raise error
        return ""

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(slurm, "_client", client)
    monkeypatch.setattr(slurm, "REQUEUE_AGAIN", 0.0)
    before = signal.getsignal(signal.SIGUSR2)
    try:
        slurm.requeue(Run(tmp_path))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert asked == [("scontrol", "requeue", "12")] * 2
    assert "does not answer: is SLURM's controller up?; tries again" in capsys.readouterr().out
