"""A sweep of nine points on this machine's CPUs against running the nine one after another.

    python benchmarks/sweep.py

Each point trains the small ResNet on scikit-learn's digits at 32 pixels, about 8,600 views. `one after another` is what people
do without a launcher: nine commands in a loop, each with all cores. The others are one sweep each, with so many jobs at
a time that share the cores. Prints JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0))
EPOCHS = 3
POINT = [
    "recipe=quickstart",
    "data.size=32",
    "model.widths=[32,64,128,256]",
    "model.stem_stride=2",
    f"epochs={EPOCHS}",
    f"eval_every={EPOCHS}",
    "tracker=none",
    "device=cpu",
]


def call(*words: str, cwd: str) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *words, *POINT]
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def loop(cwd: str) -> None:
    for seed in range(9):
        call(f"seed={seed}", cwd=cwd)


def sweep(jobs: int, cwd: str) -> None:
    call("-m", "seed=range(9)", "hydra.launcher.devices=cpu", f"hydra.launcher.jobs_per_device={jobs}", cwd=cwd)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ways = {"one after another": loop}
    for jobs in sorted({1, 2, CORES // 2, CORES} - {0}):
        ways[f"sweep, {jobs} at a time with {max(1, CORES // jobs)} threads"] = lambda cwd, jobs=jobs: sweep(jobs, cwd)
    seconds = {}
    for name, way in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            way(folder)
            seconds[name] = round(time.monotonic() - started, 1)
            print(f"{name}: {seconds[name]} s", file=sys.stderr)
    loop_seconds = seconds.pop("one after another")
    print(
        json.dumps(
            {
                "seconds": {"one after another": loop_seconds, **seconds},
                "cores": CORES,
                "times as fast": {
                    f"{name} as one after another": round(loop_seconds / value, 2) for name, value in seconds.items()
                },
            },
            indent=1,
        )
    )
