"""The runs under a folder: all of them, one by its name, and what cannot be read. Imports no torch."""

import contextlib
import os
from pathlib import Path

from moco.errors import UserError
from moco.runs.run import Run


def all_runs(runs_dir: Path | str) -> list[Run]:
    """The runs under runs_dir, by name; folders without a configuration are left out."""
    return [Run(Path(runs_dir) / name) for name, is_run in _folders(runs_dir) if is_run]


def other_folders(runs_dir: Path | str) -> list[str]:
    """The names of folders under runs_dir that hold no run, that of the sweeps apart."""
    return [name for name, is_run in _folders(runs_dir) if not is_run and name != "sweeps"]


def unreadable(runs_dir: Path | str) -> list[str]:
    """A line for each thing under runs_dir that might be a run and cannot be looked into."""
    said = []
    try:
        names = sorted(os.listdir(runs_dir))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return [f"{runs_dir} cannot be read ({error.strerror})"]
    for name in names:
        try:
            os.stat(f"{runs_dir}/{name}/config.json")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            said.append(f"{runs_dir}/{name} cannot be read ({error.strerror})")
    return said


def _folders(runs_dir: Path | str) -> list[tuple[str, bool]]:
    """The folders under runs_dir by name, and whether they hold a configuration."""
    with contextlib.suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(runs_dir) if _is_folder(entry))
        return [(name, os.path.exists(f"{runs_dir}/{name}/config.json")) for name in names]
    return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def find(runs_dir: Path | str, name: str) -> Run:
    """The run of that id, beginning of an id, folder name or path.

    Raises:
        UserError: none or several; names what there is.
    """
    for folder in (Path(name), Path(runs_dir) / name):
        if (folder / "config.json").is_file():
            return Run(folder)
    runs = all_runs(runs_dir)
    matches = [run for run in runs if run.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    listed = ", ".join(run.folder.name for run in (matches or runs)[:8]) or "none yet"
    problem = f"{len(matches)} runs begin with {name}" if matches else f"there is no run {name} in {runs_dir}"
    raise UserError(f"{problem}: give the id or folder of one ({listed})")
