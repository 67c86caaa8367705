"""wandb as a mirror of what is on disk. A tracker that fails never stops a training: it says so once and falls silent."""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moco.runs.run import Run

FOLDER = re.compile(r"(offline-)?run-\d{8}_\d{6}-(?P<id>.+)")

SUMMARY_MAX = (
    "knn/top1",
    "knn/top5",
    "knn_head/top1",
    "knn_head/top5",
    "linear/top1",
    "linear/top5",
    "linear_cached/top1",
    "linear_cached/top5",
)


class NoTracker:
    """Takes everything and keeps nothing. As a context, finishes with exit code 1 where an error leaves it, else 0."""

    def __enter__(self) -> "NoTracker":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.finish(int(kind is not None))

    def catch_up(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Takes the lines of metrics.jsonl that stand from earlier attempts; before the first log."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self, exit_code: int = 0) -> None:
        pass


class Wandb(NoTracker):
    """One wandb run for each run, whatever interrupts it: same id for every attempt and for linear evaluation.

    wandb cannot resume offline: each attempt writes a folder of its own, and of one that is killed the last seconds are lost.
    So each attempt catches up first, and the newest folder holds the whole run.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        run: Run,
        config: Mapping[str, Any],
        job_type: str,
        group: str | None = None,
        label: str | None = None,
    ):
        self.run: Any = None
        job = run.job() or {}  # knows the sweep and the label also where the run goes on by hand
        settings = {**settings, "group": settings["group"] or group or job.get("sweep")}
        name = display_name(run, _agent_label() or label or job.get("label"))
        self._try(lambda: self._start(settings, run, config, job_type, name))

    def _start(
        self, settings: Mapping[str, Any], run: Run, config: Mapping[str, Any], job_type: str, name: str
    ) -> None:
        import wandb

        while folders(run) and time.strftime("run-%Y%m%d_%H%M%S-") in folders(run)[-1].name:
            time.sleep(0.1)  # wandb's folders are named by the second: two attempts in one would be one
        online = settings["mode"] == "online"
        arguments: dict[str, Any] = dict(
            project=settings["project"],
            entity=settings["entity"],
            group=settings["group"],
            tags=settings["tags"],
            # An agent of a W&B sweep has made the run already, under an id of its own, which the run keeps.
            id=os.environ.get("WANDB_RUN_ID") or last_id(run) or run.id,
            name=name,
            job_type=job_type,
            config=columns(config),
            dir=str(run.folder),
            settings=wandb.Settings(silent=True, console="off"),
        )
        try:
            # A training from its start replaces what is online. An offline folder holds the whole run: `wandb sync` would
            # shift the steps of one that says resume.
            goes_on = online and (job_type != "train" or run.checkpoint.exists())
            self.run = wandb.init(mode=settings["mode"], resume="allow" if goes_on else None, **arguments)
        except wandb.errors.UsageError as error:
            if not online:
                raise
            _say(f"wandb cannot go online ({_line(error)}): log in with `wandb login`; this run goes on offline")
            self.run = wandb.init(mode="offline", **arguments)
        for name in SUMMARY_MAX:
            self.run.define_metric(name, summary="max")

    def catch_up(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self.run is not None:
            self._try(lambda: self._catch_up(lines))

    def _catch_up(self, lines: Sequence[Mapping[str, Any]]) -> None:
        there = self.run.starting_step  # steps below stand online already
        for line in lines:
            if "train/loss" in line and line["step"] >= there:
                self._log(line["step"], line)
            elif "train/loss" not in line and any("/" in k and k not in self.run.summary for k in line):
                self._log(line["step"], line)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.run is not None:
            self._try(lambda: self._log(step, metrics))

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        # Online, wandb drops steps that it has; linear evaluation comes at the last one and must not be lost.
        self.run.log(dict(metrics), step=step if "train/loss" in metrics else max(step, self.run.starting_step))

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


def folders(run: Run) -> list[Path]:
    """wandb's folders of the run, one an attempt, oldest first."""
    found = [path for path in (run.folder / "wandb").glob("*run-*") if FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def last_id(run: Run) -> str | None:
    """The id that the run has at wandb, once it has been tracked."""
    match = FOLDER.fullmatch(folders(run)[-1].name) if folders(run) else None
    return match["id"] if match else None


def display_name(run: Run, label: str | None) -> str:
    """What varies in the sweep, with the run's id; alone its folder's name."""
    return f"{label[:100]} ({run.id})" if label else run.folder.name


def columns(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that wandb shows: nested sections, which it makes columns of with dotted names (optimizer.lr).

    Left out is what says nothing about the result or says it twice: targets, the tracker, copies of root keys (method.m).
    """
    kept = {key: value for key, value in config.items() if key not in ("tracker", "rerun", "runs_dir", "recipe")}
    for key, section in kept.items():
        if isinstance(section, Mapping):
            kept[key] = {k: v for k, v in section.items() if k != "_target_" and not (key == "method" and k in config)}
    return kept


def _agent_label() -> str:
    """What an agent of a W&B sweep has chosen for this run, as it would be typed."""
    try:
        with open(os.environ["WANDB_SWEEP_PARAM_PATH"]) as file:
            chosen = yaml.safe_load(file)
        return " ".join(f"{key}={entry['value']}" for key, entry in chosen.items() if key != "wandb_version")
    except (KeyError, OSError, TypeError, AttributeError, yaml.YAMLError):
        return ""


def open_tracker(
    settings: Mapping[str, Any], run: Run, config: Mapping[str, Any], job_type: str, details: Mapping[str, Any]
) -> NoTracker:
    """The tracker that the configuration names; job_type is train or linear_eval, details may hold sweep and label."""
    if settings["name"] == "none":
        return NoTracker()
    return Wandb(settings, run, config, job_type, details.get("sweep"), details.get("label"))
