"""From what was composed to the typed configuration, or to one line for each thing that is wrong."""

import difflib
import inspect
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from moco.config.components import foreign_keys, keys_of_some, taken_by, wrong_kind
from moco.config.places import CONF
from moco.config.schema import (
    UNTRAINED,
    VERSION,
    WEIGHTS,
    Config,
    LinearEval,
    OtherData,
    OwnData,
    WeightsEval,
    keys_of_other_probes,
)
from moco.config.words import NO_TEXT
from moco.errors import UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Schema = TypeVar("Schema", bound=BaseModel)
HIDDEN_LAYER: dict[str, object] = {"hidden_dim": None, "head_norm": False}  # settings of it, and none
MAY_BE_EMPTY = ("recipe", "sweeps")  # groups
OF_WEIGHTS = ("weights", "model", "augment", "k", "knn_temperature", "precision")  # keys of linear_eval.py


def check(composed: Mapping[str, object], typed: Collection[str] | None = None, *, fold: bool = False) -> Config:
    """The composed, resolved configuration of train.py as a typed one.

    A key that the chosen method, model, ... does not use is refused where it was typed, and dropped where a file (a recipe)
    brought it along.

    Args:
        typed: the keys on the command line (`typed_keys`); None: all count as typed.
        fold: drop also what was typed and is not used, as a sweep over methods does.

    Raises:
        UserError: every unknown key, wrong type, value out of range, contradiction and unused key, one line each.
    """
    fitted, problems = _fit(composed, None if typed is None else frozenset(typed), fold)
    config, more = _validated(Config, fitted)
    if problems or config is None:
        raise UserError("\n".join([*more, *problems]))
    return config


def check_linear_eval(composed: Mapping[str, object], typed: Collection[str] = ()) -> LinearEval:
    """The composed, resolved configuration of linear_eval.py as a typed one.

    Args:
        typed: the keys on the command line (`typed_keys`).

    Raises:
        UserError: as check; or what is for weights alone was typed without any, or a data set without which there is none.
    """
    probe, unused_keys = _probe(composed.get("probe"), typed)
    if unused_keys:
        raise UserError("\n".join(unused_keys))
    composed = {**composed, "probe": probe}
    if composed.get("weights") is not None:
        return _of_weights(composed, typed)
    data = composed.get("data")
    values = {key: value for key, value in composed.items() if key not in OF_WEIGHTS}
    config, problems = _validated(OtherData if isinstance(data, Mapping) and "_target_" in data else OwnData, values)
    unused = [key for key in typed if key.partition(".")[0] in OF_WEIGHTS]
    problems += [f"{key} is a setting of weights=<file>, and a run has its own: leave it out" for key in sorted(unused)]
    if problems or config is None:
        raise UserError("\n".join(problems))
    return config


def _of_weights(composed: Mapping[str, object], typed: Collection[str]) -> WeightsEval:
    """The same where weights from elsewhere are evaluated. A stem that was not typed is that of the weights."""
    problems = [f"{key}=... cannot go with weights=...: leave one out" for key in ("run", "sweep") if composed.get(key)]
    if composed.get("model") is None:
        problems.append("weights=... needs a model that takes them: give model=resnet50, or another")
    if not isinstance(data := composed.get("data"), Mapping) or "_target_" not in data:
        problems.append("weights=... needs images to be evaluated on: give data=cifar10, or another")
    if problems:
        raise UserError("\n".join(problems))
    model = composed["model"]
    if isinstance(model, Mapping) and "stem" in model and "model.stem" not in typed:
        composed = {**composed, "model": {**model, "stem": None}}
    config, problems = _validated(WeightsEval, composed)
    if config is None:
        raise UserError("\n".join(problems))
    return config


def thaw(frozen: Mapping[str, object]) -> Config:
    """A frozen configuration, as `Config.frozen` made it.

    Raises:
        UserError: another version of the schema made it, or it is damaged.
    """
    if frozen.get("version") != VERSION:
        raise UserError(f"its schema has version {frozen.get('version')}, this code reads version {VERSION}")
    method = frozen.get("method")
    of_weights = isinstance(method, Mapping) and method.get("_target_") == WEIGHTS
    config, problems = _validated(Config, {**UNTRAINED, **frozen} if of_weights else frozen)
    if config is None:
        raise UserError("; ".join(problems))
    return config


def typed_keys(words: Iterable[str]) -> frozenset[str]:
    """The keys that command-line words set: `+method.splits=1` sets method.splits."""
    return frozenset(re.sub(r"^[+~]+", "", word.partition("=")[0]).partition("@")[0] for word in words)


def _fit(
    composed: Mapping[str, object], typed: frozenset[str] | None, fold: bool
) -> tuple[dict[str, object], list[str]]:
    """The configuration without what it does not use, and a line for each such key that may not be dropped."""
    fitted, problems = dict(composed), []

    def refused(key: str) -> bool:
        return not fold and (typed is None or key in typed)

    method = fitted.get("method")
    if isinstance(method, Mapping):
        for key in Config.METHOD_KEYS:
            if key not in method and (value := fitted.get(key)) is not None:
                fitted[key] = None
                if refused(key):
                    problems.append(f"{key}={value} is not used by method={method.get('name')}: leave {key} out")
        fitted["method"] = _without_hidden_layer(method, typed)
    fitted["probe"], unused_keys = _probe(fitted.get("probe"), typed, fold)
    problems += unused_keys
    for group in Config.COMPONENTS:
        section = fitted.get(group)
        if (
            not isinstance(section, Mapping)
            or "_target_" not in section
            or not (foreign := foreign_keys(group, section))
        ):
            continue
        takes = taken_by(str(section["_target_"]))
        # A target that takes every name, as timm's do, would get what a recipe set for another choice.
        of_others = {key for key in keys_of_some(group) if typed is not None and f"{group}.{key}" not in typed}
        unused = [key for key in foreign if key not in takes.names and (not takes.any or key in of_others)]
        fitted[group] = {key: value for key, value in section.items() if key not in unused}
        listed = ", ".join(takes.names)
        problems += [
            f"{section.get('name')} has no setting {key}: it takes {listed}"
            for key in unused
            if refused(f"{group}.{key}")
        ]
        problems += [
            f"{group}.{key}={_shown(section[key])} should be {kind}"
            for key in foreign
            if (kind := wrong_kind(takes, key, section[key]))
        ]
    return fitted, problems + ([] if fold else _unused_moments(fitted, typed or ()))


def _probe(section: object, typed: Collection[str] | None, fold: bool = False) -> tuple[object, list[str]]:
    """The probe's section without the keys of other probes, and a line for each of them that was typed."""
    if not isinstance(section, Mapping):
        return section, []
    unused = [key for key in keys_of_other_probes(section.get("name")) if section.get(key) is not None]
    problems = [
        f"probe={section.get('name')} has no use for {key}: leave probe.{key} out"
        for key in sorted(unused)
        if not fold and (typed is None or f"probe.{key}" in typed)
    ]
    return {key: value for key, value in section.items() if key not in unused}, problems


def _unused_moments(fitted: Mapping[str, object], typed: Collection[str]) -> list[str]:
    """A line for data.mean and data.std that were typed, where images are not normalised; data's file may bring its own."""
    augment, data = fitted.get("augment"), fitted.get("data")
    if not isinstance(augment, Mapping) or not isinstance(data, Mapping) or augment.get("normalize") is not False:
        return []
    keys = [f"data.{key}" for key in ("mean", "std") if data.get(key) is not None and f"data.{key}" in typed]
    if not keys:
        return []
    are, them = ("are", "them") if len(keys) > 1 else ("is", "it")
    return [f"{' and '.join(keys)} {are} not used with augment.normalize=false: leave {them} out"]


def _without_hidden_layer(method: Mapping[str, object], typed: frozenset[str] | None) -> dict[str, object]:
    """The method's section; of a head of one layer without the settings of the other layer that a recipe brought along."""
    untyped = [key for key in HIDDEN_LAYER if typed is not None and f"method.{key}" not in typed]
    dropped = {key: HIDDEN_LAYER[key] for key in untyped if key in method and method.get("head_layers") == 1}
    return {**method, **dropped}


def _shown(value: object) -> str:
    """A value as it is typed on the command line."""
    return json.dumps(value, default=str) if value is None or isinstance(value, bool | list | dict) else str(value)


def _validated(schema: type[Schema], values: Mapping[str, object]) -> tuple[Schema | None, list[str]]:
    """The values in their types, or what is wrong with them."""
    try:
        return schema.model_validate(dict(values)), []
    except ValidationError as error:
        found = error.errors()
    wrong = {e["loc"] for e in found}
    copies = {("method", key) for key in Config.METHOD_KEYS if (key,) in wrong}  # say the same again
    return None, [line for e in found if e["loc"] not in copies for line in _explain(e, schema)]


def _explain(error: "ErrorDetails", schema: type[BaseModel]) -> list[str]:
    """One line for one of pydantic's errors; what a rule of ours says, as it says it."""
    path = [str(part) for part in error["loc"]]
    key, value = ".".join(path), _shown(error["input"])
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ").splitlines()
    if error["type"] == "extra_forbidden":
        return [unknown_key(key, _known_keys(schema, path[:-1]))]
    if error["type"] == "missing":
        return [f"{key} is missing: give {key}=..."]
    reason = re.sub(r"^(Input|Value|String|List) should", "should", error["msg"])
    field = schema.model_fields.get(key)
    hint = f" ({field.description})" if field and field.description else ""
    return [f"{key}={value} {reason}{hint}"]


def _known_keys(schema: type[BaseModel], path: Iterable[str]) -> list[str]:
    prefix = ""
    for part in path:
        annotation = schema.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        schema = next(o for o in options if inspect.isclass(o) and issubclass(o, BaseModel))
        prefix += part + "."
    return [prefix + (field.alias or name) for name, field in schema.model_fields.items() if not field.exclude]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The line that refuses a misspelt key and names the nearest."""
    known = list(known)
    group, dot, name = key.rpartition(".")
    beside = [other.removeprefix(group + dot) for other in known if other.startswith(group + dot)]
    near = [f"{group}{dot}{other}" for other in difflib.get_close_matches(name, beside, 1)]
    return f"unknown key {key}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


def unknown_choice(group: str, choice: str, choices: Iterable[str]) -> str:
    """The line that refuses a choice that its group does not have, and names the nearest."""
    choices = list(choices)
    near = difflib.get_close_matches(choice, choices, 1)
    return f"{group}={choice} is not a choice: " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(choices)}"
    )


def check_words(words: Iterable[str], schema: type[BaseModel] = Config) -> None:
    """Refuses command-line words whose root key does not exist, or that leave a group empty.

    Hydra would answer with its longer error, or with none.

    Raises:
        UserError: a line for each such word.
    """
    known = [*_known_keys(schema, ()), *(("sweeps",) if schema is Config else ())]
    if problems := [line for word in words if not word.startswith("-") and (line := _wrong(word, known))]:
        raise UserError("\n".join(problems))


def _wrong(word: str, known: Sequence[str]) -> str:
    """What is wrong with a command-line word; "" where Hydra may judge it."""
    if word.startswith("sweeps=wandb/"):
        path = f"{word.replace('=', '/', 1).removesuffix('.yaml')}.yaml"
        return f"{path} is W&B's: `wandb sweep {path}`, then `wandb agent` with what it prints"
    key, _, value = word.partition("=")
    match = re.match(r"[+~]{0,2}([A-Za-z_]\w*)", key)
    if match is None:
        return f"{word} names no key: write key=value"
    if match[1] not in (*known, "hydra"):
        return unknown_key(match[1], known)
    choices = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
    if not choices:
        return ""
    if value.lstrip().startswith("[") and key != "recipe":  # Hydra would merge them into one
        return f"{word} names several choices in one: give one, or sweep over them with -m and without the brackets"
    for choice in (part.strip() for part in value.split(",")):
        if NO_TEXT.fullmatch(choice) or not (choice or key in MAY_BE_EMPTY):
            return unknown_choice(key, choice or "null", choices)
    return ""


def added_where_a_choice_has_it(words: Sequence[str]) -> list[str]:
    """`optimizer.momentum=0.8` as `++optimizer.momentum=0.8`, since some choices of the group have this key and others do not.

    Hydra would refuse it where the choice of the base lacks the key (a sweep over optimizers), and say less than `check`. Of
    probes that holds where several are swept over.
    """
    groups = {*Config.COMPONENTS, *("probe" for word in words if re.match(r"\+?probe=.*,", word))}
    keys = [word.partition("=")[0].partition(".") for word in words]
    return [
        f"++{word}" if group in groups and key in keys_of_some(group) else word
        for word, (group, _, key) in zip(words, keys)
    ]
