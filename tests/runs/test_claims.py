"""The lock of all sweeps of a folder."""

import threading
import time
from pathlib import Path

import pytest

from moco import io
from moco.runs import sweep
from moco.runs.sweep import Sweep


def test_who_submits_for_long_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of points take longer to submit than a lock is else held."""
    for module, name in ((io, "LOCK_SECONDS"), (sweep, "SILENCE")):
        monkeypatch.setattr(module, name, 2.0)
    monkeypatch.setattr(io, "BEAT", 0.1)
    held, seen = threading.Event(), list[str]()

    def submit() -> None:
        with Sweep(tmp_path / "runs", "large").claim():
            held.set()
            time.sleep(4)
            seen.append("large")

    other = threading.Thread(target=submit)
    other.start()
    assert held.wait(60)
    with Sweep(tmp_path / "runs", "small").claim():
        seen.append("small")
    other.join()
    assert seen == ["large", "small"]
