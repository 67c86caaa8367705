"""What tests share beside fixtures: a run small enough to train in a second, and processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = [
    "data=digits",
    "data.size=8",
    "model=small",
    "model.widths=[8,16]",
    "augment.crop=[0.5,1.0]",
    "batch_size=64",
    "k=5",
    "epochs=2",
    "tracker=none",
    "device=cpu",
    "schedule=cosine",
]
METHODS = {
    "moco": ["method=moco", "m=100", "method.splits=2"],
    "simclr": ["method=simclr"],
    "npid": ["method=npid", "m=100", "batch_size=64"],
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONWARNINGS": "error"}


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A python process of the project, from any directory, with its output."""
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=600
    )
