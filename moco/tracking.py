"""wandb as a mirror of what is on disk. A tracker that fails never stops a training: it says so once and falls silent."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from moco.runs import Run

SUMMARY_MAX = ("knn/top1", "knn/top5", "knn_head/top1", "knn_head/top5", "linear/top1", "linear/top5",
               "linear_cached/top1", "linear_cached/top5")  # fmt: skip


class NoTracker:
    """Takes everything and keeps nothing. As a context, finishes with exit code 1 where an error leaves it, else 0."""

    def __enter__(self) -> "NoTracker":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.finish(int(kind is not None))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self, exit_code: int = 0) -> None:
        pass


class Wandb(NoTracker):
    """One wandb run for each run: same id, resumed by training after a kill and by linear evaluation."""

    def __init__(
        self, settings: Mapping[str, Any], run: Run, config: Mapping[str, Any], job_type: str, group: str | None
    ):
        self.run: Any = None
        settings = {**settings, "group": settings["group"] or group}
        self._try(lambda: self._start(settings, run, config, job_type))

    def _start(self, settings: Mapping[str, Any], run: Run, config: Mapping[str, Any], job_type: str) -> None:
        import wandb

        online = settings["mode"] == "online"
        arguments: dict[str, Any] = dict(
            project=settings["project"], entity=settings["entity"], group=settings["group"], tags=settings["tags"],
            # An agent of a W&B sweep has made the run already, under an id of its own.
            id=os.environ.get("WANDB_RUN_ID", run.id), name=run.folder.name, job_type=job_type, config=dict(config),
            dir=str(run.folder), resume="allow", settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        try:
            self.run = wandb.init(mode=settings["mode"], **arguments)
        except wandb.errors.UsageError as error:
            if not online:
                raise
            _say(f"wandb cannot go online ({_line(error)}): log in with `wandb login`; this run goes on offline")
            self.run = wandb.init(mode="offline", **arguments)
        for name in SUMMARY_MAX:
            self.run.define_metric(name, summary="max")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.run is not None:
            self._try(lambda: self.run.log(dict(metrics), step=step))

    def finish(self, exit_code: int = 0) -> None:
        if self.run is not None:
            self._try(lambda: self.run.finish(exit_code=exit_code))

    def _try(self, call: Any) -> None:
        try:
            call()
        except Exception as error:  # whatever a tracker raises, the training goes on
            self.run = None
            _say(f"wandb failed and is left out from here on ({type(error).__name__}: {_line(error)})")


def _line(error: Exception) -> str:
    """The beginning of an error's text, on one line."""
    return " ".join(str(error).split())[:120]


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def open_tracker(
    settings: Mapping[str, Any], run: Run, config: Mapping[str, Any], job_type: str, details: Mapping[str, Any]
) -> NoTracker:
    """The tracker that the configuration names; job_type is train or linear_eval, details may name the sweep."""
    return NoTracker() if settings["name"] == "none" else Wandb(settings, run, config, job_type, details.get("sweep"))
