"""A sweep on disk: runs/sweeps/<name>/sweep.json lists its runs and its launches. Imports no torch."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moco.config.words import NO_TEXT
from moco.errors import UserError
from moco.io import Json, locked, read_mapping, write_json
from moco.runs.identity import identifies
from moco.runs.lease import born, machine
from moco.runs.listing import all_runs, find
from moco.runs.run import Run

SILENCE = 60.0  # seconds without a sign of life after which who claims the sweeps is not waited for
LONGEST = 90  # letters of a name that is made here
NAME = re.compile(r"[^\W\d][\w.+-]{0,99}|\d[\w.+-]{0,99}")


@dataclass
class Launch:
    """One launch of a sweep, and the process that did it."""

    time: float
    command: str
    host: str
    machine: str
    pid: int
    born: str | None

    @classmethod
    def now(cls) -> "Launch":
        """The launch by this process."""
        pid = os.getpid()
        command = f"{sys.argv[0]} {shlex.join(sys.argv[1:])}"
        return cls(time.time(), command, socket.gethostname(), machine(), pid, born(pid))

    @property
    def lives(self) -> bool:
        """Whether its process is one of this machine and has not ended."""
        return self.machine == machine() and born(self.pid) == self.born


class Sweep:
    """The sweep of that name under runs_dir; its runs are those of all its launches, so a sweep can grow."""

    def __init__(self, runs_dir: Path | str, name: str, fixed: Sequence[str] = ()):
        """fixed: what all points of a sweep without a name share, which tells it from another one over the same keys."""
        self.name, self.fixed = name, [*fixed]
        self.runs_dir = Path(runs_dir).expanduser().absolute()
        self.folder = self.runs_dir / "sweeps" / self.name
        self.path = self.folder / "sweep.json"

    @classmethod
    def named(cls, runs_dir: Path | str, name: str) -> "Sweep":
        """The sweep of a name that somebody has thought of.

        Raises:
            UserError: the name is not one that a folder and every command line take as it is.
        """
        if not NAME.fullmatch(name) or NO_TEXT.fullmatch(name):
            raise UserError(
                f"{name} cannot be a sweep's name: begin with a letter, and use letters, digits and _ . + - (at most 100)"
            )
        return cls(runs_dir, name)

    @classmethod
    def unnamed(cls, runs_dir: Path | str, keys: Sequence[str] = (), words: Sequence[str] = ()) -> "Sweep":
        """The sweep over these keys whose points share these words; a second one over the same keys gets a number.

        What does not change a run's result does not tell sweeps apart.
        """
        name = re.sub(r"[^\w.+-]+", "_", "+".join(keys)) or "single"
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        fixed = (
            sorted(w for w in words if identifies(w.partition("=")[0].lstrip("+~").partition("@")[0])) if keys else []
        )
        for number in itertools.count(1):
            sweep = cls(runs_dir, name if number == 1 else f"{name}-{number}", fixed)
            if (read_mapping(sweep.path) or {}).get("fixed", fixed) == fixed:
                break
        return sweep

    def members(self) -> list[str]:
        """The names of its runs' folders; empty where there is no such sweep."""
        return [str(name) for name in self._recorded("runs")]

    def left_out(self) -> list[str]:
        """The names of its unfinished runs' folders that no launch asks for any more: a halved sweep does not wait for them."""
        return [str(name) for name in self._recorded("left_out")]

    def launches(self) -> list[Launch]:
        """All that were recorded."""
        found = []
        for launch in self._recorded("launches"):
            with contextlib.suppress(TypeError):  # another version wrote it
                found.append(Launch(**launch))  # type: ignore[arg-type]
        return found

    def _recorded(self, key: str) -> list[Json]:
        """A list of sweep.json's; empty where there is none."""
        recorded = (read_mapping(self.path) or {}).get(key)
        return recorded if isinstance(recorded, list) else []

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Holds all sweeps of runs_dir while one looks what is to be done and gives it to a queue.

        That takes minutes where there are thousands of points: who waits does so as long as the holder gives signs of life.

        Raises:
            UserError: runs_dir cannot be written, or its holder gives no sign of life.
        """
        fresh, lock = not self.runs_dir.exists(), self.folder.parent / ".lock"
        with self._writing():
            lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(lock, what="gives the points of a sweep to their jobs", silence=SILENCE):
                yield
        except BaseException:
            if fresh:  # nothing stays of a launch that was refused
                with contextlib.suppress(OSError):
                    lock.unlink(missing_ok=True)
                    lock.parent.rmdir()
                    self.runs_dir.rmdir()
            raise

    def record(self, names: Sequence[str], left_out: Sequence[str] | None = None) -> dict[str, Json] | None:
        """Adds a launch of these runs, by folder name; returns what was recorded before, for `restore`.

        Args:
            left_out: unfinished runs that no launch asks for any more; None: those of before but these.

        Raises:
            UserError: the folder cannot be written, or its file is damaged.
        """
        self.check()
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / "lock"):
                before = read_mapping(self.path)
                members = list(dict.fromkeys([*self.members(), *names]))
                launches = [*self._recorded("launches"), dataclasses.asdict(Launch.now())]
                record = {"name": self.name, "fixed": self.fixed, "runs": members, "launches": launches}
                out = [name for name in self.left_out() if name not in names] if left_out is None else [*left_out]
                record |= {"left_out": out} if out else {}
                write_json(self.path, record)
        return before

    def restore(self, before: dict[str, Json] | None) -> None:
        """Takes back what `record` did, for a launch that was refused; call it under `claim`."""
        with contextlib.suppress(OSError):
            if before is None:
                shutil.rmtree(self.folder)
            else:
                write_json(self.path, before)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells what the file system refuses."""
        try:
            yield
        except OSError as error:
            raise UserError(f"runs_dir={self.runs_dir} cannot be written ({error.strerror}): give another") from error

    def runs(self) -> list[Run]:
        """Its runs.

        Raises:
            UserError: there is no such sweep, and those that exist are named; or its file is damaged.
        """
        if not self.path.exists():
            names = ", ".join(sweep_names(self.runs_dir)) or "none yet"
            raise UserError(f"there is no sweep {self.name} in {self.runs_dir}: there are {names}")
        self.check()
        return [Run(self.runs_dir / name) for name in self.members()]

    def check(self) -> None:
        """Refuses a sweep.json that does not say which runs there are.

        Raises:
            UserError: so it is; the next launch of the same points writes it anew.
        """
        if self.path.exists() and not isinstance((read_mapping(self.path) or {}).get("runs"), list):
            raise UserError(f"{self.path} is damaged: remove it and launch the sweep again, which keeps its runs")

    def launchers(self) -> list[int]:
        """Process ids of its launchers that live on this machine."""
        return [launch.pid for launch in self.launches() if launch.lives]


def sweep_names(runs_dir: Path | str) -> list[str]:
    """The sweeps under runs_dir."""
    with contextlib.suppress(OSError):
        return sorted(p.parent.name for p in (Path(runs_dir) / "sweeps").glob("*/sweep.json"))
    return []


def damaged(runs_dir: Path | str) -> list[str]:
    """A line for each sweep under runs_dir whose file does not say which runs it has."""
    said = []
    for name in sweep_names(runs_dir):
        try:
            Sweep(runs_dir, name).check()
        except UserError as error:
            said.append(str(error))
    return said


def select(runs_dir: Path | str, names: Sequence[str] = ()) -> list[Run]:
    """The runs and the runs of the sweeps of those names, each once; all runs where no name is given.

    Raises:
        UserError: a name is unknown, or there are no runs.
    """
    known = sweep_names(runs_dir) if names else []
    chosen: dict[Path, Run] = {}
    for name in names:
        named = Sweep(runs_dir, name).runs() if name in known else [find(runs_dir, name)]
        chosen |= {run.folder.absolute(): run for run in named}
    runs = list(chosen.values()) if names else all_runs(runs_dir)
    if not runs:
        raise UserError(f"there are no runs in {runs_dir}: train one, or give --runs-dir")
    return runs


def membership(runs_dir: Path | str) -> dict[str, list[str]]:
    """The sweeps that each run belongs to, by the name of its folder."""
    found: dict[str, list[str]] = {}
    for name in sweep_names(runs_dir):
        for folder in Sweep(runs_dir, name).members():
            found.setdefault(folder, []).append(name)
    return found
