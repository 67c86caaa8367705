"""From a section with a `_target_` to the live object, by Hydra's own instantiate; and what a target takes."""

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from moco.config.places import CONF
from moco.config.schema import Component, Config
from moco.errors import UserError

HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")  # keys that are for instantiate itself


class Taken(NamedTuple):
    """The arguments of a target."""

    names: tuple[str, ...]
    any: bool  # whether it has **kwargs, and so takes every name
    parameters: Mapping[str, inspect.Parameter] = {}


def instantiate(section: Component, **live: object) -> Any:
    """What the section's `_target_` makes of its values and of the live objects that it takes.

    By hydra.utils.instantiate, so `_partial_`, `_args_`, `_convert_`, nested `_target_`s and `pkg.Class.method` mean what they
    mean in Hydra; lists reach the target as lists. Live objects (`encoder`, `params`, `steps`, ...) are handed to a target
    that names them or has **kwargs, and are never copied.

    Raises:
        UserError: there is no such target, or it does not take these arguments or values.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as partially

    takes = taken_by(section.target)
    # A key that was left empty and that this target has no use for (data.root of the digits) is not an argument.
    arguments = {
        key: value
        for key, value in section.arguments().items()
        if value is not None or takes.any or key in takes.names or key in HYDRAS
    }
    for key, value in arguments.items():
        if key not in (*HYDRAS, *takes.names) and not takes.any:
            raise UserError(f"{section.name} has no setting {key}: it takes {', '.join(takes.names)}")
        if value is None and not _may_be_null(takes.parameters.get(key)):
            raise UserError(f"{section.name}: {key}=null is no value for it: give one, or leave {key} out")
    handed = {key: value for key, value in live.items() if takes.any or key in takes.names}
    try:
        make = partially({"_convert_": "all", **arguments, "_partial_": True})
    except InstantiationException as error:  # of something nested
        raise UserError(f"{section.name}: {' '.join(str(error).split())}") from error
    try:
        if takes.names:
            _check_call(section, make, handed)
        return make(**handed)
    except (TypeError, ValueError) as error:
        if section.target.startswith("moco."):  # our own say UserError where the user is at fault
            raise
        raise UserError(f"{section.name}: {' '.join(str(error).split())}") from error


def _may_be_null(parameter: inspect.Parameter | None) -> bool:
    """Whether an argument takes None, or does not tell."""
    if parameter is None or parameter.default is None or parameter.annotation is inspect.Parameter.empty:
        return True
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    return not all(isinstance(kind, type) and kind not in (object, Any, type(None)) for kind in kinds)


def _check_call(section: Component, make: Any, handed: Mapping[str, object]) -> None:
    """Refuses a call that lacks an argument."""
    try:
        inspect.signature(make).bind(**handed)
    except TypeError as error:
        raise UserError(f"{section.name}: {error}, it takes {', '.join(taken_by(section.target).names)}") from error


@functools.cache
def taken_by(path: str) -> Taken:
    """What the target at a dotted path takes; imports it.

    Raises:
        UserError: there is no such target.
    """
    from hydra.utils import get_object

    try:
        target = get_object(path)
    except Exception as error:  # whatever importing a module of the user's raises
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"_target_: {path} cannot be imported ({reason})") from error
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some of Python's own types do not tell
        return Taken((), True)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = tuple(name for name, p in parameters.items() if p.kind not in variable)
    return Taken(names, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()), parameters)


def wrong_kind(takes: Taken, key: str, value: object) -> str:
    """What an argument should be that is not of the kind of its default; "" where it is, or where that cannot be known."""
    parameter = takes.parameters.get(key)
    if parameter is None or parameter.annotation is inspect.Parameter.empty or "str" in str(parameter.annotation):
        return ""
    default = parameter.default
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return "" if _is_number(value) else "a number"
    if isinstance(default, tuple | list) and default and all(map(_is_number, default)):
        fits = isinstance(value, list) and all(map(_is_number, value)) and len(value) == len(default)
        return "" if fits else f"a list of {len(default)} numbers"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def foreign_keys(group: str, section: Mapping[str, object]) -> list[str]:
    """The keys with a value that only the target can judge: neither the project's own nor in a file of the group for it."""
    schema = Config.model_fields[group].annotation
    assert isinstance(schema, type) and issubclass(schema, Component)
    known = {*_own_keys(group, str(section.get("_target_"))), *schema.OWN, *HYDRAS}
    return [key for key, value in section.items() if value is not None and key not in known]


_folders = [CONF]  # of the files of choices


def _content(path: Path) -> object:
    """What a YAML file holds; None where it cannot be read, which Hydra tells where it is chosen."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None


@functools.cache
def _own_keys(group: str, target: str) -> frozenset[str]:
    """The keys that the files of a group's choices give to a target."""
    return frozenset(key for section in _choices(group) if section.get("_target_") == target for key in section)


@functools.cache
def keys_of_some(group: str) -> frozenset[str]:
    """The keys that some of a group's choices have and others do not."""
    sections = [frozenset(section) for section in _choices(group)]
    return frozenset.union(*sections) - frozenset.intersection(*sections)


@functools.cache
def _choices(group: str) -> list[dict[str, object]]:
    """The sections that the files of a group's choices hold."""
    contents = [_content(path) for folder in _folders for path in sorted((folder / group).glob("*.yaml"))]
    sections = [content.get(group, content) for content in contents if isinstance(content, dict)]
    return [section for section in sections if isinstance(section, dict)]


def choices_in(folder: Path) -> None:
    """Tells that the user has files of choices there, too."""
    _folders.append(folder)
    for known in (_own_keys, keys_of_some, _choices):
        known.cache_clear()
