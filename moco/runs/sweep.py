"""A sweep on disk: runs/sweeps/<name>/sweep.json lists its runs and its launches. Imports no torch."""

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moco.errors import UserError
from moco.io import locked, read_json, write_json
from moco.runs.lease import born, machine
from moco.runs.run import Run, all_runs, find


class Sweep:
    """The sweep of that name under runs_dir; its runs are those of all its launches, so a sweep can grow."""

    def __init__(self, runs_dir: Path | str, name: str):
        self.name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name)
        self.runs_dir = Path(runs_dir).absolute()
        self.folder = self.runs_dir / "sweeps" / self.name
        self.path = self.folder / "sweep.json"

    @property
    def content(self) -> dict[str, Any]:
        content = read_json(self.path)
        return content if isinstance(content, dict) else {"name": self.name, "runs": [], "launches": []}

    def record(self, names: list[str]) -> None:
        """Adds a launch of these runs, by folder name.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"runs_dir={self.runs_dir} cannot be written ({error.strerror}): give another") from error
        with locked(self.folder / "lock"):
            content = self.content
            content["runs"] = list(dict.fromkeys([*content["runs"], *names]))
            launch = {
                "time": time.time(),
                "command": " ".join(sys.argv),
                "host": socket.gethostname(),
                "machine": machine(),
                "pid": os.getpid(),
                "born": born(os.getpid()),
            }
            content["launches"].append(launch)
            write_json(self.path, content)

    def runs(self) -> list[Run]:
        """Its runs that have a folder.

        Raises:
            UserError: there is no such sweep; names those that exist.
        """
        if not self.path.exists():
            names = ", ".join(sweep_names(self.runs_dir)) or "none yet"
            raise UserError(f"there is no sweep {self.name} in {self.runs_dir}: there are {names}")
        return [Run(self.runs_dir / name) for name in self.content.get("runs", [])]

    def launchers(self) -> list[int]:
        """Process ids of its launchers that live on this machine."""
        here = [launch for launch in self.content["launches"] if launch["machine"] == machine()]
        return [launch["pid"] for launch in here if born(launch["pid"]) == launch["born"]]


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
        for folder in Sweep(runs_dir, name).content.get("runs", []):
            found.setdefault(folder, []).append(name)
    return found
