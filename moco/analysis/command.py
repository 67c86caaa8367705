"""The command that trains a run again, in words that a shell takes."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence

from moco.config.places import INSTALLED
from moco.errors import UserError
from moco.io import Json
from moco.runs.identity import flatten, identity
from moco.runs.run import Run

PLAIN = re.compile(r"[A-Za-z_/][\w/.@+-]*")  # text that Hydra takes as it is
WORDS = ("null", "true", "false", "inf", "nan")  # and what it takes for something else
OTHER = ("version", "runs_dir", "rerun", "device", "compile", "checkpoint_minutes", "tracker", "recipe", "seed")
GROUPS = ("method", "model", "data", "augment", "optimizer", "schedule", "probe")


def command(runs: Sequence[Run]) -> str:
    """The command that trains these runs again, which differ in the seed alone; empty where no words give the same ids."""
    from moco.config.refusals import refusing

    try:
        with refusing():
            seeds = sorted(run.config.seed for run in runs)
            words = [*_words(runs[0]), f"seed={','.join(map(str, seeds))}"]
    except (UserError, OSError):  # of another version, or of files that are not shipped
        return ""
    start = ["moco", "train"] if INSTALLED else ["python", "train.py"]
    return shlex.join([*start, *["-m"] * (len(seeds) > 1), *words]) if words[0] else ""


def _words(run: Run) -> list[str]:
    """The words but for the seed, which give the run's id; [""] where none do."""
    from moco.config import compose
    from moco.config.check import check, typed_keys

    config = run.config
    flat = flatten(config.frozen()) | {"data.root": run.flat_config.get("data.root")}  # as it is written there
    words = _choices(flat)
    there = flatten(compose.composed(words))
    for key, value in flat.items():
        section, _, name = key.partition(".")
        copied = section == "method" and name in flat
        if (
            section not in OTHER
            and not key.endswith("._target_")
            and not copied
            and not _same(key, there.get(key), value)
        ):
            words.append(f"{'' if key in there else '+'}{key}={typed(value)}")
    seeded = [*words, f"seed={config.seed}"]
    return words if identity(check(compose.composed(seeded), typed_keys(seeded))) == identity(config) else [""]


def _same(key: str, there: Json, value: Json) -> bool:
    """Whether the setting is there already; a folder may be written in two ways."""
    if key == "data.root" and isinstance(there, str) and isinstance(value, str):
        return os.path.abspath(there) == os.path.abspath(value)
    return there == value


def _choices(flat: Mapping[str, Json]) -> list[str]:
    """The recipe, where it is shipped, and the choices of groups in which the run differs from it."""
    from moco.config import compose
    from moco.config.places import CONF

    recipe = flat.get("recipe.name")
    words = [f"recipe={recipe}"] if isinstance(recipe, str) and (CONF / "recipe" / f"{recipe}.yaml").exists() else []
    there = flatten(compose.composed(words))
    for group in GROUPS:
        names = [f"{group}.name", f"{group}._target_"]
        if all(there.get(name) == flat.get(name) for name in names):
            continue
        shipped = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        if (choice := flat.get(names[0])) in shipped:
            words.append(f"{group}={choice}")
        elif there.get(names[1]) != flat.get(names[1]):  # the file of a component that has a name of its own
            targets = {one: flatten(compose.composed([*words, f"{group}={one}"])).get(names[1]) for one in shipped}
            words += [f"{group}={one}" for one in shipped if targets[one] == flat.get(names[1])][:1]
    return words


def typed(value: Json) -> str:
    """A value as Hydra reads it from a word."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", quoted) + "'"
