"""Halved sweeps on this machine: real processes, killed at random moments."""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import python
from sweeping import SHORT, TRAIN, leases, results

from moco.io import Json
from moco.runs.run import Run
from moco.runs.state import State

Sweep = Callable[..., subprocess.Popen[str]]
SLOTS = ["hydra.launcher.devices=cpu", "hydra.launcher.jobs_per_device=2"]
# Three configurations of two seeds, scored by themselves every tenth epoch alone, and at the rungs, after 3 and 9 epochs.
POINTS = [*SHORT, "epochs=27", "eval_every=10", "data.validation=0.2", "checkpoint_minutes=0.01"]
POINTS += ["temperature=0.05,0.2,0.8", "seed=0,1", *SLOTS]
HALVED = [*POINTS, "hydra.launcher.halving=3"]


def runs(folder: Path) -> dict[str, Run]:
    return {path.parent.name: Run(path.parent) for path in folder.glob("*/config.json")}


def states(folder: Path) -> dict[str, State]:
    return {name: run.state() for name, run in runs(folder).items()}


def same(one: object, other: object) -> bool:
    """Whether two checkpoints hold the same, bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    return one == other


def numbers(run: Run) -> dict[str, Json]:
    """The result less what tells when it came about."""
    return {key: value for key, value in (run.result or {}).items() if key not in ("seconds", "finished")}


def checkpoint(run: Run) -> dict[str, Any]:
    content = torch.load(run.checkpoint, weights_only=True)
    del content["seconds"]
    return dict(content)


def trained(run: Run) -> list[object]:
    """The epochs of metrics.jsonl as they stand there."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def kill_something(folder: Path, launcher: subprocess.Popen[str], chance: random.Random) -> None:
    """kill -9 of the launcher, or of a job that holds a run."""
    jobs = [lease["pid"] for lease in leases(folder) if not lease["ended"]]
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice([launcher.pid, *jobs]), signal.SIGKILL)


def test_kills_at_random_moments_and_two_launchers_change_nothing_and_what_was_paused_ends_as_in_the_plain_grid(
    tmp_path: Path, sweep: Sweep
) -> None:
    chance = random.Random(time.time_ns())
    for _ in range(2):
        launcher = sweep(*HALVED)
        for _ in range(2):
            time.sleep(chance.uniform(2, 6))
            kill_something(tmp_path, launcher, chance)
        launcher.kill()
        launcher.communicate()
    both = [sweep(*HALVED) for _ in range(2)]
    said = [launcher.communicate(timeout=600)[0] for launcher in both]
    again = python(TRAIN, "-m", *HALVED, cwd=tmp_path)  # for what a job was killed in that another launcher awaited
    assert again.returncode == 0, [*said, again.stdout + again.stderr]
    found = states(tmp_path / "runs")
    assert len(found) == 6 and set(found.values()) == {State.DONE, State.PAUSED}, [*said, again.stdout + again.stderr]
    for name, run in runs(tmp_path / "runs").items():
        epochs = trained(run)
        assert epochs == [*range(1, len(epochs) + 1)] and len(epochs) in (3, 9, 27)
        assert (len(epochs) == 27) == (found[name] == State.DONE)
        assert run.checkpoint.exists()
    third = python(TRAIN, "-m", *HALVED, cwd=tmp_path)
    assert "0 to start" in third.stdout and states(tmp_path / "runs") == found  # the question is answered

    grid = runs(tmp_path / "runs")
    best = max(_by_temperature(grid), key=lambda names: math.fsum(_at(grid[name], 3) for name in names))
    assert all(found[name] == State.DONE for name in best)  # of three configurations one goes on, with both its seeds

    plain = python(TRAIN, "-m", *POINTS, "runs_dir=plain", cwd=tmp_path)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    grid = runs(tmp_path / "plain")
    resumed = python(TRAIN, "-m", *HALVED, "hydra.launcher.resume_paused=true", cwd=tmp_path)
    assert resumed.returncode == 0 and len(results(tmp_path)) == 6, resumed.stdout + resumed.stderr
    for name, run in runs(tmp_path / "runs").items():
        assert numbers(run) == numbers(grid[name]) and trained(run) == trained(grid[name])
        assert same(checkpoint(run), checkpoint(grid[name]))


def _by_temperature(found: dict[str, Run]) -> list[list[str]]:
    groups: dict[float, list[str]] = {}
    for name, run in found.items():
        groups.setdefault(run.config.temperature or 0, []).append(name)
    return list(groups.values())


def _at(run: Run, epoch: int) -> float:
    """kNN top-1 after the epoch, in percent."""
    return next(float(line["knn/top1"]) for line in run.metrics() if line["epoch"] == epoch)  # type: ignore[arg-type,operator]
