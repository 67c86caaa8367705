"""The command that goes on with a run."""

import shlex
from pathlib import Path

from moco.analysis.command import command, typed
from moco.errors import UserError
from moco.runs.identity import flatten, folder_name
from moco.runs.run import Run
from moco.runs.sweep import Sweep

BESIDE = ("device", "compile", "checkpoint_minutes", "tracker")  # how it runs, which its id does not tell


def resuming(run: Run, runs_dir: Path | str) -> str:
    """The command that goes on with the run: that of its sweep where SLURM has it, else one for this run alone.

    Raises:
        UserError: its folder cannot be read, or no words of the command line give this run.
    """
    job = run.job()
    if job and job.queue == "slurm":
        if launches := Sweep(run.folder.parent, job.sweep).launches():
            before = [launch for launch in launches if launch.time <= job.submitted]  # later ones may be of other runs
            return _as_typed((before or launches)[-1].command)
        raise UserError(f"the sweep {job.sweep} does not say by which command it was launched: give that again")
    return alone(run, runs_dir)


def alone(run: Run, runs_dir: Path | str) -> str:
    """The command that goes on with this run alone, from its frozen configuration.

    Raises:
        UserError: as resuming.
    """
    from moco.config.compose import composed
    from moco.config.places import INSTALLED

    flat, words = run.flat_config, shlex.split(command([run]))[2:]
    if not words or folder_name(run.config) != run.folder.name:
        raise UserError(f"{run.folder} is not what this code's command line can give: launch it as before")
    given = flatten(composed(words))
    if flat["tracker.name"] != given["tracker.name"]:
        words.append(f"tracker={flat['tracker.name']}")
        given = flatten(composed(words))
    how = [key for key in flat if key.partition(".")[0] in BESIDE and flat[key] != given.get(key)]
    words += [f"{key}={typed(flat[key])}" for key in how]
    if Path(runs_dir).absolute() != Path("runs").absolute():
        words.append(f"runs_dir={typed(str(Path(runs_dir).absolute()))}")
    return shlex.join([*(("moco", "train") if INSTALLED else ("python", "train.py")), *words])


def _as_typed(command: str) -> str:
    """A command that a sweep recorded, which begins with the script's path, as it is typed."""
    script, _, rest = command.partition(" ")
    called = {"__main__.py": "python -m moco", "moco": "moco"}.get(Path(script).name, f"python {script}")
    return f"{called} {rest}".rstrip()
