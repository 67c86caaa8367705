"""wandb as a mirror of what is on disk. If it fails, it says so once and falls silent: the training goes on."""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from moco.config.schema import Config, Tracking
from moco.io import Json
from moco.output import stand
from moco.protocols import ACCURACIES
from moco.runs.lease import Place
from moco.runs.run import Run
from moco.tracking import server
from moco.tracking.environment import agents_run_id
from moco.tracking.tracker import Tracker

if TYPE_CHECKING:
    import wandb

FOLDER = re.compile(r"(offline-)?run-\d{8}_\d{6}-(?P<id>.+)")
WHOLE = "whole"  # a file in wandb's folder of an attempt that has told wandb everything; online, that W&B has it
ANSWER_SECONDS = 10.0  # for the server to answer at all
INIT_SECONDS = 30.0  # for the server to take the run
FINISH_SECONDS = 30.0  # to upload what is left at the end
LATER = "`python -m moco sync` uploads it later"


class WandbMirror(Tracker):
    """One wandb run for each run, whatever interrupts it: same id for every attempt and for linear evaluation.

    wandb cannot resume offline: each attempt writes a folder of its own, and of one that is killed the last seconds are lost.
    So each attempt catches up first, and the newest folder holds the whole run.
    """

    def __init__(self, asked: Tracking, run: Run, config: Config, job_type: str, place: Place):
        self.run: wandb.Run | None = None
        self.folder: Path | None = None  # wandb's, of this attempt
        self.owes = bool(run.metrics())  # whether lines of earlier attempts are still to be repeated in this one
        job = run.job()  # knows the sweep and the label also where the run goes on by hand
        group = asked.group or place.sweep or (job.sweep if job else None)
        name = display_name(run, _agent_label() or place.label or (job.label if job else os.environ.get("WANDB_NAME")))
        self._try(lambda: self._start(asked, run, config, job_type, group, name))

    def _start(self, asked: Tracking, run: Run, config: Config, job_type: str, group: str | None, name: str) -> None:
        stand(run.folder)
        import wandb

        # The mirror itself decides whether to resume; and a run's id in the environment would be every run's.
        for variable in ["WANDB_RESUME", *([] if agents_run_id() else ["WANDB_RUN_ID"])]:
            os.environ.pop(variable, None)

        def begin(mode: str, resume: str | None) -> "wandb.Run":
            while folders(run) and time.strftime("run-%Y%m%d_%H%M%S-") in folders(run)[-1].name:
                time.sleep(0.1)  # wandb's folders are named by the second: two attempts in one would be one
            return wandb.init(
                mode=mode,  # type: ignore[arg-type]
                resume=resume,  # type: ignore[arg-type]
                project=asked.project,
                entity=asked.entity,
                group=group,
                tags=asked.tags,
                # An agent of a W&B sweep has made the run already, under an id of its own, which the run keeps.
                id=agents_run_id() or last_id(run) or run.id,
                name=name,
                job_type=job_type,
                config=columns(config),
                dir=str(run.folder),
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=INIT_SECONDS,
                    finish_timeout=FINISH_SECONDS,
                    finish_timeout_raises=True,
                ),
            )

        online = asked.mode == "online"
        if online and (why := _offline_because()):
            _say(f"wandb cannot go online ({why}): this run goes on offline, and {LATER}")
            online = False
        try:
            # A training from its start replaces what is online. An offline folder holds the whole run: `wandb sync` would
            # shift the steps of one that says resume.
            goes_on = online and (job_type != "train" or run.checkpoint.exists())
            self.run = begin("online" if online else "offline", "allow" if goes_on else None)
        except wandb.errors.Error as error:
            if not online:
                raise
            _say(f"wandb cannot go online ({_line(error)}): this run goes on offline, and {LATER}")
            wandb.teardown(1)  # its service still tries, and would not begin a run of this id a second time
            self.run = begin("offline", None)
        self.folder = folders(run)[-1] if folders(run) else None
        for metric in ACCURACIES:
            self.run.define_metric(metric, summary="max")

    def catch_up(self, lines: Sequence[Mapping[str, Json]]) -> None:
        if self.run is not None:
            self._try(lambda: self._catch_up(lines))

    def _catch_up(self, lines: Sequence[Mapping[str, Json]]) -> None:
        assert self.run is not None
        there = self.run.starting_step  # steps below stand online already
        known = set(self.run.summary.keys())  # type: ignore[no-untyped-call]  # wandb's own object takes no `in`
        for line in lines:
            step = line["step"]
            assert isinstance(step, int)
            if "train/loss" in line and step >= there:
                self._log(step, line)
            elif "train/loss" not in line and any("/" in key and key not in known for key in line):
                self._log(step, line)
        self.owes = False

    def log(self, step: int, metrics: Mapping[str, Json]) -> None:
        if self.run is not None:
            self._try(lambda: self._log(step, metrics))

    def _log(self, step: int, metrics: Mapping[str, Json]) -> None:
        assert self.run is not None
        # Online, wandb drops steps that it has; linear evaluation comes at the last one and must not be lost.
        at = step if "train/loss" in metrics else max(step, self.run.starting_step)
        self.run.log(dict(metrics), step=at)

    def finish(self, exit_code: int = 0) -> None:
        if self.run is not None:
            self._try(lambda: self._finish(exit_code))

    def _finish(self, exit_code: int) -> None:
        assert self.run is not None
        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError:  # the network went away
            _say(f"W&B has not taken all of this run within {FINISH_SECONDS:.0f} s: {LATER}")
            return
        if self.folder is not None and not self.owes:
            (self.folder / WHOLE).touch()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a tracker raises, the training goes on
            self.run = None
            later = f"; {LATER}" if self.folder else ""
            _say(f"wandb failed and is left out from here on ({type(error).__name__}: {_line(error)}){later}")


def _offline_because() -> str | None:
    """Why W&B cannot be reached, where that is so: there is no key, or no answer."""
    where = server.address()
    if missing := server.no_key(where):
        return missing
    silent = server.no_answer(where, ANSWER_SECONDS)
    return f"{where} does not answer: {silent}" if silent else None


def _line(error: Exception) -> str:
    """The beginning of an error's text, on one line."""
    return " ".join(str(error).split())[:120]


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def folders(run: Run) -> list[Path]:
    """wandb's folders of the run, one per attempt, oldest first."""
    found = [path for path in (run.folder / "wandb").glob("*run-*") if FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def is_whole(folder: Path) -> bool:
    """Whether wandb was told everything in that folder's attempt, which a kill or a failure cuts short."""
    return (folder / WHOLE).exists()


def last_id(run: Run) -> str | None:
    """The id that the run has at wandb, once it has been tracked."""
    match = FOLDER.fullmatch(folders(run)[-1].name) if folders(run) else None
    return match["id"] if match else None


def display_name(run: Run, label: str | None) -> str:
    """What varies in the sweep, with the run's id; alone its folder's name."""
    return f"{label[:100]} ({run.id})" if label else run.folder.name


def columns(config: Config) -> dict[str, Json]:
    """The configuration that wandb shows: nested sections, which it makes columns of with dotted names (optimizer.lr).

    Left out is what says nothing about the result or says it twice: targets, the tracker, copies of root keys (method.m).
    """
    hidden = ("version", "tracker", "rerun", "runs_dir", "recipe")
    kept = {key: value for key, value in config.frozen().items() if key not in hidden}
    for group, section in kept.items():
        if isinstance(section, dict):
            copies = config.METHOD_KEYS if group == "method" else ()
            kept[group] = {key: value for key, value in section.items() if key not in ("_target_", *copies)}
    return kept


def _agent_label() -> str:
    """What an agent of a W&B sweep has chosen for this run, as it would be typed."""
    try:
        with open(os.environ["WANDB_SWEEP_PARAM_PATH"]) as file:
            chosen = yaml.safe_load(file)
        return " ".join(f"{key}={entry['value']}" for key, entry in chosen.items() if key != "wandb_version")
    except (KeyError, OSError, TypeError, AttributeError, yaml.YAMLError):
        return ""
