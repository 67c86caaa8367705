"""What tests of launchers share: points that train in a moment, and what their runs' folders tell."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from common import METHODS, ROOT, TINY

T = TypeVar("T")
TRAIN = str(ROOT / "train.py")
ONE_THREAD = "hydra.launcher.cpus_per_task=1"
SHORT = [*METHODS["moco"], *[word for word in TINY if not word.startswith("epochs")], "epochs=1", ONE_THREAD]
LONG = [*SHORT, "epochs=300", "eval_every=300", "checkpoint_minutes=0.01"]


def leases(cwd: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in cwd.glob("runs/*/lease.json")]


def results(cwd: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in cwd.glob("runs/*/result.json")]


def attempts(cwd: Path) -> list[int]:
    """How often each run was begun."""
    return sorted(len(json.loads(path.read_text())) for path in cwd.glob("runs/*/provenance.json"))


def lines(cwd: Path) -> int:
    """Epochs that all runs together have done."""
    return sum(len(path.read_text().splitlines()) for path in cwd.glob("runs/*/metrics.jsonl"))


def wait_for(condition: Callable[[], T], seconds: float = 300) -> T:
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.1)
    return found
