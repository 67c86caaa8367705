"""The list of the root keys with meaning, range and default, which --help prints."""

import json
from collections.abc import Mapping
from pathlib import Path

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
    for name, field in schema.model_fields.items():
        if field.description:
            rows.append((f"{name}={json.dumps(composed.get(name))}".replace('"', ""), _range(field), field.description))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    lines += ["", "Groups, as group=choice; what a choice holds is set as group.key=value:"]
    folders = [CONF / name for name in (*schema.model_fields, *(("sweeps",) if schema is Config else ()))]
    for folder in filter(Path.is_dir, folders):
        lines.append(f"  {folder.name}: {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")
    return "\n".join(lines)


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
