"""The command that goes on with a run, or trains it again: in the shell's words."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from moco.errors import UserError
from moco.io import Json
from moco.runs.identity import flatten, folder_name
from moco.runs.run import Run
from moco.runs.settings import own_keys
from moco.runs.sweep import Sweep

ELSEWHERE = ("version", "runs_dir", "rerun")  # keys that are not copied from a configuration
PLAIN = re.compile(r"[A-Za-z_/][\w./+-]*")  # a text that Hydra takes without quotes
WORDS = re.compile("null|true|false|nan|inf", re.IGNORECASE)  # those are no text to Hydra


def resuming(run: Run, runs_dir: Path | str) -> str:
    """The command that goes on with the run: that of its sweep where SLURM has it, else one for this run alone.

    Raises:
        UserError: its folder cannot be read, or no words of the command line give this run.
    """
    job = run.job()
    if job and job.queue == "slurm":
        if launches := Sweep(run.folder.parent, job.sweep).launches():
            return _as_typed(launches[-1].command)
        raise UserError(f"the sweep {job.sweep} does not say by which command it was launched: give that again")
    return alone(run, runs_dir)


def alone(run: Run, runs_dir: Path | str) -> str:
    """The command that trains this run alone, from its frozen configuration.

    Raises:
        UserError: as resuming.
    """
    from moco.config.places import INSTALLED

    words = _words(run)
    if Path(runs_dir).absolute() != Path("runs").absolute():
        words.append(f"runs_dir={_typed(str(Path(runs_dir).absolute()))}")
    return shlex.join([*(("moco", "train") if INSTALLED else ("python", "train.py")), *words])


def _as_typed(command: str) -> str:
    """A command that a sweep recorded, which begins with the script's path, as it is typed."""
    script, _, rest = command.partition(" ")
    called = {"__main__.py": "python -m moco", "moco": "moco"}.get(Path(script).name, f"python {script}")
    return f"{called} {rest}".rstrip()


def _words(run: Run) -> list[str]:
    """The words that give the run's configuration.

    Raises:
        UserError: there are none: a part of it is not shipped, or has changed since.
    """
    from moco.config.check import check
    from moco.config.compose import composed
    from moco.config.places import CONF

    frozen = run.config.frozen()
    flat = flatten(frozen)
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "sweeps"))
    chosen = {group: name for group in groups if (name := _choice(CONF / group, flat))}
    words = [f"recipe={name}"] if (name := chosen.pop("recipe", "")) else []
    try:
        given = _given(words)
        words += [f"{group}={name}" for group, name in chosen.items() if given.get(f"{group}.name") != name]
        given = _given(words)
        words += [f"{key}={_typed(flat[key])}" for key in _different(flat, given)]
        found = check(composed(words), [])
    except Exception as error:  # Hydra has errors of many kinds
        raise UserError(f"{run.folder} is not what this code's command line can give: launch it as before") from error
    if folder_name(found) != run.folder.name:
        raise UserError(f"{run.folder} was made by another version of this code: launch it as before")
    return words


def _given(words: Sequence[str]) -> dict[str, Json]:
    """What these words give, as it is frozen; as it was composed where they lack something."""
    from moco.config.check import check
    from moco.config.compose import composed

    values = composed(words)
    try:
        return flatten(check(values, []).frozen())
    except UserError:
        return flatten(values)


def _choice(group: Path, flat: Mapping[str, Json]) -> str:
    """The group's choice that the configuration was made from; "" where none is known.

    By its name, else by what it builds: the names of image folders and of timm's models are people's own.
    """
    import yaml

    name, target = flat.get(f"{group.name}.name"), flat.get(f"{group.name}._target_")
    if (group / f"{name}.yaml").exists():
        return str(name)
    for path in sorted(group.glob("*.yaml")):
        if target and (yaml.safe_load(path.read_text()) or {}).get("_target_") == target:
            return path.stem
    return ""


def _different(flat: Mapping[str, Json], given: Mapping[str, Json]) -> list[str]:
    """The settings of a configuration that are not given yet."""
    keys = [key for key in own_keys([flat]) if key not in ELSEWHERE and not key.startswith("recipe")]
    return [key for key in keys if flat[key] != given.get(key)]


def _typed(value: Json) -> str:
    """The value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_typed(one)}' for key, one in value.items())}}}"
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and not WORDS.fullmatch(value):
        return value
    quoted = value.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{quoted}'"
