"""A point on two nodes with two tasks each: ranks that meet over the network, are stopped together and queued again once."""

import json
import os
import signal

import torch
from cluster import wait_until
from submitting import call, hold, job_of, log, method, process_of, read, runs, sweep

# Long enough that in the seconds between a preemption's warning and its end no machine comes to the last step.
EPOCHS = 16
WORDS = [f"epochs={EPOCHS}", "checkpoint_minutes=0", "method.splits=4", "optimizer=sgd", "optimizer.lr=1e-5"]
TASKS = ["hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2"]


def test_four_tasks_that_are_warned_preempted_and_lose_one_end_as_a_single_process(slurm, tmp_path):
    moco = lambda *words: call(slurm, "-m", "moco", *words, "--runs-dir", tmp_path / "tasks").stdout  # noqa: E731
    sent = sweep(slurm, tmp_path / "tasks", *WORDS, *TASKS)
    assert sent.returncode == 0, sent.stderr
    [run] = runs(tmp_path / "tasks")
    job = job_of(run)

    def attempts(number):
        wait_until(lambda: len(read(run / "provenance.json")) == number, 300, f"attempt {number}")

    hold(run)
    first = process_of(job)
    slurm.run("scancel", "--signal=USR2", job)
    os.kill(first, signal.SIGCONT)
    attempts(2)
    assert log(run).count("checkpoint saved, back into the queue") == 1
    assert read(run / "lease.json")["host"] == "n1" and int(slurm.job(job)["NumTasks"]) == 4
    hold(run)
    slurm.wait_job(slurm.sbatch("sleep 1", "--partition=urgent", "--nodelist=n2", "--exclusive"), "COMPLETED")
    attempts(3)
    os.kill(process_of(job, rank=3), signal.SIGKILL)
    slurm.wait_job(job, "FAILED")
    assert "1 failed" in moco("status").splitlines()
    assert "one of the 4 processes of this run has ended" in moco("logs", run)

    assert sweep(slurm, tmp_path / "tasks", *WORDS, *TASKS).returncode == 0
    slurm.wait_job(job_of(run), "COMPLETED", timeout=600)
    plain = sweep(slurm, tmp_path / "plain", *WORDS)
    assert plain.returncode == 0
    [other] = runs(tmp_path / "plain")
    slurm.wait_job(job_of(other), "COMPLETED", timeout=600)
    mine, single = method(run), method(other)
    assert mine.keys() == single.keys()
    for key, value in mine.items():
        assert torch.allclose(value, single[key], atol=1e-4), key
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
