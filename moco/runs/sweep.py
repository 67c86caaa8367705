"""A sweep on disk: runs/sweeps/<name>/sweep.json lists its runs and its launches. Imports no torch."""

import contextlib
import dataclasses
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moco.errors import UserError
from moco.io import Json, locked, read_mapping, write_json
from moco.runs.lease import born, machine
from moco.runs.run import Run, all_runs, find


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
        return cls(time.time(), " ".join(sys.argv), socket.gethostname(), machine(), pid, born(pid))

    @property
    def lives(self) -> bool:
        """Whether its process is one of this machine and has not ended."""
        return self.machine == machine() and born(self.pid) == self.born


class Sweep:
    """The sweep of that name under runs_dir; its runs are those of all its launches, so a sweep can grow."""

    def __init__(self, runs_dir: Path | str, name: str):
        self.name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name)
        self.runs_dir = Path(runs_dir).absolute()
        self.folder = self.runs_dir / "sweeps" / self.name
        self.path = self.folder / "sweep.json"

    def members(self) -> list[str]:
        """The names of its runs' folders; empty where there is no such sweep."""
        return [str(name) for name in self._recorded("runs")]

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

    def record(self, names: Sequence[str]) -> None:
        """Adds a launch of these runs, by folder name.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"runs_dir={self.runs_dir} cannot be written ({error.strerror}): give another") from error
        with locked(self.folder / "lock"):
            members = list(dict.fromkeys([*self.members(), *names]))
            launches = [*self._recorded("launches"), dataclasses.asdict(Launch.now())]
            write_json(self.path, {"name": self.name, "runs": members, "launches": launches})

    def runs(self) -> list[Run]:
        """Its runs.

        Raises:
            UserError: there is no such sweep; names those that exist.
        """
        if not self.path.exists():
            names = ", ".join(sweep_names(self.runs_dir)) or "none yet"
            raise UserError(f"there is no sweep {self.name} in {self.runs_dir}: there are {names}")
        return [Run(self.runs_dir / name) for name in self.members()]

    def launchers(self) -> list[int]:
        """Process ids of its launchers that live on this machine."""
        return [launch.pid for launch in self.launches() if launch.lives]


def sweep_names(runs_dir: Path | str) -> list[str]:
    """The sweeps under runs_dir."""
    with contextlib.suppress(OSError):
        return sorted(p.parent.name for p in (Path(runs_dir) / "sweeps").glob("*/sweep.json"))
    return []


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
