"""Runs that wandb tracks offline: what tests of the mirror and of the upload share."""

from pathlib import Path
from typing import Any

from common import checked

from moco.config.schema import Tracking
from moco.runs.lease import BY_HAND, Place
from moco.runs.run import Run
from moco.tracking.tracker import open_tracker

SETTINGS = Tracking(name="wandb", tags=["a", "b"])
CONFIG = checked("temperature=0.1", "m=64")
LINES = [
    {"epoch": 1, "train/loss": 3.0, "train/lr": 0.06, "knn/top1": 40.0, "knn/top5": 80.0},
    {"epoch": 2, "train/loss": 2.5, "train/lr": 0.03, "knn/top1": 55.0, "knn/top5": 90.0},
    {"epoch": 3, "train/loss": 2.0, "train/lr": 0.0, "knn/top1": 50.0, "knn/top5": 88.0},
]
STEPS: list[dict[str, Any]] = [{"step": 10 * i, **line} for i, line in enumerate(LINES, 1)]


def track(
    run: Run, lines: list[dict[str, Any]], *, before: int = 0, job_type: str = "train", place: Place = BY_HAND
) -> None:
    """An attempt that logs the lines from `before` on, after those that stand already."""
    tracker = open_tracker(SETTINGS, run, CONFIG, job_type, place)
    tracker.catch_up(lines[:before])
    for line in lines[before:]:
        tracker.log(line["step"], line)
    tracker.finish()


def rows(lines: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The rows that wandb should hold: one per step, lines of one step joined."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["step"], {}).update(line)
    return list(found.items())


def offline(run: Run, moment: str, content: bytes = b"x", mode: str = "offline-run") -> Path:
    """A file where wandb would leave it."""
    folder = run.folder / "wandb" / f"{mode}-20260101_{moment}-{run.id}"
    folder.mkdir(parents=True)
    file = folder / f"run-{run.id}.wandb"
    file.write_bytes(content)
    return file
