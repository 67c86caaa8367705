"""Several points in one job of a real cluster: a process, a log and a state each."""

import os
import signal
from pathlib import Path

from cluster import wait_until
from submitting import assert_same, call, configuration, job_of, read, runs, sweep

WORDS = ["epochs=12", "checkpoint_minutes=0.01"]
SHARED = ["hydra.launcher.points_per_job=4", "hydra.launcher.mem_gb=4", "hydra.launcher.sweep=shared"]


def process(run: Path) -> int:
    """The id of the process that writes the run's log, seen from outside of its node."""
    for found in Path("/proc").glob("[0-9]*"):
        try:
            command = (found / "cmdline").read_bytes()
            if b"moco.launch.children" in command and os.readlink(found / "fd/1") == read(run / "job.json")["log"]:
                return int(found.name)
        except OSError:
            pass
    raise AssertionError(f"{run} is worked on nowhere")


def test_of_four_points_in_a_job_one_fails_one_is_killed_and_the_others_are_queued_again_together(slurm, tmp_path):
    sent = sweep(slurm, tmp_path / "runs", "optimizer.lr=1e-3,2e-3,1e30,3e-3,4e-3", *WORDS, *SHARED)
    assert sent.returncode == 0, sent.stderr
    assert sweep(slurm, tmp_path / "plain", *WORDS, "optimizer.lr=1e-3").returncode == 0
    moco = lambda *words: call(slurm, "-m", "moco", *words, "--runs-dir", tmp_path / "runs")  # noqa: E731
    found = {configuration(run)["optimizer"]["lr"]: run for run in runs(tmp_path / "runs")}
    first, second, failed, killed, last = (found[lr] for lr in (1e-3, 2e-3, 1e30, 3e-3, 4e-3))
    shared = job_of(first)
    assert {job_of(run) for run in (second, failed, killed)} == {shared} != {job_of(last)}
    assert len({read(run / "job.json")["log"] for run in found.values()}) == 5

    for run in (first, second, killed):
        wait_until((run / "checkpoint.pt").exists, 300, "a checkpoint")
        os.kill(process(run), signal.SIGKILL if run == killed else signal.SIGSTOP)
    wait_until(lambda: read(killed / "lease.json")["ended"] and (failed / "error.txt").exists(), 120, "two to end")
    rows = moco("status", "shared").stdout.splitlines()
    of_job = [row for row in rows if f" {shared} " in row]
    assert sorted(word for row in of_job for word in ("failed", "killed", "running") if f" {word} " in row) == [
        *("failed", "killed", "running", "running")
    ]
    said = moco("cancel", first.name.rpartition("-")[2]).stdout
    assert said.startswith(f"SLURM job {shared} stays for {second.name.rpartition('-')[2]}: SLURM cancels whole jobs")

    held = [process(run) for run in (first, second)]
    slurm.run("scancel", "--signal=USR2", shared)
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    for job in (shared, job_of(last), job_of(runs(tmp_path / "plain")[0])):
        restarts = slurm.wait_job(job, "COMPLETED", timeout=600)["Restarts"]
        assert int(restarts) == (job == shared)
    log = Path(read(first / "job.json")["shared_log"]).read_text()
    assert log.count("checkpoint saved, back into the queue") == 2 and "was ended by signal 9" in log
    status = moco("status", "shared").stdout
    assert "3 done, 1 failed, 1 killed" in status.splitlines(), status
    assert_same(first, runs(tmp_path / "plain")[0])
    attempts = {run: len(read(run / "provenance.json")) for run in found.values()}
    assert attempts == {first: 2, second: 2, failed: 1, killed: 1, last: 1}
    assert "became infinite or NaN" in moco("logs", failed).stdout
