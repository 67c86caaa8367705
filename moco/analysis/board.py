"""What the served page shows of runs: a folder is read again where its files change, a page is told what has changed."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from moco.analysis.courses import GREY_POINTS, POINTS, Curve, measured, thinned
from moco.analysis.numbers import is_number
from moco.analysis.records import clock_note
from moco.analysis.standings import Standing, standings
from moco.errors import UserError
from moco.io import Json
from moco.progress import duration
from moco.protocols import KNN
from moco.runs.run import Run
from moco.runs.settings import describe, identifying
from moco.runs.state import State
from moco.runs.sweep import select

FILES = ("config.json", "lease.json", "job.json", "metrics.jsonl", "result.json", "error.txt")
METRICS = FILES.index("metrics.jsonl")
ALL = 5.0  # seconds between looks at ended runs, new folders, SLURM's queue and whether holders live
DRAWN, BESIDE = 30, 60  # so many curves of running points, and of others
# None: what went wrong.
ORDER = (
    State.RUNNING,
    State.STARTING,
    State.QUEUED,
    None,
    State.PENDING,
    State.PAUSED,
    State.DONE,
)
# States that no command helps out of.
NO_COMMAND = (
    State.QUEUED,
    State.STARTING,
    State.RUNNING,
    State.DONE,
    State.DAMAGED,
    State.MISSING,
)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")  # colours, and what moves a cursor

Stamp: TypeAlias = tuple[tuple[int, int], ...]  # times and sizes of FILES
Message: TypeAlias = dict[str, object]
NOTHING: Stamp = ((0, 0),) * len(FILES)


@dataclass
class Seen:
    """A run as it was read last.

    Attributes:
        stamp: times and sizes of its files.
        row: what the page shows of it.
        changed: the board's version since when it does.
        curves: training loss and kNN over the epochs, where they are drawn; None where they are to be read again.
        drawn: the version since when these are so.
    """

    run: Run
    stamp: Stamp = NOTHING
    standing: Standing | None = None
    row: dict[str, Json] = field(default_factory=dict)
    changed: int = 0
    curves: dict[str, Curve] | None = None
    dull: bool = False
    drawn: int = 0

    @property
    def has_ended(self) -> bool:
        return self.standing is not None and self.standing.has_ended


class Board:
    """All runs of runs_dir, or of these names; `look` reads, `since` tells."""

    def __init__(self, runs_dir: Path | str, names: Sequence[str]):
        self.runs_dir, self.names = runs_dir, [*names]
        self.version = self.listed = 0  # listed: since when the list of folders is as it is
        self.seen: dict[str, Seen] = {}  # by folder
        self.flats: dict[str, tuple[tuple[int, int], dict[str, Json]]] = {}
        self.shown: list[str] = []  # folders whose curves are drawn
        self.named: dict[str, str] = {}  # the settings in which each differs from the others, by folder
        self.trouble = ""  # why the folders cannot be listed
        self._all = float("-inf")

    def look(self) -> bool:
        """Reads what has changed on disk; whether anything has.

        Raises:
            UserError: at the first look, a name is unknown, or there are no runs.
        """
        now, version = time.monotonic(), self.version + 1
        due = now - self._all >= ALL
        trouble, names = self.trouble, [*self.seen]
        if due:
            self._list()
            self._all = now
        if names != [*self.seen]:
            self.listed = version
        changed = []
        for one in self.seen.values():
            if due or not one.has_ended:
                stamp = stamped(one.run)
                if stamp != one.stamp or (due and not one.has_ended):
                    one.curves = one.curves if stamp[METRICS] == one.stamp[METRICS] else None
                    one.stamp = stamp
                    changed.append(one)
        told = self._read(changed, version) or self.listed == version or trouble != self.trouble
        told = self._draw(version) or told
        self.version += told
        return told

    def tell(self, trouble: str) -> bool:
        """Keeps why nothing can be read; whether that is news."""
        news = trouble != self.trouble
        self.trouble, self.version = trouble, self.version + news
        return news

    def _list(self) -> None:
        """Which runs there are; those that were known stay where the names do not lead to any more."""
        try:
            runs = select(self.runs_dir, self.names)
        except UserError as error:
            if not self.seen:
                raise
            self.trouble = str(error)
            return
        self.trouble = ""
        self.seen = {run.folder.name: self.seen.get(run.folder.name) or Seen(run) for run in runs}

    def _read(self, changed: Sequence[Seen], version: int) -> bool:
        """Reads these runs; whether any row is another one than before."""
        labels = self._labels()
        for one, standing in zip(changed, standings([one.run for one in changed])):
            one.standing = standing
        fresh = False
        for name, one in self.seen.items():
            if one.standing is None:
                continue
            if (label := labels.get(name)) and label != one.standing.settings:
                one.standing = replace(one.standing, settings=label)
            elif one not in changed:
                continue
            row = _row(one.run, one.standing)
            if row != one.row:
                one.row, one.changed, fresh = row, version, True
        return fresh

    def _labels(self) -> dict[str, str]:
        """The settings in which each readable run differs from the others, by folder."""
        known = {}
        for name, one in self.seen.items():
            config = one.stamp[0]
            if name in self.flats and self.flats[name][0] == config:
                known[name] = self.flats[name]
                continue
            try:
                flat = identifying(one.run.flat_config)
            except UserError:
                flat = {}
            known[name] = (config, flat)
        if known != self.flats:
            self.flats = known
            readable = {name: flat for name, (_, flat) in known.items() if flat}
            self.named = dict(zip(readable, describe(list(readable.values()))))
        return self.named

    def _draw(self, version: int) -> bool:
        """Reads the curves that are drawn: those of running points, the best others beside them; whether any is another."""
        running = [name for name, one in self.seen.items() if one.row.get("state") == State.RUNNING][:DRAWN]
        others = [
            (name, knn)
            for name, one in self.seen.items()
            if name not in running and is_number(knn := one.row.get("knn"))
        ]
        best = [name for name, _ in sorted(others, key=lambda pair: -pair[1])[:BESIDE]]
        fresh = [*running, *best] != self.shown
        self.shown = [*running, *best]
        for name in self.shown:
            one, dull = self.seen[name], name not in running
            if one.curves is None or one.dull != dull:
                lines, points = one.run.metrics(), GREY_POINTS if dull else POINTS
                curves = {key: thinned(measured(lines, key), points) for key in ("train/loss", KNN.top1)}
                one.curves, one.dull, one.drawn, fresh = curves, dull, version, True
        return fresh

    def since(self, version: int) -> Message:
        """What has changed since that version of the board; all there is since 0."""
        rows = [one.row for one in self.seen.values() if one.changed > version and one.row]
        curves = {name: one.curves for name in self.shown if (one := self.seen[name]).drawn > version or version == 0}
        return {
            "version": self.version,
            "at": time.strftime("%H:%M:%S"),
            "notes": [*filter(None, [self.trouble, clock_note(sum(self._by_own_clock()))])],
            "all": [*self.seen] if self.listed > version else None,
            "rows": rows,
            "shown": self.shown,
            "curves": curves,
        }

    def _by_own_clock(self) -> list[bool]:
        return [one.standing.by_own_clock for one in self.seen.values() if one.standing]


def stamped(run: Run) -> Stamp:
    """Times and sizes of the run's files; zeros for what is not there."""
    found = []
    for name in FILES:
        try:
            status = os.stat(f"{run.folder}/{name}")
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append((0, 0))
    return tuple(found)


def _row(run: Run, standing: Standing) -> dict[str, Json]:
    """What the page shows of a run."""
    trouble = None if standing.state in ORDER else standing.state
    ended_badly = trouble is not None and trouble not in (State.DAMAGED, State.MISSING)
    said = log_end(run, 1) if standing.state == State.RUNNING or ended_badly else []
    return {
        "folder": run.folder.name,
        "id": standing.id,
        "state": str(standing.state),
        "order": ORDER.index(None if trouble else standing.state),
        "settings": standing.settings,
        "epoch": standing.epoch,
        "epochs": standing.epochs,
        "loss": standing.loss,
        "knn": standing.knn,
        "linear": standing.linear,
        "left": None if standing.left is None else duration(standing.left),
        "where": standing.where,
        "said": " ".join(said)[:300] or standing.trouble,
        "again": standing.state not in NO_COMMAND and not standing.undecided,
    }


def log_end(run: Run, lines: int) -> list[str]:
    """The last lines of its log, or of its error, as they stand on a terminal, without colours."""
    try:
        found = run.log_tail(lines)
    except UserError as error:
        return [str(error)]
    return [CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in found]
