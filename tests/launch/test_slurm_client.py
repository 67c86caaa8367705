"""What SLURM's queue corrects of states on disk; its client programs are imitated, tests/launch/slurm has the real ones."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from common import METHODS, TINY

from moco.errors import UserError
from moco.launch import slurm_client as slurm
from moco.launch.slurm_client import Queue, QueueEntry
from moco.runs.lease import Place, Stopped
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
        assert slurm.corrected(run, before, Queue({"12_3": QueueEntry(entry)})) == state
    assert slurm.corrected(run, State.DONE, Queue({"12_3": QueueEntry(entry)})) == State.DONE
    assert slurm.corrected(run, State.PENDING, Queue({})) == State.PENDING
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")):
        assert slurm.corrected(run, State.RUNNING, Queue({"12_3": QueueEntry(entry)})) == state


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
        answers["scontrol"] = f"JobId=15 ArrayJobId=12 ArrayTaskId=3 JobState={end} Reason=None"
    monkeypatch.setattr(Run, "silence", lambda self: silence)
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")):
        assert slurm.corrected(run, State.RUNNING, Queue({})) == state
    with run.lease("train", place=Place("s", queue="local", job="12")):
        assert slurm.corrected(run, State.RUNNING, Queue({})) == State.RUNNING


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
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")):
        pass
    answers |= {"squeue": "", "sacct": f"12_3|{end}\n12_4|RUNNING\n"}
    explain = lambda state: slurm.explain(run, state, slurm.queued([run]))  # noqa: E731
    assert explain(State.KILLED) == state
    assert explain(State.STOPPED) == State.STOPPED
    (run.folder / "log").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=15.0\n")
    assert explain(State.KILLED) == State.OUT_OF_MEMORY
    run.note_job("12", run.folder / "log", "local", "s")
    assert explain(State.KILLED) == State.KILLED


@pytest.mark.parametrize(
    ("end", "state"),
    [("FAILED", State.FAILED), ("CANCELLED by 0", State.CANCELLED), ("TIMEOUT", State.TIMED_OUT), ("COMPLETED", None)],
)
def test_a_job_that_ended_before_it_held_its_run(end: str, state: State | None, run: Run, answers: Answers) -> None:
    """However an earlier attempt ended, and whether the array was split or not."""
    answers |= {"squeue": "", "sacct": f"12_[0,2-5%4]|{end}\n"}
    for before in (State.PENDING, State.STOPPED):
        assert slurm.explain(run, before, slurm.queued([run])) == (state or before)
    with pytest.raises(Stopped), run.lease("train", place=Place("s", queue="slurm", job="11")):
        raise Stopped("SIGTERM")
    run.note_job("12_3", run.folder / "log", "slurm", "s")
    assert slurm.explain(run, State.STOPPED, slurm.queued([run])) == (state or State.STOPPED)
    with pytest.raises(Stopped), run.lease("train"):  # by hand, since then
        raise Stopped("SIGTERM")
    assert slurm.explain(run, State.STOPPED, slurm.queued([run])) == State.STOPPED


@pytest.mark.parametrize(
    ("listed", "jobs"),
    [
        ("7", ["7"]),
        ("29_4", ["29_4"]),
        ("29_[0-2]", ["29_0", "29_1", "29_2"]),
        ("29_[1,4-5%2]", ["29_1", "29_4", "29_5"]),
        ("29_[3]", ["29_3"]),
    ],
)
def test_jobs_of_an_array_that_was_not_split(listed: str, jobs: list[str]) -> None:
    assert slurm.members(listed) == jobs


def test_slurm_is_asked_once_for_all_jobs(
    answers: Answers, run: Run, finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run, *(Run(finish(*METHODS["moco"], *TINY, f"seed={seed}", epochs=1)) for seed in range(1, 6))]
    for i, each in enumerate(runs):
        each.note_job(f"12_{i}", each.folder / "log", "slurm", "s")
    calls: list[str] = []
    client = slurm._client
    monkeypatch.setattr(slurm, "_client", lambda *words: calls.append(words[0]) or client(*words))
    answers |= {"squeue": "", "sacct": "", "scontrol": "JobId=12 ArrayJobId=12 ArrayTaskId=0-5 JobState=CANCELLED"}
    queue = slurm.queued(runs)
    assert [slurm.explain(each, State.PENDING, queue) for each in runs] == [State.CANCELLED] * 6
    assert calls == ["squeue", "sacct", "scontrol"]


def test_where_slurm_does_not_answer_the_disk_counts(
    answers: Answers, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: program)
    slurm._note.cache_clear()
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")):
        for _ in range(2):
            queue = slurm.queued([run])
            assert queue.away and slurm.corrected(run, State.RUNNING, queue) == State.RUNNING
    assert slurm.explain(run, State.KILLED, queue) == State.KILLED
    assert capsys.readouterr().err == "squeue failed; states are those on disk\n"


def test_a_linear_evaluation_of_a_finished_run_shows_while_it_waits(run: Run, answers: Answers) -> None:
    answers["squeue"] = "12_3|PENDING|Priority|\n12_2|RUNNING||n1\n"
    run.note_job("12_3", "log", "slurm", "s", work=["linear"], earlier=["12_2"])
    run.write_result({"knn/top1": 50.0})
    queue = slurm.queued([run])
    assert slurm.corrected(run, run.state(), queue) == State.QUEUED and slurm.queued_jobs(run, queue) == [
        "12_3",
        "12_2",
    ]
    assert slurm.covers(run, ["linear"]) and not slurm.covers(run, ["linear", "linear_cached"])
    run.write_result({"knn/top1": 50.0, "linear/top1": 60.0})
    assert slurm.corrected(run, run.state(), queue) == State.DONE


@pytest.mark.parametrize(
    ("ended", "over"),
    [(None, False), (State.FAILED, True), (State.KILLED, True), (State.PAUSED, True), (State.DONE, True)],
)
def test_a_job_that_runs_share_may_go_on_for_others(
    ended: State | None, over: bool, run: Run, answers: Answers
) -> None:
    """Where its work on a run has ended, the run stands as the disk says, and its next job is another."""
    answers["squeue"] = "12_3|RUNNING|None|n1\n"
    run.note_job("12_3", "log", "slurm", "s", work=["knn"], beside=["another"])
    if ended == State.DONE:
        run.write_result({"knn/top1": 50.0})
    with run.lease("train", place=Place("s", queue="slurm", job="12_3")) as lease:
        if ended:
            lease.end(ended, "")
        queue = slurm.queued([run])
        assert slurm.is_over(run) == over
        assert slurm.queued_jobs(run, queue) == ([] if over else ["12_3"])
        assert slurm.corrected(run, run.state(), queue) == (ended or State.RUNNING)
    run.note_job("12_4", "log", "slurm", "s", work=["knn"], beside=["another"])
    assert not slurm.is_over(run)  # this job has not begun
    run.note_job("12_3", "log", "slurm", "s", work=["knn"])
    assert not slurm.is_over(run)


def test_a_shared_job_that_lacks_memory_says_so_in_its_own_log(run: Run, answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text(
        "slurmstepd-n2: error: StepId=21.0 exceeded memory limit (22 > 21), being killed\n"
    )
    run.note_job("12_3", tmp_path / "own", "slurm", "s", beside=["another"], shared_log=tmp_path / "shared")
    assert slurm.explain(run, State.KILLED, slurm.queued([run])) == State.OUT_OF_MEMORY
    assert "exceeded memory limit" in run.log_tail(1)[0]  # its process has not begun
    (tmp_path / "own").write_text("epoch 1\n")
    assert run.log_tail(1) == ["epoch 1"]


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
