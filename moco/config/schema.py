"""The typed schema: every root key, its type, its range and its one-line meaning, in one place.

A composed configuration is checked against it before anything is built, submitted or written, and all that is wrong with
it is said at once. Imports neither torch nor hydra.
"""

import difflib
import functools
import importlib
import inspect
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moco.errors import UserError

ROOT = Path(__file__).parents[2]
METHOD_KEYS = ("temperature", "m", "feature_dim", "momentum")  # a method that leaves one out of its section lacks it

DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"


class Section(BaseModel):
    """A group whose keys are all known."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Component(BaseModel):
    """A group that names what it builds; keys beyond the typed ones are arguments of `_target_`."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, allow_inf_nan=False)
    name: str
    target: str = Field(alias="_target_", pattern=r"^[A-Za-z_][\w.]+\.\w+$")


class Method(Component):
    symmetric: bool | None = None
    head_layers: Literal[1, 2] | None = None
    hidden_dim: int | None = Field(None, gt=0)
    head_norm: bool | None = None
    splits: int | None = Field(None, ge=1)


class Model(Component):
    architecture: str | None = None
    stem: Literal["cifar", "imagenet"] | None = None


class Data(Component):
    name: str | None  # type: ignore[assignment]  # None: see named()
    root: str | None
    size: int | None = Field(None, ge=4)
    validation: float = Field(ge=0, lt=1)
    mean: list[float] | None = Field(min_length=3, max_length=3)
    std: list[float] | None = Field(min_length=3, max_length=3)


class Optimizer(Component):
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    momentum: float | None = Field(None, ge=0, lt=1)
    scale_lr: bool


class Schedule(Component):
    warmup_epochs: float = Field(ge=0)


class Augmentation(Section):
    name: str
    target: str = Field(alias="_target_")
    size: int | None = Field(ge=4)
    eval_size: int | None = Field(ge=4)
    crop: list[float] = Field(min_length=2, max_length=2)
    flip: float = Field(ge=0, le=1)
    jitter: list[float] = Field(min_length=4, max_length=4)
    jitter_p: float = Field(ge=0, le=1)
    gray: float = Field(ge=0, le=1)
    blur: float = Field(ge=0, le=1)
    blur_sigma: list[float] = Field(min_length=2, max_length=2)
    solarize: float = Field(ge=0, le=1)
    normalize: bool


class Probe(Section):
    name: Literal["augmented", "cached"]
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class Tracker(Section):
    name: Literal["wandb", "none"]
    mode: Literal["offline", "online"] = "offline"
    project: str = "moco"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = []


class Recipe(Section):
    """What a recipe's source reports, for the row beside ours; numbers in percent."""

    name: str
    source: str | None = None
    knn: list[float | None] | None = None
    linear: list[float | None] | None = None
    note: str | None = None


class Config(Section):
    """The root keys. Groups follow them."""

    temperature: float = Field(gt=0, description="softmax temperature of the contrastive loss")
    m: int | None = Field(ge=0, description="negatives: queue size (moco) or samples from the bank (npid, 0 = all)")
    feature_dim: int = Field(ge=1, description="dimensions of the projection head's output")
    momentum: float | None = Field(ge=0, le=1, description="of the key encoder (moco) or of the memory bank (npid)")
    k: int = Field(ge=1, description="neighbours that vote in kNN")
    knn_temperature: float = Field(gt=0, description="temperature of the votes' weights; apart from the loss's")
    batch_size: int = Field(ge=2, description="images in a step; the rest of an epoch that fills none is left out")
    epochs: int = Field(ge=1, description="passes over the training images")
    seed: int = Field(ge=0, description="of weights, data order and views")
    precision: Literal["auto", "fp32", "bf16"] = Field(description="auto: bf16 where the hardware is fast at it")
    compile: bool = Field(description="torch.compile for the backbone (costs a minute at the start)")
    device: str = Field(pattern=DEVICE, description="auto, cpu, cuda, cuda:1 or mps")
    eval_every: int = Field(ge=1, description="epochs between kNN evaluations; the last epoch always has one")
    checkpoint_minutes: float = Field(
        ge=0, description="at most so much work is lost to a kill; 0 = save at every step"
    )
    linear_eval: bool = Field(description="linear evaluation (group probe) at the end of training")
    runs_dir: str = Field(min_length=1, description="where runs' folders lie")
    rerun: bool = Field(description="start over, also where the run is done; what was there is replaced")
    method: Method
    model: Model
    data: Data
    augment: Augmentation
    optimizer: Optimizer
    schedule: Schedule
    probe: Probe
    tracker: Tracker
    recipe: Recipe | None


class LinearEval(Section):
    """Keys of linear_eval.py."""

    run: str | None = Field(description="id or folder of a finished run")
    sweep: str | None = Field(description="a sweep: each of its finished runs that lacks it, through hydra/launcher")
    runs_dir: str = Field(min_length=1, description="where runs' folders lie")
    device: str = Field(pattern=DEVICE, description="auto, cpu, cuda, cuda:1 or mps")
    seed: int = Field(ge=0, description="of the classifier, its data order and views")
    rerun: bool = Field(description="evaluate again where it has been done")
    probe: Probe
    tracker: Tracker


def check(composed: Any, schema: type[BaseModel] = Config, *, fold: bool = False) -> dict[str, Any]:
    """The composed, resolved configuration with its values in their types.

    Args:
        fold: drop the keys that the method does not use instead of refusing them, as a sweep over methods does.

    Raises:
        UserError: every unknown key, wrong type, value out of range and unused key, a line each.
    """
    composed = dict(composed)
    method = composed.get("method") if schema is Config else None
    unused = [key for key in METHOD_KEYS if isinstance(method, Mapping) and key not in method]
    if fold:
        composed.update(dict.fromkeys(unused))
    problems = []
    try:
        checked = schema.model_validate(composed).model_dump(by_alias=True)
    except ValidationError as error:
        problems = [_explain(e, schema) for e in error.errors()]
    if isinstance(method, Mapping):
        for key in METHOD_KEYS:
            value = composed.get(key)
            if key not in unused and method[key] != value:
                problems.append(f"method.{key}={method[key]} is a copy of the root key: give {key}={method[key]}")
            if key in unused and value is not None:
                problems.append(f"{key}={value} is not used by method={method.get('name')}: leave {key} out")
            elif key not in unused and value is None:
                problems.append(f"method={method.get('name')} needs a value for {key}")
    if not problems and isinstance(method, Mapping):
        problems = list(_contradictions(checked))
    if problems:
        raise UserError("\n".join(problems))
    if isinstance(method, Mapping):  # in the root keys' types: 1 and 1.0 are one temperature
        checked["method"].update({key: checked[key] for key in METHOD_KEYS if key not in unused})
    return checked


def _contradictions(cfg: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of what the building of a run would refuse: no job of a sweep is to find it."""
    method, augment, warmup = cfg["method"], cfg["augment"], cfg["schedule"]["warmup_epochs"]
    splits, batch = method["splits"], cfg["batch_size"]
    if splits and batch % splits:
        yield f"batch_size={batch} is no multiple of method.splits={splits}: give another, or method.splits=1"
    if method["name"] == "moco" and cfg["m"] == 0:
        yield "m=0 is no queue: method=moco needs at least 1 (npid takes 0 for its whole bank)"
    if method["head_layers"] == 1 and (method["hidden_dim"] or method["head_norm"]):
        yield "method.hidden_dim and method.head_norm are of a hidden layer: leave them out, or give method.head_layers=2"
    if warmup >= cfg["epochs"]:
        yield f"schedule.warmup_epochs={warmup} leaves nothing of epochs={cfg['epochs']}: give fewer, or more epochs"
    if not 0 < augment["crop"][0] <= augment["crop"][1] <= 1:
        yield f"augment.crop={augment['crop']} should be [least, largest] share of the image, 0 < least <= largest <= 1"
    if not 0 < augment["blur_sigma"][0] <= augment["blur_sigma"][1]:
        yield f"augment.blur_sigma={augment['blur_sigma']} should be [least, largest] in pixels, above 0"
    if min(augment["jitter"]) < 0 or augment["jitter"][3] > 0.5:
        yield f"augment.jitter={augment['jitter']} should be four strengths of at least 0, hue at most 0.5"


def named(cfg: dict[str, Any]) -> dict[str, Any]:
    """An image folder without a name takes its folder's.

    Raises:
        UserError: no folder is given.
    """
    if cfg["data"]["name"]:
        return cfg
    if not cfg["data"]["root"]:
        raise UserError("data.root is missing: give a folder that holds train/<class>/ and test/<class>/")
    return {**cfg, "data": {**cfg["data"], "name": Path(cfg["data"]["root"]).expanduser().absolute().name}}


def _explain(error: Any, schema: type[BaseModel]) -> str:
    """One line for one of pydantic's errors."""
    path = [str(part) for part in error["loc"]]
    key, value = ".".join(path), error["input"]
    if error["type"] == "extra_forbidden":
        return unknown_key(key, _known_keys(schema, path[:-1]))
    if error["type"] == "missing":
        return f"{key} is missing: give {key}=..."
    reason = re.sub(r"^(Input|Value|String) should", "should", error["msg"])
    field = schema.model_fields.get(key)
    hint = f" ({field.description})" if field and field.description else ""
    return f"{key}={value} {reason}{hint}"


def _known_keys(schema: type[BaseModel], path: Iterable[str]) -> list[str]:
    prefix = ""
    for part in path:
        annotation = schema.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        schema = next(o for o in options if inspect.isclass(o) and issubclass(o, BaseModel))
        prefix += part + "."
    return [prefix + (field.alias or name) for name, field in schema.model_fields.items()]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The line that refuses a misspelt key and names the nearest."""
    known = list(known)
    near = difflib.get_close_matches(key, known, 1)
    return f"unknown key {key}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


def check_words(words: Iterable[str], schema: type[BaseModel] = Config) -> None:
    """Refuses command-line words whose root key does not exist, before Hydra answers with its longer error.

    Raises:
        UserError: a line for each such word.
    """
    known = [*schema.model_fields, *(("sweeps",) if schema is Config else ())]
    problems = []
    for word in words:
        if word.startswith("sweeps=wandb/"):
            path = f"{word.replace('=', '/', 1).removesuffix('.yaml')}.yaml"
            problems.append(f"{path} is W&B's: `wandb sweep {path}`, then `wandb agent` with what it prints")
        match = re.match(r"^[+~]{0,2}([A-Za-z_]\w*)[\w./@]*=", word)
        if match and match[1] not in (*known, "hydra"):
            problems.append(unknown_key(match[1], known))
    if problems:
        raise UserError("\n".join(problems))


def check_arguments(cfg: Mapping[str, Any]) -> None:
    """Refuses keys of open groups that their targets do not take. What a choice's own file holds needs no import to know.

    Raises:
        UserError: a line for each section with such a key.
    """
    problems = []
    for group, section in cfg.items():
        if isinstance(section, Mapping) and "_target_" in section:
            own = _own_keys(group, section["_target_"])
            if any(value is not None and key not in own for key, value in section.items()):
                try:
                    arguments(section)
                except UserError as error:
                    problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


@functools.cache
def _own_keys(group: str, target: str) -> frozenset[str]:
    """The keys that the files of a group's choices give to a target."""
    contents = [yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / group).glob("*.yaml")]
    sections = [content.get(group, content) for content in contents]
    return frozenset(key for section in sections if section.get("_target_") == target for key in section)


def build(section: Mapping[str, Any], **live: Any) -> Any:
    """What the section's `_target_` makes of its values and of those live objects that it asks for by name.

    Raises:
        UserError: no such target, or arguments that it does not take.
    """
    target, values, takes = arguments(section)
    return target(**values, **{key: value for key, value in live.items() if key in takes})


# Keys of a section that are for the project itself, not for its target.
OURS = ("_target_", "name", "scale_lr", "validation", "mean", "std", "normalize")


def arguments(section: Mapping[str, Any]) -> tuple[Any, dict[str, Any], Collection[str]]:
    """A section's target, imported, the values for it, and the names of all that it takes.

    Raises:
        UserError: no such target, or arguments that it does not take.
    """
    module, _, attribute = section["_target_"].rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"_target_: {section['_target_']} cannot be imported ({error})") from error
    takes = inspect.signature(target).parameters
    values = {key: value for key, value in section.items() if key not in OURS}
    # Typed keys that were left empty and that this target has no use for (optimizer.momentum of Adam) are no arguments.
    values = {key: value for key, value in values.items() if value is not None or key in takes}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for key in values:
        if key not in takes and not open_ended:
            raise UserError(f"{section['name']} has no setting {key}: it takes {', '.join(k for k in takes)}")
    return target, values, takes


def register_help(schema: type[BaseModel] = Config) -> None:
    """Makes ${help:}, which Hydra's help template holds, the list of the root keys of `schema`."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("help", lambda *, _root_: help_text(_root_, schema), replace=True)


def help_text(composed: Mapping[str, Any], schema: type[BaseModel] = Config) -> str:
    """The root keys with meaning, range and default, for --help."""
    rows = [("key=default", "range", "meaning")]
    for name, field in schema.model_fields.items():
        if field.description:
            rows.append((f"{name}={json.dumps(composed.get(name))}".replace('"', ""), _range(field), field.description))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    lines += ["", "Groups, as group=choice; what a choice holds is set as group.key=value:"]
    folders = [ROOT / "conf" / name for name in (*schema.model_fields, *(("sweeps",) if schema is Config else ()))]
    for folder in filter(Path.is_dir, folders):
        lines.append(f"  {folder.name}: {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")
    return "\n".join(lines)


def _range(field: Any) -> str:
    """A field's type and range in a few characters."""
    annotation = field.annotation
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(c, str) for c in choices):
        return "|".join(choices)
    kind = next((c for c in (annotation, *choices) if c in (bool, int, float, str)), annotation)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{s}{getattr(c, a):g}" for c in field.metadata for a, s in signs.items() if hasattr(c, a)]
    return " ".join([kind.__name__, *limits])
