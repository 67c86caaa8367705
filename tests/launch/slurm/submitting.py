"""What tests of sweeps on the cluster share: points that train in a moment, and what their runs' folders tell."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from cluster import wait_until

ROOT = Path(__file__).parents[3]
POINT = [
    "recipe=quickstart",
    "model.widths=[8,16]",
    "model.stem_stride=2",
    "batch_size=64",
    "m=64",
    "k=5",
    "tracker=none",
    "device=cpu",
    "precision=fp32",
    "eval_every=1000",
]
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.partition=normal"]
WAIT = "hydra.launcher.wait=true"
OFTEN = ["checkpoint_minutes=0.03"]
LONG = "epochs=60"  # half a minute, to be interrupted


def environment(slurm, **changes: str) -> dict[str, str]:
    return {**slurm.env, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **changes}


def call(slurm, *words, cwd=None, **changes) -> subprocess.CompletedProcess:
    """python <words>, from another working directory than the repository's unless told."""
    command = [sys.executable, *map(str, words)]
    env = environment(slurm, **changes)
    return subprocess.run(command, cwd=cwd or slurm.folder, env=env, capture_output=True, text=True, timeout=600)


def sweep(slurm, runs_dir, *words, repo=ROOT, **options) -> subprocess.CompletedProcess:
    return call(slurm, repo / "train.py", "-m", *POINT, *LAUNCHER, f"runs_dir={runs_dir}", *words, **options)


@contextmanager
def launched(slurm, runs_dir, *words, **options):
    """As `sweep`, without waiting for it; killed at the end, where it still runs."""
    command = [sys.executable, ROOT / "train.py", "-m", *POINT, *LAUNCHER, f"runs_dir={runs_dir}", *words]
    options = {"stdout": subprocess.DEVNULL, **options}
    with subprocess.Popen(command, cwd=slurm.folder, env=environment(slurm), **options) as process:
        try:
            yield process
        finally:
            process.kill()


def runs(runs_dir: Path) -> list[Path]:
    return sorted(path.parent for path in runs_dir.glob("*/config.json"))


def read(path: Path):
    return json.loads(path.read_text()) if path.exists() else {}


def configuration(run: Path) -> dict:
    return read(run / "config.json")


def job_of(run: Path) -> str:
    return read(run / "job.json")["job"]


def jobs(slurm) -> set[str]:
    """Every job that the controller remembers, finished ones included, by number or by array and index."""
    return set(slurm.run("squeue", "--noheader", "--array", "--states=all", "--format=%i").split())


def log(run: Path) -> str:
    return Path(read(run / "job.json")["log"]).read_text()


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


def process_of(job: str, rank: int = 0) -> int:
    """The id of the job's Python, or that of one of its ranks, seen from outside of its node."""
    array, _, index = job.partition("_")
    of_job = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={index}"} if index else {f"SLURM_JOB_ID={job}"}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = set((process / "environ").read_text().split("\0"))
            if of_job | {f"SLURM_PROCID={rank}"} <= environ and "python" in (process / "comm").read_text():
                return int(process.name)
        except OSError:
            pass
    raise AssertionError(f"job {job} runs nowhere")


def hold(run: Path) -> None:
    """Stops the run's job once it has a checkpoint, so that on no machine it is done before what is to interrupt it.

    SLURM's signals, the warning among them, come with SIGCONT: the job goes on by itself.
    """
    wait_until((run / "checkpoint.pt").exists, 300, "a checkpoint")
    os.kill(process_of(job_of(run)), signal.SIGSTOP)
