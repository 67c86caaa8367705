"""The cluster that the other tests here rely on is a real one: it does what SLURM does to jobs on a bad day."""

import subprocess
import sys
from pathlib import Path

import pytest
from cluster import wait_until

HOLD_A_GIGABYTE = f"{sys.executable} -c 'import time; x = bytearray(10**9); time.sleep(60)'"


def test_both_nodes_are_idle(slurm):
    assert slurm.states() == {"n1": "idle", "n2": "idle"}


def test_srun_spans_both_nodes_and_each_sees_its_own_gpus(slurm):
    show = ("sh", "-c", "echo $(hostname) $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES")
    assert sorted(slurm.run("srun", "-N2", "--gpus-per-node=1", *show).splitlines()) == ["n1 n1 0", "n2 n2 0"]
    assert sorted(slurm.run("srun", "-N2", "--gpus-per-node=2", *show).splitlines()) == ["n1 n1 0,1", "n2 n2 0,1"]


def test_tasks_of_an_array_get_a_gpu_each(slurm):
    job = slurm.sbatch("echo $(hostname) $CUDA_VISIBLE_DEVICES; sleep 1", "--array=0-3", "--gpus-per-node=1")
    tasks = [f"{job}_{i}" for i in range(4)]
    for task in tasks:
        slurm.wait_job(task, "COMPLETED")
    assert sorted(slurm.output(task).strip() for task in tasks) == ["n1 0", "n1 1", "n2 0", "n2 1"]


def test_an_array_above_the_limit_is_refused(slurm):
    assert "MaxArraySize            = 5" in slurm.run("scontrol", "show", "config")
    with pytest.raises(RuntimeError, match="Invalid job array specification"):
        slurm.sbatch("true", "--array=0-5")


def test_an_urgent_job_requeues_a_normal_one(slurm):
    job = slurm.sbatch("echo start ${SLURM_RESTART_COUNT:-0}; sleep 60")
    slurm.wait_job(job, "RUNNING")
    urgent = slurm.sbatch("sleep 1", "--partition=urgent", "--nodes=2", "--gpus-per-node=2", "--exclusive")
    slurm.wait_job(urgent, "COMPLETED")
    assert slurm.wait_job(job, "RUNNING")["Restarts"] == "1"
    wait_until(lambda: slurm.output(job).count("start") == 2, 60, "the second start")
    assert "DUE TO PREEMPTION" in slurm.output(job)


@pytest.mark.parametrize("noticed", [True, False])
def test_the_job_of_a_dead_node_runs_again_on_the_other(slurm, noticed):
    job = slurm.sbatch("echo on $SLURMD_NODENAME; sleep 60")
    first = slurm.wait_job(job, "RUNNING")["NodeList"]
    wait_until(lambda: slurm.output(job), 60, "the job's first line")
    slurm.kill_node(first, noticed)
    slurm.wait_job(job, "PENDING", timeout=180)
    second = slurm.wait_job(job, "RUNNING")
    assert second["Restarts"] == "1" and second["NodeList"] != first
    assert slurm.states()[first].startswith("down")


@pytest.mark.parametrize("launcher", ["", "srun "])
def test_a_job_above_its_memory_is_killed_and_its_log_says_so(slurm, launcher):
    job = slurm.sbatch(launcher + HOLD_A_GIGABYTE, "--mem=200M")
    slurm.wait_job(job, "FAILED")
    assert "exceeded memory limit" in slurm.output(job)


def test_nothing_outlives_the_process_that_started_the_cluster(tmp_path):
    script = "import sys, time; from cluster import Cluster; c = Cluster(sys.argv[1]); c.start()"
    script += "; c.wait_job(c.sbatch('sleep 600'), 'RUNNING'); print('up', flush=True); time.sleep(600)"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "up\n"
    assert len(processes_of(tmp_path)) > 4
    owner.kill()
    owner.communicate()
    wait_until(lambda: not processes_of(tmp_path), 60, "its processes to end")


def processes_of(folder: Path) -> list[str]:
    """Daemons and jobs alike have the cluster's configuration in their environment."""
    mark, found = f"SLURM_CONF={folder}/".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name] if mark in (process / "environ").read_bytes() else []
        except OSError:  # it has just ended
            pass
    return found


def test_time_runs_out_with_a_warning_before(slurm):
    """Last, as it waits for two of slurmctld's looks at the clock, 30 s apart and counted from its start."""
    # SLURM sends it at the first look that finds less than 20 + 30 s left, so no sooner than 10 s after the start.
    script = """srun sh -c 'trap "echo warned" USR2; while true; do sleep 0.2; done'"""
    job = slurm.sbatch(script, "--time=1", "--signal=USR2@20")
    slurm.wait_job(job, "RUNNING")
    wait_until(lambda: "warned" in slurm.output(job), 60, "the warning")
    slurm.expire(job)
    slurm.wait_job(job, "TIMEOUT", timeout=180)
    assert "DUE TO TIME LIMIT" in slurm.output(job)
