"""Launchers as processes of their own."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import ENVIRONMENT
from sweeping import TRAIN

Sweep = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    """sweep("seed=0,1") -> the launcher, started in tmp_path with a session of its own; none outlives the test."""
    with contextlib.ExitStack() as launchers:

        def start(*words: str) -> subprocess.Popen[str]:
            launcher = subprocess.Popen(
                [sys.executable, TRAIN, "-m", *words],
                cwd=tmp_path,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            launchers.enter_context(launcher)
            launchers.callback(launcher.kill)
            return launcher

        yield start
