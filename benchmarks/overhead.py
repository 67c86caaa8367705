"""What a launcher costs: 20 points of no work by this project's launcher and by hydra-submitit-launcher.

    pip install -e '.[dev]'                       # brings hydra-submitit-launcher
    python benchmarks/overhead.py local           # two jobs at a time here, all twenty at once there, as each does
    python benchmarks/overhead.py slurm           # on the private cluster of the tests (Debian: slurm-wlm munge, as root)

Both compose the same 20 points from conf/ and start as many processes, whose jobs return at once. Ours also checks and
identifies each point, holds its run and writes its result. The two take turns; what counts is the median over the rounds of
the seconds from the start of the command to its end, when all points are done. Prints JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
POINTS, ROUNDS = 20, 3
WORDS = {
    ("ours", "local"): ["hydra.launcher.jobs_per_device=2", "hydra.launcher.devices=cpu"],
    ("ours", "slurm"): ["hydra/launcher=slurm", "hydra.launcher.partition=normal", "hydra.launcher.wait=true"],
    ("theirs", "local"): ["hydra/launcher=submitit_local", "hydra/sweeper=basic"],
    ("theirs", "slurm"): ["hydra/launcher=submitit_slurm", "hydra/sweeper=basic", "hydra.launcher.partition=normal"],
}


def run_ours() -> None:
    """train.py with jobs that hold the run and write a result, but train nothing."""
    from moco.launch import job
    from moco.runs.lease import Place

    class Idle(job.Job):  # defined here, it travels by value
        def _work(self, place: Place) -> None:
            with self.run.lease("train", "", place):
                self.run.write_result({"knn/top1": 0.0})

    job.Job = Idle  # type: ignore[misc]

    @hydra.main(version_base="1.3", config_path="../conf", config_name="train")
    def main(cfg: DictConfig) -> None:
        raise AssertionError("the launcher runs jobs of its own")

    main()


def run_theirs() -> None:
    """The same configurations under hydra-submitit-launcher, with a function that does nothing."""

    @hydra.main(version_base="1.3", config_path="../conf", config_name="train")
    def main(cfg: DictConfig) -> float:
        return 0.0

    main()


def measure(who: str, where: str, env: dict[str, str]) -> float:
    """Seconds that the command took."""
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=env.get("SHARED")) as folder:
        words = [
            "data=digits",
            f"seed=range({POINTS})",
            f"runs_dir={folder}/runs",
            f"hydra.sweep.dir={folder}",
            *WORDS[who, where],
        ]
        command = [sys.executable, str(Path(__file__)), f"--as={who}", "-m", *words]
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        seconds = time.monotonic() - started
        results = list(Path(folder).glob("runs/*/result.json" if who == "ours" else ".submitit/*/*_result.pkl"))
        assert done.returncode == 0 and len(results) == POINTS, (len(results), done.stdout + done.stderr)
        return seconds


def compare(where: str, env: dict[str, str]) -> dict:
    """Takes turns, after a round that warms the disk's cache."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for i in range(ROUNDS + 1):
        for who in seconds:
            took = measure(who, where, env)
            print(f"{where} {who}: {took:.1f} s", file=sys.stderr)
            if i:
                seconds[who].append(took)
    points = {who: statistics.median(values) / POINTS for who, values in seconds.items()}
    rounds = {who: [round(v, 2) for v in values] for who, values in seconds.items()}
    return {
        "where": where,
        "points": POINTS,
        "seconds per point": {who: round(v, 3) for who, v in points.items()},
        "times as fast": {f"a {where} point as hydra-submitit-launcher": round(points["theirs"] / points["ours"], 2)},
        "seconds per command": rounds,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as=ours"]:
        del sys.argv[1]
        run_ours()
    elif sys.argv[1:2] == ["--as=theirs"]:
        del sys.argv[1]
        run_theirs()
    elif sys.argv[1:] == ["slurm"]:
        sys.path.append(str(ROOT / "tests" / "launch" / "slurm"))
        from cluster import Cluster

        with tempfile.TemporaryDirectory() as shared, Cluster(Path(shared) / "slurm") as cluster:
            print(json.dumps(compare("slurm", {**cluster.env, "SHARED": shared}), indent=1))
    elif sys.argv[1:] == ["local"]:
        print(json.dumps(compare("local", dict(os.environ)), indent=1))
    else:
        sys.exit(f"error: give local or slurm\n\n{__doc__}")
