"""The list of the root keys with meaning, range and default, which --help prints."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from moco.config.places import CONF
from moco.config.schema import Config

FAR = 1e12  # a limit beyond this is of no use to the reader


def register_help(schema: type[BaseModel]) -> None:
    """Makes ${help:}, which Hydra's help template holds, the list of the root keys of `schema`."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("help", lambda *, _root_: help_text(_root_, schema), replace=True)


def help_text(composed: Mapping[str, object], schema: type[BaseModel] = Config) -> str:
    """The root keys with meaning, range and default, and the choices of the groups."""
    rows = [("key=default", "range", "meaning")]
    for key, default, field in _described(schema, composed):
        group = key in _sections(schema)
        shown = "..." if group else json.dumps(default).replace('"', "")
        rows.append((f"{key}={shown}", "" if group else _range(field), str(field.description)))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    lines += ["", "Groups, as group=choice; what a choice holds is set as group.key=value:"]
    groups = [name for name, section in _sections(schema).items() if "name" in section.model_fields]
    folders = [CONF / name for name in (*groups, *(("sweeps",) if schema is Config else ()))]
    for folder in filter(Path.is_dir, folders):
        lines.append(f"  {folder.name}: {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")
    return "\n".join(lines)


def _described(schema: type[BaseModel], composed: Mapping[str, object]) -> Iterator[tuple[str, object, FieldInfo]]:
    """The keys that have a meaning of their own, dotted, each with its default: those of the root and of plain sections."""
    for name, field in schema.model_fields.items():
        if field.description:
            yield name, composed.get(name), field
    for name, section in _sections(schema).items():
        values = composed.get(name)
        if "name" not in section.model_fields and isinstance(values, Mapping):
            yield from ((f"{name}.{key}", default, field) for key, default, field in _described(section, values))


def _sections(schema: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The keys that hold a section."""
    found = {}
    for name, field in schema.model_fields.items():
        for one in (field.annotation, *get_args(field.annotation)):
            if isinstance(one, type) and issubclass(one, BaseModel):
                found[name] = one
    return found


def _range(field: FieldInfo) -> str:
    """A field's type and range in a few characters."""
    annotation = field.annotation
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(c, str) for c in choices):
        return "|".join(choices)
    kind = next(c for c in (annotation, *choices, str) if c in (bool, int, float, str))
    assert isinstance(kind, type)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [
        f"{s}{getattr(c, a):g}"
        for c in field.metadata
        for a, s in signs.items()
        if hasattr(c, a) and getattr(c, a) < FAR
    ]
    return " ".join([kind.__name__, *limits])
