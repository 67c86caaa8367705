"""Points that share a job, without SLURM: what each process is given, and how their ends become the job's."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import ENVIRONMENT
from sweeping import wait_for

from moco.launch import children
from moco.launch import slurm_client as slurm
from moco.launch.job import Job
from moco.launch.together import Jobs
from moco.runs.lease import Place, Stopped, born
from moco.runs.run import Run

# A point's process: notes what it was given in its log, and ends as its run's folder says.
POINT = """
import os, pickle, signal, sys, time
parent, work = pickle.load(sys.stdin.buffer)
job = work.__self__
print(os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), signal.getsignal(signal.SIGTERM).name)
def stop(number, frame):
    sys.exit(75)
signal.signal(signal.SIGUSR2, stop)
end = (job.run.folder / "end").read_text()
if end == "waits":
    print("listens", flush=True)
    time.sleep(60)
sys.exit(int(end))
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Jobs]]:
    """jobs("0", "1", "waits") -> points whose processes end so; all in SLURM job 12."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(children, "COMMAND", ["-c", POINT])

    def make(*ends: str) -> Jobs:
        made = []
        for i, end in enumerate(ends):
            run = Run(tmp_path / f"run-{i}")
            run.folder.mkdir()
            (run.folder / "end").write_text(end)
            made.append(Job(run, True, (), Place()))
        return Jobs(made, tmp_path)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)}
    try:
        yield make
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def logs(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("12_point*.out"))]


def test_each_gets_its_share_and_one_that_fails_fails_the_job_alone(
    jobs: Callable[..., Jobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    jobs("0", "0", "0")()
    assert logs(tmp_path) == ["1 2 SIG_IGN\n", "1 5 SIG_IGN\n", "1 2 SIG_IGN\n"]
    (tmp_path / "run-1/end").write_text("1")
    again = Jobs([Job(Run(tmp_path / f"run-{i}"), True, (), Place()) for i in range(2)], tmp_path)
    with pytest.raises(SystemExit) as left:
        again()
    assert left.value.code == 1


def test_time_that_is_up_reaches_all_and_the_job_is_queued_again_once_for_those_that_are_left(
    jobs: Callable[..., Jobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requeued: list[tuple[Run, ...]] = []
    monkeypatch.setattr(slurm, "requeue", lambda *runs: requeued.append(runs))
    points = jobs("waits", "waits", "0")
    first, second, failed = (job.run for job in points.jobs)
    for run in (first, second, failed):
        run.note_job("12", "log", "slurm", "s", work=["knn"], beside=["another"])
    failed.fail(ValueError("before the job was queued again"))

    def warn() -> None:
        wait_for(lambda: sum("listens" in log for log in logs(tmp_path)) == 2)
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=warn).start()
    with pytest.raises(Stopped):
        points()
    assert requeued == [(first, second)]
    assert len(logs(tmp_path)) == 2  # what has failed is not begun again


PARENT = """
import sys
from pathlib import Path
from moco.launch import children
from moco.launch.job import Job
from moco.launch.together import Jobs
from moco.runs.lease import Place
from moco.runs.run import Run
code = "import os, time; from moco.launch.children import received; received(); print(os.getpid(), flush=True); time.sleep(60)"
children.COMMAND[:] = ["-c", code]
Jobs([Job(Run(sys.argv[1]), True, (), Place())], Path(sys.argv[1]))()
"""


def test_no_point_outlives_its_job(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=ENVIRONMENT) as parent:
        [log] = wait_for(lambda: list(tmp_path.glob("*_point0.out")))
        pid = int(wait_for(log.read_text))
        parent.kill()
    wait_for(lambda: born(pid) is None)
