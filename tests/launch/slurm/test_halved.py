"""Halved sweeps on a real cluster: nobody needs to stay, and nothing that happens to jobs makes one forget a point."""

import json
import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch
from cluster import wait_until
from submitting import WAIT, call, job_of, launched, method, process_of, read, runs, sweep

from moco.launch.halving import Halving, Race, scores_at, synchronous
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

LR = "optimizer.lr=1e-6,1e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1"
NINE = [LR, "epochs=9", "hydra.launcher.sweep=halved", "hydra.launcher.halving=3", "checkpoint_minutes=0.01"]
FIVE = [*(word.replace("1e-6,1e-5,1e-4,3e-4,", "") for word in NINE), "hydra.launcher.points_per_job=2"]
SIX = ["optimizer.lr=1e-5,1e-4,1e-3,3e-3,1e-2,1e-1", "epochs=3", "hydra.launcher.sweep=six", "hydra.launcher.halving=3"]
SIX += ["hydra.launcher.rungs=1"]


def epochs(run: Run) -> list[int]:
    """Those of metrics.jsonl, as they stand there."""
    return [json.loads(line)["epoch"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def assert_halved(runs_dir: Path, name: str, halving: Halving, total: int) -> list[Run]:
    """Nobody who is paused ranks among the best, what synchronous halving finishes is done, and each epoch stands once.

    Returns the runs that are done.
    """
    members = Sweep(runs_dir, name).runs()
    rungs = halving.epochs(total)
    race = Race(members, halving)
    for run in members:
        assert run.state() in (State.DONE, State.PAUSED)
        stands = epochs(run)
        assert stands == list(range(1, len(stands) + 1))
        assert len(stands) in rungs if run.state() == State.PAUSED else len(stands) == total
        assert run.state() == State.DONE or not race.verdict(run).goes_on
    board = {run.folder.name: scores_at(run.metrics(), rungs) for run in members}
    done = [run for run in members if run.state() == State.DONE]
    best = synchronous(board, halving.eta, halving.rungs - 1)
    assert best and best <= {run.folder.name for run in done} and len(done) < len(members)
    return done


def queue(slurm) -> list[str]:
    return slurm.run("squeue", "--noheader", "--array", "--format=%i").split()


def wait_for_the_end(slurm) -> None:
    """An empty queue: one promotion is there as long as anything goes on."""
    wait_until(lambda: not queue(slurm), 900, "an empty queue")


def promotions(runs_dir: Path, name: str) -> list[str]:
    return read(runs_dir / "sweeps" / name / "promotion.json").get("jobs", [])


def test_a_detached_sweep_halves_itself_and_what_it_has_paused_ends_as_in_the_plain_grid(slurm, tmp_path):
    sent = sweep(slurm, tmp_path / "halved", *NINE)
    assert sent.returncode == 0, sent.stderr
    plain = sweep(slurm, tmp_path / "plain", "optimizer.lr=1e-4,1e-2", "epochs=9")
    assert plain.returncode == 0, plain.stderr
    wait_for_the_end(slurm)
    assert_halved(tmp_path / "halved", "halved", Halving(3, 2), 9)
    waves = promotions(tmp_path / "halved", "halved")
    log = (tmp_path / "halved/sweeps/halved/jobs" / f"{waves[-1]}_0_log.out").read_text()
    assert len(waves) >= 2 and "0 of 9 points go on" in log

    paused = [run.id for run in Sweep(tmp_path / "halved", "halved").runs() if run.state() == State.PAUSED]
    again = sweep(slurm, tmp_path / "halved", *NINE, WAIT)
    assert again.returncode == 0 and f"{len(paused)} paused, 0 running elsewhere, 0 to start" in again.stdout
    words = ["optimizer.lr=1e-4,1e-2", *NINE[1:], "hydra.launcher.resume_paused=true", WAIT]
    resumed = sweep(slurm, tmp_path / "halved", *words)
    assert resumed.returncode == 0, resumed.stderr
    wait_for_the_end(slurm)
    for folder in runs(tmp_path / "plain"):
        mine, other = Run(tmp_path / "halved" / folder.name), Run(folder)
        assert mine.state() == other.state() == State.DONE and epochs(mine) == epochs(other)
        assert {**mine.result, "seconds": 0, "finished": ""} == {**other.result, "seconds": 0, "finished": ""}
        assert [line["train/loss"] for line in mine.metrics()] == [line["train/loss"] for line in other.metrics()]
        weights = method(folder)
        assert all(torch.equal(value, weights[key]) for key, value in method(mine.folder).items())


def test_kills_preemption_and_two_launchers_forget_no_point_and_train_none_twice(slurm, tmp_path):
    """With two points in each job, which die with it or alone."""
    chance = random.Random(time.time_ns())
    with launched(slurm, tmp_path, *FIVE, WAIT) as first, launched(slurm, tmp_path, *FIVE, WAIT) as second:
        wait_until(lambda: len(promotions(tmp_path, "halved")) == 2, 120, "a promotion for each launcher")
        first.kill()
        second.kill()
    kills, affected = 0, set[str]()
    while kills < 2 and queue(slurm):
        time.sleep(3 * chance.random())
        victim = chance.choice(runs(tmp_path))
        with suppress(AssertionError, ProcessLookupError):  # it does not run, or not any more
            os.kill(process_of(job_of(victim)), signal.SIGKILL)
            kills += 1
            affected |= {victim.name, *read(victim / "job.json")["beside"]}
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive"]
    slurm.wait_job(slurm.sbatch("sleep 0.5", *urgent), "COMPLETED")
    wait_for_the_end(slurm)
    states = {run.state() for run in Sweep(tmp_path, "halved").runs()}
    assert states <= {State.DONE, State.PAUSED, State.KILLED, State.PENDING}  # pending: killed before it began

    again = sweep(slurm, tmp_path, *FIVE, WAIT)
    assert again.returncode == 0, again.stderr
    wait_for_the_end(slurm)
    assert_halved(tmp_path, "halved", Halving(3, 2), 9)
    for run in Sweep(tmp_path, "halved").runs():
        logs = [path.read_text() for path in (tmp_path / "sweeps/halved/jobs").glob("*.out")]
        mine = [text for text in logs if str(run.folder) in text]
        shown = [epoch for text in mine for epoch in re.findall(r"epoch (\d+)/9  loss", text)]
        preempted = any("DUE TO" in text for text in mine)
        assert run.folder.name in affected or preempted or len(shown) == len(set(shown)), (run.folder.name, shown)


def test_cancelled_altogether_an_array_alone_or_the_promotion_alone_the_same_command_goes_on(slurm, tmp_path, closed):
    assert sweep(slurm, tmp_path, *SIX).returncode == 0
    assert len(queue(slurm)) == 7
    said = call(slurm, "-m", "moco", "cancel", "six", "--runs-dir", tmp_path)
    [promotion] = promotions(tmp_path, "six")
    assert said.returncode == 0 and f"SLURM job {promotion} cancelled" in said.stdout.splitlines()
    assert said.stdout.count("cancelled") == 7
    wait_for_the_end(slurm)

    assert sweep(slurm, tmp_path, *SIX).returncode == 0
    slurm.run("scancel", *{job.partition("_")[0] for job in map(job_of, runs(tmp_path)) if "_" in job})
    closed()
    wait_for_the_end(slurm)  # the promotion decides among those that are left, and ends
    assert sorted(run.state() for run in Sweep(tmp_path, "six").runs()) == [State.DONE, *[State.PENDING] * 5]

    slurm.run("scontrol", "update", "PartitionName=normal", "State=DOWN")
    assert sweep(slurm, tmp_path, *SIX).returncode == 0
    slurm.run("scancel", promotions(tmp_path, "six")[-1])
    closed()
    wait_for_the_end(slurm)
    members = Sweep(tmp_path, "six").runs()
    paused = [run for run in members if run.state() == State.PAUSED]
    promoted = [run for run in paused if Race(members, Halving(3, 1)).verdict(run).goes_on]
    again = sweep(slurm, tmp_path, *SIX, WAIT)
    left = f"{len(paused) - len(promoted)} paused, 0 running elsewhere, {len(promoted)} to start"
    assert again.returncode == 0 and left in again.stdout, again.stdout + again.stderr
    done = assert_halved(tmp_path, "six", Halving(3, 1), 3)
    wait_for_the_end(slurm)
    assert again.stdout.splitlines()[-1].endswith(f"; {6 - len(done)} of 6 runs are paused: without halving they go on")
