"""Fixtures: composing as the command line does, into runs under the test's own folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import pytest
import torch
import wandb
from common import METHODS, TINY
from folders import write_run

from moco.config.schema import Config

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Images are packed, and Hugging Face data sets prepared, in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def without_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """wandb finds no login, no network and none of the user's settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-settings"))
    wandb.teardown()  # it keeps the environment that it found first
    yield
    wandb.teardown()


@pytest.fixture(scope="session")
def base() -> Callable[..., Config]:
    """base("temperature=0.1", ...) -> the configuration that train.py would get."""
    return common.checked


@pytest.fixture
def checked(base: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """The same with runs in tmp_path/runs."""
    return lambda *words: base(f"runs_dir={tmp_path}/runs", *words)


@pytest.fixture
def tiny(checked: Callable[..., Config]) -> Callable[..., Config]:
    """tiny("simclr", "seed=1") -> a configuration of that method which trains in a second."""
    return lambda method="moco", *words: checked(*METHODS[method], *TINY, *words)


@pytest.fixture
def finish(checked: Callable[..., Config], tmp_path: Path) -> Callable[..., Path]:
    """finish("seed=1", ..., top1=50.0, linear=60.0) -> the folder of a run in tmp_path/runs that ended so."""
    return lambda *overrides, **scores: write_run(tmp_path / "runs", checked(*overrides), **scores)
