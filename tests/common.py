"""What tests share beside fixtures: composing, a run small enough to train in a second, and processes."""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from moco.config import compose
from moco.config.check import check, typed_keys
from moco.config.places import CONF
from moco.config.schema import Config

ROOT = Path(__file__).parents[1]
GROUPS = sorted(f for f in CONF.iterdir() if f.is_dir() and f.name not in ("hydra", "sweeps"))
CHOICES = [(folder.name, file.stem) for folder in GROUPS for file in sorted(folder.glob("*.yaml"))]
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
    "barlow_twins": ["method=barlow_twins", "feature_dim=16", "method.hidden_dim=16"],
    "npid": ["method=npid", "m=100", "batch_size=64"],
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONWARNINGS": "error"}


@functools.cache
def _composed(*words: str, entry: str) -> dict[str, object]:
    return {**compose.composed(words, entry)}


def composed(*words: str, entry: str = "train") -> dict[str, object]:
    """What train.py or linear_eval.py composes from these words, not checked."""
    return {**_composed(*words, entry=entry)}


def checked(*words: str) -> Config:
    """The configuration that train.py gets from these words."""
    return check(composed(*words), typed_keys(words))


def started(command: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """A process in a session of its own, with what it prints in one stream."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A python process of the project, from any directory, with its output."""
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=600
    )
