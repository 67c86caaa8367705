"""Sweeps as people start them, `python train.py -m ... hydra/launcher=slurm`, on a real cluster on its bad days."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cluster import Cluster, wait_until

ROOT = Path(__file__).parents[2]
POINT = [
    "recipe=quickstart", "model.widths=[8,16]", "model.stem_stride=2", "batch_size=64", "m=64", "k=5", "tracker=none",
    "device=cpu", "precision=fp32", "eval_every=1000",
]  # fmt: skip
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.partition=normal"]
WAIT = "hydra.launcher.wait=true"
LONG = "epochs=60"  # half a minute, to be interrupted


def environment(slurm, **changes: str) -> dict[str, str]:
    return {**slurm.env, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **changes}


def call(slurm, *words, timeout=120, repo=ROOT, **changes) -> subprocess.CompletedProcess:
    """python <words> in the repository's name, from another working directory, and as what came of it."""
    command = [sys.executable, *map(str, words)]
    env = environment(slurm, **changes)
    return subprocess.run(command, cwd=slurm.folder, env=env, capture_output=True, text=True, timeout=timeout)


def sweep(slurm, runs_dir, *words, repo=ROOT, **options) -> subprocess.CompletedProcess:
    return call(slurm, repo / "train.py", "-m", *POINT, *LAUNCHER, f"runs_dir={runs_dir}", *words, **options)


def runs(runs_dir: Path) -> list[Path]:
    return sorted(path.parent for path in runs_dir.glob("*/config.yaml"))


def read(path: Path):
    return json.loads(path.read_text()) if path.exists() else {}


def job_of(run: Path) -> str:
    return read(run / "job.json")["job"]


def jobs(slurm) -> set[str]:
    """Every job that the controller remembers, finished ones included, by number or by array and index."""
    return set(slurm.run("squeue", "--noheader", "--array", "--states=all", "--format=%i").split())


def method(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["method"]


def assert_same(run: Path, reference: Path) -> None:
    """Bit for bit the same networks, queue and metrics."""
    mine, other = method(run), method(reference)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    keys = ("epoch", "train/loss", "knn/top1")
    lines = [
        [[json.loads(line).get(key) for key in keys] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, reference)
    ]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module")
def uninterrupted(slurm, tmp_path_factory):
    """The run of POINT and LONG, trained here by a process of its own while the first tests run; waits for it."""
    runs_dir = tmp_path_factory.mktemp("uninterrupted")
    command = [sys.executable, ROOT / "train.py", *POINT, LONG, f"runs_dir={runs_dir}"]
    with open(runs_dir / "log", "w") as log:
        process = subprocess.Popen(command, env=environment(slurm), stdout=log, stderr=log)

    def finished() -> Path:
        assert process.wait(timeout=240) == 0, (runs_dir / "log").read_text()
        return runs(runs_dir)[0]

    yield finished
    process.kill()
    process.wait()


def test_arrays_over_two_nodes_and_only_what_is_missing_again(slurm, tmp_path):
    """Seven points in arrays of at most five; each on a GPU of its own."""
    words = ["epochs=1", "hydra.launcher.gpus_per_node=1"]
    before = jobs(slurm)
    done = sweep(slurm, tmp_path, "seed=range(7)", *words, WAIT)
    assert done.returncode == 0, done.stderr
    assert len(jobs(slurm) - before) == 7
    assert len({job_of(run).partition("_")[0] for run in runs(tmp_path)}) == 2
    claims = [read(run / "claim.json") for run in runs(tmp_path)]
    assert {(claim["host"], claim["visible"]) for claim in claims} == {(n, g) for n in ("n1", "n2") for g in "01"}
    for a in claims:
        for b in claims:
            apart = a["finished"] <= b["started"] or b["finished"] <= a["started"]
            assert a is b or apart or (a["host"], a["visible"]) != (b["host"], b["visible"])

    before = jobs(slurm)
    again = sweep(slurm, tmp_path, "seed=range(8)", *words, WAIT)
    assert again.returncode == 0, again.stderr
    assert "8 points, 7 done, 0 running elsewhere, 1 to start" in again.stdout
    assert len(jobs(slurm) - before) == 1
    assert len(list(tmp_path.glob("*/result.json"))) == 8
    assert [read(run / "claim.json")["started"] for run in runs(tmp_path)].count(None) == 0
    assert all(claim in [read(run / "claim.json") for run in runs(tmp_path)] for claim in claims)
