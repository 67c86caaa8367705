"""Successive halving by pause and resume: at each rung the best 1 / eta of the configurations go on, the others wait.

Asynchronous as in ASHA (Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934, Algorithm 2),
with three differences. A weak point is paused and not ended, so that it may go on later. Seeds of one configuration are
ranked by their mean, and rise together. Once all have arrived, those go on, too, that synchronous halving would let go on,
so that what it would finish is finished in whatever order the points came.

Decisions follow from the runs' folders alone. Imports no torch.
"""

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from moco.errors import UserError
from moco.io import Json, locked
from moco.protocols import KNN
from moco.runs.lease import Damaged
from moco.runs.run import Run
from moco.runs.settings import Alike, Flat, alike_but_for_seed
from moco.runs.state import State
from moco.runs.sweep import Sweep

FAILED = (State.FAILED, State.OUT_OF_MEMORY)  # states of runs that count as last
LAST = -math.inf  # the score of a configuration that failed: behind all others, and never let on

# The scores of each configuration at the rungs that all its seeds have reached.
Board: TypeAlias = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Halving:
    """How a sweep is halved: at `rungs` moments the best 1 / `eta` go on."""

    eta: int
    rungs: int

    def epochs(self, total: int) -> list[int]:
        """The rungs of a run of so many epochs, rising: total / eta ** rungs, ..., total / eta, rounded down."""
        return [total // self.eta ** (self.rungs - i) for i in range(self.rungs)]

    def __str__(self) -> str:
        """As people type it, less the keys' common beginning."""
        return f"halving={self.eta} rungs={self.rungs}"


def going_on(board: Board, eta: int, rung: int, left_out: Collection[str] = ()) -> set[str]:
    """The configurations that go on beyond the rung (0 is the first), as far as the scores are known.

    They are the best of those that have arrived there, one of eta, and, once it is known, what synchronous halving takes.

    Args:
        left_out: configurations that are not waited for.
    """
    arrived = {name: scores[rung] for name, scores in board.items() if len(scores) > rung}
    return _best(arrived, len(arrived) // eta) | synchronous(board, eta, rung, left_out)


def synchronous(board: Board, eta: int, rung: int, left_out: Collection[str] = ()) -> set[str]:
    """The configurations that synchronous halving lets go on beyond the rung, at least one; none before all are there.

    Successive halving as in Jamieson and Talwalkar (arXiv 1502.07943): all wait at each rung for the last one.

    Args:
        left_out: configurations that are not waited for: they compete as far as they have come.
    """
    left = set(board)
    for i in range(rung + 1):
        missing = {name for name in left if len(board[name]) <= i}
        if not missing <= {*left_out}:
            return set()
        left -= missing
        left = _best({name: board[name][i] for name in left}, max(1, len(left) // eta))
    return left


def _best(scores: Mapping[str, float], number: int) -> set[str]:
    """So many with the highest scores, of equal ones the first by name."""
    order = sorted(scores, key=lambda name: (-scores[name], name))
    return {name for name in order[:number] if scores[name] > LAST}


def means(seeds: Sequence[Sequence[float]], rungs: int, failed: bool) -> list[float]:
    """The scores that a configuration is ranked by: the mean over its seeds at each rung that all have reached.

    Args:
        seeds: of each its scores at the rungs that it has reached.
        failed: whether a seed has failed, by which the configuration is last everywhere.
    """
    if failed:
        return [LAST] * rungs
    found = [math.fsum(scores) / len(scores) for scores in zip(*seeds)]
    return [LAST if math.isnan(mean) else mean for mean in found]


class Verdict(NamedTuple):
    """Whether a run goes on, how many rungs it has reached, and the reason in words."""

    goes_on: bool
    reached: int
    why: str


@dataclass
class _Configuration:
    """The seeds of one configuration.

    Attributes:
        scores: of each seed, kNN top-1 at the rungs that it has reached.
        left_out: whether it has none but seeds that nobody asks for any more.
    """

    name: str
    data: tuple[Json, Json]
    scores: list[list[float]] = field(default_factory=list)
    failed: bool = False
    left_out: bool = False

    def means(self, rungs: int) -> list[float]:
        """The scores that it is ranked by."""
        return means(self.scores, rungs, self.failed)


class Race:
    """The configurations of a sweep and the rungs that they have reached, as the disk has them now.

    Args:
        runs: all of the sweep.
        gone: folders of runs that have ended without reaching their rung, and count as last.
        left_out: folders, by name, of unfinished runs that nobody asks for any more. A configuration is ranked without such
            seeds; one of such seeds alone competes as far as it has come, and is not waited for.
    """

    def __init__(
        self, runs: Iterable[Run], halving: Halving, gone: Collection[Path] = (), left_out: Collection[str] = ()
    ):
        self.halving = halving
        runs = sorted(runs, key=lambda run: run.folder.name in left_out)  # those come last
        self._of: dict[str, _Configuration] = {}
        self._reached: dict[str, list[float]] = {}
        found: dict[Alike, _Configuration] = {}
        for run in runs:
            try:
                about = _about(str(run.folder))
            except UserError:  # a damaged folder, or one that was removed, holds nobody up
                continue
            out = run.folder.name in left_out
            configuration = found.setdefault(about.alike, _Configuration(run.folder.name, about.data, left_out=out))
            scores = scores_at(run.metrics(), halving.epochs(about.epochs))
            if out and (not configuration.left_out or not scores):
                continue
            configuration.name = min(configuration.name, run.folder.name)
            configuration.scores.append(scores)
            configuration.failed |= _has_failed(run) or (len(scores) < halving.rungs and run.folder in gone)
            self._of[run.folder.name], self._reached[run.folder.name] = configuration, scores
        self._boards: dict[tuple[Json, Json], dict[str, list[float]]] = {}
        for configuration in found.values():
            if not configuration.scores:
                continue
            self._boards.setdefault(configuration.data, {})[configuration.name] = configuration.means(halving.rungs)
        self._going: dict[tuple[tuple[Json, Json], int], set[str]] = {}  # decided once, however many ask

    def verdict(self, run: Run) -> Verdict:
        """Whether the run goes on beyond the last rung that it has reached."""
        name = run.folder.name
        if name not in self._of or not self._reached[name]:
            return Verdict(True, 0, "it has not reached a rung yet")
        mine, reached = self._of[name], len(self._reached[name])
        rung, board = reached - 1, self._boards[mine.data]
        if mine.failed:
            return Verdict(False, reached, "a seed of its configuration has failed")
        if len(board[mine.name]) < reached:
            there = sum(len(scores) >= reached for scores in mine.scores)
            return Verdict(False, reached, f"waits for its other seeds: {there} of {len(mine.scores)} are here")
        if (mine.data, rung) not in self._going:
            out = [one.name for one in self._of.values() if one.left_out]
            self._going[mine.data, rung] = going_on(board, self.halving.eta, rung, out)
        goes_on = mine.name in self._going[mine.data, rung]
        arrived = [scores[rung] for scores in board.values() if len(scores) > rung]
        rank = 1 + sum(score > board[mine.name][rung] for score in arrived)
        return Verdict(goes_on, reached, f"rank {rank} of the {len(arrived)} that are here, of {len(board)}")


class _About(NamedTuple):
    """What a run's configuration says of its race: who is its equal, on which images it is scored, and its epochs."""

    alike: Alike
    data: tuple[Json, Json]
    epochs: int


@functools.cache
def _about(folder: str) -> _About:
    """The same for the life of the process, since a folder is named by what its configuration asks for."""
    flat = Run(folder).flat_config
    return _About(alike_but_for_seed(flat), measured_on(flat), total_epochs(flat))


def measured_on(flat: Flat) -> tuple[Json, Json]:
    """The images that kNN is scored on: scores on others are not compared."""
    return flat.get("data.name"), flat.get("data.validation")


def total_epochs(flat: Flat) -> int:
    """The epochs of the whole run."""
    epochs = flat.get("epochs")
    return epochs if isinstance(epochs, int) else 0


def scores_at(lines: Iterable[Mapping[str, Json]], epochs: Sequence[int]) -> list[float]:
    """kNN top-1 at each of these epochs that was reached, in percent: that of the first evaluation from there on."""
    return [score for _, score in measured_at(lines, epochs)]


def measured_at(lines: Iterable[Mapping[str, Json]], epochs: Sequence[int]) -> list[tuple[int, float]]:
    """The same with the epoch of each evaluation."""
    scored = [
        (epoch, float(score))
        for line in lines
        if isinstance(epoch := line.get("epoch"), int) and isinstance(score := line.get(KNN.top1), int | float)
    ]
    found = []
    for at in epochs:
        if (first := next((one for one in scored if one[0] >= at), None)) is None:
            break
        found.append(first)
    return found


def _has_failed(run: Run) -> bool:
    try:
        return run.state() in FAILED
    except Damaged:
        return True


class Rungs:
    """Where a run of a halved sweep is to be scored, and whether it goes on from there: asked by the job itself.

    Args:
        epochs: of the whole run.
        passed: so many rungs the launcher has decided already.
    """

    def __init__(self, run: Run, sweep: Sweep, halving: Halving, epochs: int, passed: int = 0):
        self.run, self.sweep, self.halving, self.passed = run, sweep, halving, passed
        self.epochs = halving.epochs(epochs)

    def pause(self, epoch: int) -> str | None:
        """Why the run is to pause after this epoch; None where it goes on.

        Raises:
            UserError: the sweep's folder cannot be locked.
        """
        if epoch not in self.epochs[self.passed :]:
            return None
        rung = self.epochs.index(epoch) + 1
        with locked(self.sweep.folder / "halving.lock"):
            out = {*self.sweep.left_out()} - {self.run.folder.name}  # somebody asks for this one, as it is at work
            verdict = Race(self.sweep.runs(), self.halving, left_out=out).verdict(self.run)
        return None if verdict.goes_on else f"paused at epoch {epoch}, rung {rung} of {len(self.epochs)}: {verdict.why}"
