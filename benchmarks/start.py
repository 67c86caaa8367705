"""How long it takes until something happens: --help, status, an empty preflight, a job, a thousand points.

    python benchmarks/start.py

Each command is a process of its own; the median of five counts. A job is a training of a second; its overhead is its wall
clock less the training itself and `import torch`. What torch's optimizers load besides as they are made, torch._dynamo, is in
it and is shown by itself. A thousand points are checked and identified by a dry run; Hydra's own composing, which launchers
use, is timed on thirty of them. Prints JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "train.py")
DRY = ["-m", "device=cpu", "hydra.launcher.dry_run=true"]
TINY = [
    "recipe=quickstart",
    "model.widths=[8,16]",
    "data.size=8",
    "epochs=2",
    "eval_every=2",
    "tracker=none",
    "device=cpu",
]
POINTS, COMPOSED = 1000, 30
COMMANDS = ("--help", "status", "preflight of one point", "job")


def seconds(cwd: str, *words: str, times: int = 5) -> float:
    """Median wall clock of a python command; the first run, which fills the disk's cache, does not count."""
    found = []
    for _ in range(times + 1):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, *words], cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        found.append(time.monotonic() - started)
    return statistics.median(found[1:])


def job(cwd: str, torch: float) -> float:
    """Seconds of a training beside its steps, its evaluation and `import torch`."""
    sys.path.insert(0, str(ROOT))
    from moco.runs.listing import all_runs

    wall = seconds(cwd, TRAIN, *TINY, "rerun=true")
    [run] = all_runs(Path(cwd) / "runs")
    assert run.result
    return wall - run.result["seconds"] - torch


def hydra() -> float:
    """Seconds in which Hydra composes a point."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("train", ["temperature=0.5"])
        started = time.monotonic()
        for i in range(COMPOSED):
            compose("train", [f"temperature={(i + 1) / 1000}"])
        return (time.monotonic() - started) / COMPOSED


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch = seconds(folder, "-c", "import torch")
        whole = seconds(folder, "-c", "import torch, torch._dynamo")
        results = str(ROOT / "results" / "temperature_queue")
        found = {
            "import torch": torch,
            "import torch._dynamo too": whole,
            "--help": seconds(folder, TRAIN, "--help"),
            "status": seconds(str(ROOT), "-m", "moco", "status", "--runs-dir", results),
            "preflight of one point": seconds(folder, TRAIN, *DRY, "temperature=0.1"),
            "job": job(folder, torch),
            "1000 points": seconds(folder, TRAIN, *DRY, f"seed=range({POINTS})", times=1),
            "1000 points composed by Hydra": POINTS * hydra(),
        }
    print(
        json.dumps(
            {
                "seconds": {name: round(value, 2) for name, value in found.items()},
                "times as fast": {f"{name} as import torch": round(torch / found[name], 2) for name in COMMANDS}
                | {"1000 points as Hydra": round(found["1000 points composed by Hydra"] / found["1000 points"], 1)},
                "cores": os.cpu_count(),
            },
            indent=1,
        )
    )
