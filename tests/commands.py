"""What tests of commands share: `python -m moco` in this process, and what a folder holds before and after."""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from moco.cli import main

QUICK = ["recipe=quickstart", "epochs=1", "m=64", "tracker=none", "device=cpu"]


def call(words: Sequence[str]) -> object:
    """The exit code of `moco` with these words; the test captures what it prints, and sets sys.argv back."""
    sys.argv = ["moco", *words]
    try:
        return main(words)
    except SystemExit as end:
        return end.code
    finally:
        sys.stdout.flush()
        gc.unfreeze()  # a dry run freezes, as a process of its own would end there
        GlobalHydra.instance().clear()


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path with its size and time of change."""
    found = {str(path): path.lstat() for path in folder.rglob("*")}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found.items()}
