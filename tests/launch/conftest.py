"""Launchers as processes of their own."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import started
from sweeping import TRAIN

Sweep = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    """sweep("seed=0,1") -> the launcher, started in tmp_path with a session of its own; none outlives the test."""
    with contextlib.ExitStack() as launchers:

        def start(*words: str) -> subprocess.Popen[str]:
            launcher = started([sys.executable, TRAIN, "-m", *words], tmp_path)
            launchers.enter_context(launcher)
            launchers.callback(launcher.kill)
            return launcher

        yield start
