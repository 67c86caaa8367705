"""Sweeps as people start them, `python train.py -m ... hydra/launcher=slurm`, on a real cluster on its bad days."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import wait_until
from submitting import (
    LONG,
    OFTEN,
    POINT,
    ROOT,
    WAIT,
    assert_same,
    call,
    configuration,
    environment,
    hold,
    job_of,
    jobs,
    launched,
    log,
    process_of,
    read,
    runs,
    sweep,
)


@pytest.fixture(scope="module")
def uninterrupted(slurm, tmp_path_factory):
    """The run of POINT and LONG, trained here by a process of its own while the first tests run; waits for it."""
    runs_dir = tmp_path_factory.mktemp("uninterrupted")
    command = [sys.executable, ROOT / "train.py", *POINT, LONG, f"runs_dir={runs_dir}"]
    with open(runs_dir / "log", "w") as log:
        process = subprocess.Popen(command, env=environment(slurm), stdout=log, stderr=log)

    def finished() -> Path:
        assert process.wait(timeout=900) == 0, (runs_dir / "log").read_text()
        return runs(runs_dir)[0]

    yield finished
    process.kill()
    process.wait()


def test_arrays_over_two_nodes_and_only_what_is_missing_again(slurm, tmp_path):
    """Six points make an array of five and a job of its own; each has a GPU to itself."""
    words = ["epochs=1", "hydra.launcher.gpus_per_node=1"]
    before = jobs(slurm)
    done = sweep(slurm, tmp_path, "seed=range(6)", *words, WAIT)
    assert done.returncode == 0, done.stderr
    assert len(jobs(slurm) - before) == 6
    assert len({job_of(run).partition("_")[0] for run in runs(tmp_path)}) == 2
    leases = [read(run / "lease.json") for run in runs(tmp_path)]
    gpu = lambda lease: (lease["host"], lease["place"]["visible"])  # noqa: E731
    assert {gpu(lease) for lease in leases} == {(n, g) for n in ("n1", "n2") for g in "01"}
    for a in leases:
        for b in leases:
            apart = a["finished"] <= b["started"] or b["finished"] <= a["started"]
            assert a is b or apart or gpu(a) != gpu(b)

    before = jobs(slurm)
    again = sweep(slurm, tmp_path, "seed=range(7)", *words, WAIT)
    assert again.returncode == 0, again.stderr
    assert "7 runs, 6 done, 0 running elsewhere, 1 to start" in again.stdout
    assert len(jobs(slurm) - before) == 1
    assert len(list(tmp_path.glob("*/result.json"))) == 7
    assert all(lease in [read(run / "lease.json") for run in runs(tmp_path)] for lease in leases)


def test_preempted_or_on_a_dead_node_ends_as_if_uninterrupted(slurm, tmp_path, uninterrupted):
    """Two sweeps of one point, a node each; their launchers are killed as soon as the jobs are in the queue."""
    found = {}
    for node, other in (("n1", "n2"), ("n2", "n1")):
        with launched(slurm, tmp_path / node, LONG, WAIT, f"hydra.launcher.exclude={other}", *OFTEN) as launcher:
            found[node] = run = wait_until(lambda n=node: runs(tmp_path / n), 120, "a folder")[0]
            wait_until(lambda r=run: (r / "job.json").exists(), 120, "a job")
            launcher.kill()
    for run in found.values():
        hold(run)
    slurm.kill_node("n2", noticed=True)
    slurm.wait_job(job_of(found["n2"]), "PENDING")
    slurm.run("scontrol", "update", f"JobId={job_of(found['n2'])}", "ExcNodeList=")
    urgent = slurm.sbatch("sleep 1", "--partition=urgent", "--nodelist=n1", "--exclusive")
    slurm.wait_job(urgent, "COMPLETED")
    for run in found.values():
        job = slurm.wait_job(job_of(run), "COMPLETED", timeout=900)
        assert int(job["Restarts"]) >= 1
        assert len(read(run / "provenance.json")) >= 2
        assert_same(run, uninterrupted())
    assert "DUE TO PREEMPTION" in log(found["n1"])
    assert "hostname=n2" in log(found["n2"]) and read(found["n2"] / "lease.json")["host"] == "n1"


def test_more_work_than_a_time_limit_allows(slurm, tmp_path, uninterrupted):
    """A minute a job, held still until SLURM warns."""
    sent = sweep(slurm, tmp_path, LONG, *OFTEN, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    assert sent.returncode == 0, sent.stderr
    [run] = runs(tmp_path)
    hold(run)
    job = slurm.wait_job(job_of(run), "COMPLETED", timeout=900)
    assert int(job["Restarts"]) >= 1
    assert "checkpoint saved, back into the queue" in log(run)
    assert_same(run, uninterrupted())


def test_points_that_raise_are_killed_or_need_too_much_memory_beside_one_that_ends(slurm, tmp_path):
    """m=3000000 is a queue of 1.5 GB where 1.5 are granted in all; k=99999 neighbours are more than there are images."""
    words = ["m=64,128,3000000", "k=5,99999", "epochs=8", "hydra.launcher.mem_gb=1.5", "hydra.launcher.sweep=mixed"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with launched(slurm, tmp_path, *words, WAIT, **pipes) as launcher:
        wait_until(lambda: len(list(tmp_path.glob("*/job.json"))) == 6, 120, "all jobs")
        found = {(config["m"], config["k"]): run for run in runs(tmp_path) if (config := configuration(run))}
        victim = found[128, 5]
        wait_until((victim / "lease.json").exists, 300, "the victim to start")
        os.kill(process_of(job_of(victim)), signal.SIGKILL)
        out, err = launcher.communicate(timeout=600)
    assert launcher.returncode == 1
    lines = err.splitlines()
    for (m, k), word in {(128, 5): "killed", (3000000, 5): "out of memory", (64, 99999): "failed"}.items():
        assert f"{word}: m={m} k={k}  ({found[m, k]})" in lines
    assert "error" not in out and f"{found[64, 5]}" not in err
    assert "done  m=64 k=5" in out.splitlines()

    status = call(slurm, "-m", "moco", "status", "mixed", "--runs-dir", tmp_path).stdout
    assert "3 failed, 1 done, 1 killed, 1 out of memory" in status.splitlines(), status
    assert "k=99999 is more than the" in call(slurm, "-m", "moco", "logs", found[64, 99999]).stdout


def test_edits_after_submission_change_nothing(slurm, tmp_path, closed):
    """Of configuration never, of code not where snapshot=true; without it the job runs the code that is there then."""
    repo = checkout(tmp_path / "repo")
    for name, snapshot in (("frozen", "true"), ("followed", "false")):
        sent = sweep(slurm, tmp_path / name, f"hydra.launcher.snapshot={snapshot}", repo=repo, cwd=repo)
        assert sent.returncode == 0, sent.stderr
    [frozen], [followed] = runs(tmp_path / "frozen"), runs(tmp_path / "followed")

    edit(repo / "conf/train.yaml", "seed: 0", "seed: 1")
    edit(repo / "conf/recipe/quickstart.yaml", "epochs: 20", "epochs: 3")
    edit(repo / "moco/training/pretrain.py", "run = run or Run(", "print('edited')\n    run = run or Run(")
    closed()
    for run in (frozen, followed):
        slurm.wait_job(job_of(run), "COMPLETED", timeout=900)
        assert configuration(run)["seed"] == 0 and configuration(run)["epochs"] == 20
        assert read(run / "result.json")["epochs"] == 20
    assert "edited" in log(followed) and "edited" not in log(frozen)
    [attempt] = read(frozen / "provenance.json")
    assert attempt["commit"] == git(repo, "rev-parse", "HEAD") and not attempt["dirty"]


def git(repo: Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", "-C", repo, *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def checkout(repo: Path) -> Path:
    """A git checkout of its own with this code as it is."""
    for name in ("moco", "hydra_plugins", "conf", "sweeps", "train.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, repo / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, repo / name)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "as it is"]):
        git(repo, *words)
    return repo


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_status_logs_and_cancel_read_the_queue(slurm, tmp_path):
    """Of three points, one at a time, the first is done, the second runs and the third waits."""
    words = ["epochs=2,500,501", "hydra.launcher.array_parallelism=1", "hydra.launcher.gpus_per_node=1"]
    sent = sweep(slurm, tmp_path, *words, "hydra.launcher.sweep=three")
    assert sent.returncode == 0, sent.stderr
    moco = lambda *words: call(slurm, "-m", "moco", *words, "--runs-dir", tmp_path)  # noqa: E731
    second = next(run for run in runs(tmp_path) if configuration(run)["epochs"] == 500)
    wait_until((second / "metrics.jsonl").exists, 600, "the second to run")
    text = moco("status", "three").stdout
    rows = {line.split("  ")[-1].strip(): line for line in text.splitlines()}
    assert " done " in rows["epochs=2"]
    assert " running " in rows["epochs=500"] and ":gpu 0" in rows["epochs=500"] and job_of(second) in rows["epochs=500"]
    assert " queued " in rows["epochs=501"] and "JobArrayTaskLimit" in rows["epochs=501"]
    assert "1 done, 1 running, 1 queued" in text.splitlines(), text
    # What a job prints goes through srun, which takes its time; in the end the first epochs may be out of sight.
    logged = lambda: re.search(r"epoch \d+/500", moco("logs", second.name.rpartition("-")[2]).stdout)  # noqa: E731
    wait_until(logged, 120, "the log to hold an epoch")

    said = moco("cancel", "three")
    assert said.returncode == 0 and said.stdout.count("cancelled") == 2, said
    wait_until(lambda: not slurm.run("squeue", "--noheader"), 120, "an empty queue")
    assert "2 cancelled, 1 done" in moco("status", "three").stdout.splitlines()


def test_a_partition_that_does_not_exist(slurm, tmp_path):
    before = jobs(slurm)
    refused = sweep(slurm, tmp_path, "seed=0,1", "hydra.launcher.partition=nowhere")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith("error: sbatch refused: ") and "nvalid partition" in line
    assert jobs(slurm) == before
    assert not runs(tmp_path) and not list(tmp_path.rglob("sweep.json"))


def test_a_queued_order_that_is_cancelled_and_work_beside_a_queued_job(slurm, tmp_path, closed):
    """What was done stays; a linear evaluation waits for the training that is queued; the partition's own time limit holds."""
    words = ["epochs=1", "seed=0,1", "hydra.launcher.timeout_min=null"]
    closed()
    assert sweep(slurm, tmp_path, *words, WAIT).returncode == 0
    before = [read(run / "result.json") for run in runs(tmp_path)]
    slurm.run("scontrol", "update", "PartitionName=normal", "State=DOWN")
    again = sweep(slurm, tmp_path, *words, "rerun=true")
    assert again.returncode == 0 and "rerun=true erases 2 results" in again.stdout, again.stderr
    assert slurm.job(job_of(runs(tmp_path)[0]))["TimeLimit"] in ("UNLIMITED", "Partition_Limit")
    slurm.run("scancel", "--user=root")
    wait_until(lambda: not slurm.run("squeue", "--noheader"), 60, "an empty queue")
    plain = sweep(slurm, tmp_path, *words)
    assert "2 runs, 2 done" in plain.stdout and [read(run / "result.json") for run in runs(tmp_path)] == before

    waiting = jobs(slurm)
    assert sweep(slurm, tmp_path, "epochs=1", "seed=2").returncode == 0
    probe = ["linear_eval=true", "probe=cached", "probe.epochs=1"]
    for said in ("1 job waits for another job of the same run", "0 to start"):
        more = sweep(slurm, tmp_path, "epochs=1", "seed=2", *probe)
        assert more.returncode == 0 and said in more.stdout, more.stdout + more.stderr
    assert len(jobs(slurm) - waiting) == 2
    closed()
    third = next(run for run in runs(tmp_path) if configuration(run)["seed"] == 2)
    slurm.wait_job(job_of(third), "COMPLETED", timeout=300)
    assert {"knn/top1", "linear_cached/top1"} <= set(read(third / "result.json"))


def test_no_slurm_on_the_path(slurm, tmp_path):
    refused = sweep(slurm, tmp_path / "runs", "seed=0,1", PATH=str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        "error: sbatch is not on PATH: start from a login node of the cluster, or use hydra/launcher=local"
    ]
    assert not (tmp_path / "runs").exists()


def test_a_refusal_midway_takes_back_what_was_submitted(slurm, tmp_path):
    """The partition is closed while the arrays of a long sweep are going in."""
    held = "+hydra.launcher.additional_parameters.hold=true"
    try:
        with launched(slurm, tmp_path, "seed=range(200)", held, stderr=subprocess.PIPE, text=True) as launcher:
            wait_until(lambda: list(tmp_path.glob("*/job.json")), 120, "the first array")
            slurm.run("scontrol", "update", "PartitionName=normal", "State=INACTIVE")
            [line] = launcher.communicate(timeout=300)[1].splitlines()
    finally:
        slurm.run("scontrol", "update", "PartitionName=normal", "State=UP")
    assert launcher.returncode == 1
    assert line.startswith("error: sbatch refused: ") and line.endswith(" jobs before it were cancelled")
    assert not slurm.run("squeue", "--noheader")
