"""What the tests share: composing as the command line does, a run small enough to train in a second, and processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from moco import config

ROOT = Path(__file__).parents[1]
TINY = [
    "data=digits", "data.size=8", "model=small", "model.widths=[4,8]", "augment.crop=[0.5,1.0]", "batch_size=64", "k=5",
    "epochs=2", "tracker=none", "device=cpu", "schedule=cosine",
]  # fmt: skip
METHODS = {
    "moco": ["method=moco", "m=100", "method.splits=2"],
    "simclr": ["method=simclr"],
    "npid": ["method=npid", "m=100", "batch_size=64"],
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONWARNINGS": "error"}

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_gpu_surprises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Decoded image folders are cached in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """checked("temperature=0.1", ...) -> the configuration that train.py would get, with runs in tmp_path/runs."""

    def make(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("train", [f"runs_dir={tmp_path}/runs", *overrides])
        return config.check(OmegaConf.to_container(composed, resolve=True))

    return make


@pytest.fixture
def tiny(checked: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """tiny("simclr", "seed=1") -> a configuration of that method which trains in a second."""
    return lambda method="moco", *overrides: checked(*METHODS[method], *TINY, *overrides)


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A python process of the project, from any directory, with its output."""
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=300
    )
