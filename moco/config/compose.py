"""A sweep's points composed fast: each choice of groups by Hydra, plain values set on what it gave.

Hydra composes some 15 points per second, since it merges all files anew for each.
"""

import gc
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from moco.config.check import check
from moco.config.places import CONF
from moco.config.schema import Config
from moco.errors import UserError
from moco.io import Json

ABSENT = object()
ONE_FOR_ALL = ("launcher", "sweeper")  # Hydra's own part of a configuration, which points cannot differ in
ELSEWHERE = "set it on the command line or in a sweeps file"


class Composer:
    """Composer(loader, config)(["method=moco", "m=64"]) -> the resolved configuration, without Hydra's own part."""

    def __init__(self, loader: ConfigLoader, config: DictConfig):
        self.loader, self.config = loader, config
        self.hydra = {part: OmegaConf.to_container(config.hydra[part], resolve=False) for part in ONE_FOR_ALL}
        parse = OverridesParser.create(config_loader=loader).parse_override
        is_group = loader.repository.group_exists  # type: ignore[attr-defined]  # of Hydra's one implementation
        self.parse, self.base, self.is_group = cache(parse), cache(self._base), cache(is_group)
        self.command = self._without_hydra(config)
        typed = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(typed, list)
        self.in_command = [word for word in typed if not self.parse(word).is_sweep_override()]

    def __call__(self, words: Sequence[str]) -> dict[str, Json]:
        overrides = [self.parse(word) for word in words]
        keys = [o.key_or_group for o in overrides if not self._chooses_file(o)]
        plain = {
            word: override
            for word, override in zip(words, overrides)
            if self._plain(override) and sum(_touches(key, override.key_or_group) for key in keys) == 1
        }
        values = {override.key_or_group: override.value() for override in plain.values()}
        hard = tuple(word for word in words if word not in plain)
        # Hydra has composed the command's words already; what else is in them must be set anew here.
        is_command = hard == tuple(word for word in self.in_command if word not in plain)
        base = self.command if is_command else self.base(hard)
        return base.at(values) if base.takes(values) else self._base(tuple(words)).at({})

    def _base(self, words: tuple[str, ...]) -> "Base":
        return self._without_hydra(self.loader.load_sweep_config(self.config, list(words)))

    def _without_hydra(self, composed: DictConfig) -> "Base":
        values = OmegaConf.to_container(composed, resolve=False)
        assert isinstance(values, dict)
        own = values.pop("hydra")
        for part in ONE_FOR_ALL:
            if own[part] != self.hydra[part]:
                raise UserError(f"it sets hydra.{part}, which is one for all points of a sweep: {ELSEWHERE}")
        return Base({str(key): value for key, value in values.items()})

    def _plain(self, override: Override) -> bool:
        """key=value with a value that stands for itself, and nothing that chooses a file."""
        key, value = override.key_or_group, override.value()
        changes = override.type == OverrideType.CHANGE and override.package is None and not key.startswith("hydra")
        scalars = value if isinstance(value, list) else [value]
        own = all(x is None or (isinstance(x, bool | int | float | str) and "$" not in str(x)) for x in scalars)
        return changes and own and not override.is_sweep_override() and "???" not in scalars and not self.is_group(key)

    def _chooses_file(self, override: Override) -> bool:
        """Whether it chooses a file of a group, which Hydra does before it sets any value."""
        return bool(self.is_group(override.key_or_group)) and not isinstance(override.value(), dict)


class Base:
    """What Hydra composed from some words, and what it is once plain values are set on it."""

    def __init__(self, values: dict[str, Any]):
        self.values, self.live = values, OmegaConf.create(values)  # both with their interpolations
        self.copies = _copies(values)

    @cached_property
    def resolved(self) -> dict[str, Json]:
        return resolved(self.live)

    def takes(self, values: Mapping[str, object]) -> bool:
        """Whether setting them does no more than that: each key is there, alone, and is not an interpolation."""
        olds = {key: _at(self.values, key) for key in values}
        return all(
            _is_plain(old) and isinstance(old, list) == isinstance(values[key], list) for key, old in olds.items()
        )

    def at(self, values: Mapping[str, object]) -> dict[str, Json]:
        """The resolved configuration with these values; points share the sections in which they do not differ."""
        if self.copies is None:
            return self._resolved_anew(values)
        found = self.resolved
        for key, value in values.items():
            for place in (key, *self.copies.get(key, ())):
                found = _with(found, place, value)
        return found

    def _resolved_anew(self, values: Mapping[str, object]) -> dict[str, Json]:
        try:
            for key, value in values.items():
                OmegaConf.update(self.live, key, value)
            return resolved(self.live)
        finally:
            for key in values:
                OmegaConf.update(self.live, key, _at(self.values, key))


def resolved(config: DictConfig) -> dict[str, Json]:
    """The configuration as plain data, its interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]  # YAML's keys are text and its values JSON's


def _touches(one: str, other: str) -> bool:
    """Whether one key is the other or holds it: the order of two such words counts."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _at(values: object, key: str) -> object:
    """The value at a dotted key; ABSENT where there is none."""
    for part in key.split("."):
        values = values.get(part, ABSENT) if isinstance(values, dict) else ABSENT
    return values


def _is_plain(value: object) -> bool:
    """Whether it is a value, no section and no interpolation."""
    return value is not ABSENT and not isinstance(value, dict) and "$" not in str(value)


def _with(values: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """The values with another one at a dotted key."""
    first, dot, rest = key.partition(".")
    return {**values, first: _with(values[first], rest, value) if dot else value}


def _copies(values: Mapping[str, object]) -> dict[str, list[str]] | None:
    """The keys that copy another (`m: ${m}` in method) by that one; None where some interpolation is more than a copy."""
    found: dict[str, list[str]] = {}
    for key, text in _interpolations(values):
        original = text.removeprefix("${").removesuffix("}")
        value = _at(values, original)
        if text != f"${{{original}}}" or not _is_plain(value) or value == "???" or _at(values, key) != text:
            return None
        found.setdefault(original, []).append(key)
    return found


def _interpolations(values: Mapping[str, object], section: str = "") -> Iterator[tuple[str, str]]:
    """The values that are or hold an interpolation, each by its dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _interpolations(value, f"{section}{key}.")
        elif "$" in str(value):
            yield section + key, str(value)


def composed(words: Sequence[str], entry: str = "train") -> dict[str, Json]:
    """The resolved configuration, not checked yet, that train.py or linear_eval.py gets from these words."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolved(compose(entry, list(words)))


def recipe(name: str) -> Config | None:
    """The configuration that a shipped recipe gives by itself; None where no recipe of that name is shipped."""
    return check(composed([f"recipe={name}"])) if (CONF / "recipe" / f"{name}.yaml").exists() else None


def show_help(name: str, flags: Namespace) -> None:
    """Prints the help of an entry point and leaves, where its flags ask for it: Hydra's own way lists all its groups twice."""
    if not flags.help:
        return
    searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            shown = compose(name, flags.overrides + searched, return_hydra_config=True)
        except (HydraException, ValueError):  # a sweep's values, or words that are wrong: the user asks what there is
            shown = compose(name, searched, return_hydra_config=True)
    print(shown.hydra.help.template)
    gc.freeze()  # else Python looks for cycles in all that was loaded before it ends, a twelfth of the command
    sys.exit()


def parsed(words: Sequence[str]) -> Namespace:
    """A command's words as Hydra's flags and, in .overrides, all others.

    Raises:
        UserError: there is no such flag, or two of them contradict each other.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(list(words))
    if flags.experimental_rerun:
        _refuse("--experimental-rerun has no effect here: the same command goes on with a run, rerun=true starts over")
    modes = [name for name in ("run", "multirun", "shell_completion") if getattr(flags, name)]
    modes += [name for name in ("cfg", "info") if getattr(flags, name) is not None]
    if len(modes) > 1:
        _refuse(f"{' and '.join(f'--{name}'.replace('_', '-') for name in modes)} cannot go together: give one of them")
    if flags.resolve and flags.cfg is None:
        _refuse("--resolve belongs to --cfg: add --cfg job")
    return flags


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message} (--hydra-help lists the flags)" if "unrecognized" in message else message)


def flags_first(words: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The words with the overrides last: Hydra itself does not take a flag between two of them."""
    left, flags = list(overrides), []
    for word in words:
        if word in left:
            left.remove(word)
        else:
            flags.append(word)
    return [*flags, *overrides]
