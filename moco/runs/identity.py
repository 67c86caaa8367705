"""What makes a run the same run: a hash of what its configuration asks for, and of nothing else."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from moco.io import Json

if TYPE_CHECKING:
    from moco.config.schema import Config

# What cannot change the result: paths, devices, logging, and what is measured after the training itself.
NOT_IDENTITY = frozenset(
    {
        "version",
        "runs_dir",
        "rerun",
        "device",
        "compile",
        "micro_batch",
        "eval_every",
        "checkpoint_minutes",
        "linear_eval",
        "probe",
        "tracker",
        "recipe",
        "data.root",
        "data.path",
        "data.storage",
        "data.cache",
    }
)
LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


@functools.cache
def identifies(key: str) -> bool:
    """Whether the setting of that dotted key is a part of the run's identity."""
    return key not in NOT_IDENTITY and key.partition(".")[0] not in NOT_IDENTITY


def identity(config: "Config") -> str:
    """The run's id: a hash of the settings that differ from "as before".

    Left out are what cannot change the result, keys whose value is None, and keys that came to the schema later and have
    the value that means "as before" (`as_before`); so the schema can grow and no run is orphaned. A `_target_` counts by
    its class or function alone, wherever that lies, and 1 and 1.0 are one number.

    Ten letters, a to p for the sixteen digits, so that no command line takes an id for a number.
    """
    settings = flatten(_canonical(config.frozen()))
    before = config.as_before()
    copies = {f"method.{key}" for key in config.METHOD_KEYS}
    kept = {
        key: value
        for key, value in settings.items()
        if identifies(key) and key not in copies and not is_as_before(key, settings, before)
    }
    digest = hashlib.sha256(_text(kept).encode()).hexdigest()[:10]
    return digest.translate(LETTERS)


def is_as_before(key: str, settings: Mapping[str, Json], before: Mapping[str, Json]) -> bool:
    """Whether a setting came to the code later and has the value that means "as before".

    Args:
        key: dotted, one of the flat `settings`.
        before: of `Config.as_before`; an argument stands there by its group or by the class that takes it.
    """
    group, _, argument = key.partition(".")
    target = settings.get(f"{group}._target_")
    names = (key, f"{target_name(target)}.{argument}") if isinstance(target, str) else (key,)
    return any(name in before and _text(_canonical(settings[key])) == _text(_canonical(before[name])) for name in names)


def folder_name(config: "Config") -> str:
    """<method>-<model>-<data>-<id>, safe in a path and on Hydra's command line."""
    names = (config.method.name, config.model.name, str(config.data.name))
    return "-".join([*(re.sub(r"[^A-Za-z0-9_.]+", "_", name) for name in names), identity(config)])


def flatten(nested: Json) -> dict[str, Json]:
    """Nested sections as dotted keys; lists stay whole."""
    assert isinstance(nested, dict)
    flat: dict[str, Json] = {}
    _flatten_into(flat, nested, "")
    return flat


def _flatten_into(flat: dict[str, Json], nested: dict[str, Json], prefix: str) -> None:
    for key, value in nested.items():
        if isinstance(value, dict):
            _flatten_into(flat, value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def _canonical(value: Json) -> Json:
    """The value without Nones, with whole numbers as integers and targets as the names of their classes."""
    if isinstance(value, dict):
        kept = {key: _canonical(v) for key, v in value.items() if v is not None}
        if isinstance(target := kept.get("_target_"), str):
            kept["_target_"] = target_name(target)
        return kept
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def target_name(path: str) -> str:
    """`Class`, `Class.method` or `function` of a dotted path: what is left when a module moves."""
    parts = path.split(".")
    first = next((i for i, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
    return ".".join(parts[first:])
