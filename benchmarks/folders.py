"""How long it takes to look at many runs: 10,000 synthetic run folders, read by table, status and report.

    python benchmarks/folders.py [runs]

Half are seeds of a grid, half a random search; configuration, 200 epochs of metrics and result are of the size that training
leaves. Each command runs as a process of its own, twice, and the second time counts, when files are in the disk's cache.
They are compared with a plain loop that reads each configuration and each result. Prints JSON.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def points(n: int) -> list[dict[str, Any]]:
    """The settings of n runs: ten seeds of each point of a grid, then a random search."""
    draw = random.Random(0)
    grid = [
        {"temperature": t, "m": m, "seed": seed}
        for t in (i / 100 for i in range(2, 52))
        for m in (256, 512, 1024, 2048, 4096, 8192, 16384, 24576, 32768, 65536)
        for seed in range(10)
    ]
    search = [
        {
            "temperature": round(10 ** draw.uniform(-1.5, 0), 4),
            "optimizer.lr": round(10 ** draw.uniform(-3, 0), 5),
            "feature_dim": draw.choice([32, 64, 128, 256, 512]),
            "momentum": draw.choice([0.9, 0.99, 0.999]),
        }
        for _ in range(n - len(grid[: n // 2]))
    ]
    return [*grid[: n // 2], *search]


def make(runs_dir: Path, n: int) -> None:
    """n run folders."""
    from folders import point, write_run

    from moco.config.check import check
    from moco.config.compose import composed

    cfg = check(composed(["recipe=moco_cifar"]))
    draw = random.Random(1)
    for changes in points(n):
        write_run(runs_dir, point(cfg, changes), top1=draw.uniform(40, 85), linear=draw.uniform(60, 90))


def measure(runs_dir: Path, *words: str) -> float:
    """Seconds of the command's second run."""
    command = [sys.executable, "-m", "moco", *words, "--runs-dir", str(runs_dir)]
    for _ in range(2):
        started = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
    return round(seconds, 1)


def plainly(runs_dir: Path) -> float:
    """Seconds in which a loop reads the configuration and the result of every folder."""
    folders = sorted(path.parent for path in runs_dir.glob("*/result.json"))
    some = folders[:: max(1, len(folders) // 300)]
    started = time.monotonic()
    for folder in some:
        json.loads((folder / "config.json").read_text())
        json.loads((folder / "result.json").read_text())
    return (time.monotonic() - started) * len(folders) / len(some)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=10_000)
    n = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        runs_dir, page = Path(folder) / "runs", Path(folder) / "report.html"
        make(runs_dir, n)
        commands = {"table": ["table"], "status": ["status"], "report": ["report", "-o", str(page)]}
        seconds = {name: measure(runs_dir, *words) for name, words in commands.items()}
        loop = plainly(runs_dir)
        size = sum(path.stat().st_size for path in runs_dir.rglob("*") if path.is_file())
        print(
            json.dumps(
                {
                    "runs": n,
                    "seconds": {**seconds, "a plain loop": round(loop, 1)},
                    "times as fast": {
                        f"{name} as a plain loop": round(loop / value, 4) for name, value in seconds.items()
                    },
                    "megabytes of runs": round(size / 1e6),
                    "megabytes of report": round(page.stat().st_size / 1e6, 1),
                    "cores": os.cpu_count(),
                },
                indent=1,
            )
        )
