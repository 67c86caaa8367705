"""Which settings tell configurations apart, and how they are typed. A flat configuration maps dotted keys to values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from moco.io import Json
from moco.runs.identity import identifies, is_as_before, target_name

if TYPE_CHECKING:
    from moco.config.schema import LinearEval

Flat: TypeAlias = Mapping[str, Json]
Alike: TypeAlias = frozenset[tuple[str, object]]


def identifying(flat: Flat) -> dict[str, Json]:
    """The flat configuration less what cannot change the result."""
    return {key: value for key, value in flat.items() if identifies(key)}


def alike_but_for_seed(flat: Flat, before: Mapping[str, Json] | None = None) -> Alike:
    """What two configurations have in common that differ in the seed alone.

    Args:
        before: keys that came to the schema later, with the value that means "as before": as in ids they do not count there.
            None: look them up, which takes its time to load.
    """
    if before is None:
        from moco.config.schema import Config

        before = Config.as_before()
    return frozenset(
        (key, _comparable(key, value))
        for key, value in flat.items()
        if identifies(key) and value is not None and key != "seed" and not is_as_before(key, flat, before)
    )


def _comparable(key: str, value: Json) -> object:
    """A setting that can be hashed: a list as text; a target by its class, wherever that lies."""
    if type(value) is list:
        return repr(value)
    return target_name(value) if isinstance(value, str) and key.endswith("._target_") else value


def varying(flats: Sequence[Flat]) -> list[str]:
    """The settings in which the configurations differ, choices of groups first.

    Left out are interpolated copies of root keys (method.m), and settings that only another choice of a group has
    (method.symmetric of MoCo beside SimCLR), since the name of the choice says that already.
    """
    found = [key for key in own_keys(flats) if _varies(key, flats)]
    return sorted(found, key=lambda key: not key.endswith(".name"))


def own_keys(flats: Iterable[Flat]) -> list[str]:
    """The keys of all settings, without `_target_` and without interpolated copies of root keys (method.m)."""
    keys: dict[str, None] = {}
    for flat in flats:
        keys.update(dict.fromkeys(flat))
    roots = {key for key in keys if "." not in key}
    copies = {key for key in keys if key.startswith("method.") and key.partition(".")[2] in roots}
    return [key for key in keys if key not in copies and not key.endswith("._target_")]


def _varies(key: str, flats: Sequence[Flat]) -> bool:
    """Whether the key differs; one of a group, among the configurations that share the group's choice."""
    group, _, rest = key.partition(".")
    choice = f"{group}.name" if rest and rest != "name" else None
    first_by_choice = dict[Json, Flat]()
    firsts = [first_by_choice.setdefault(flat.get(choice) if choice else None, flat) for flat in flats]
    return any(_differ(key, first, flat) for first, flat in zip(firsts, flats))


def _differ(key: str, one: Flat, other: Flat) -> bool:
    """Whether two configurations differ in a key; absent, it counts as None, or as it was before it came."""
    if one.get(key) == other.get(key):
        return False
    if key in one and key in other:
        return True
    from moco.config.schema import Config  # which takes its time to load

    there = one if key in one else other
    return not is_as_before(key, there, Config.as_before())


def swept(flats: Sequence[Flat]) -> list[str]:
    """The fewest settings that tell the configurations apart.

    A setting is left out where the choice of some group determines it (the augmentation and momentum of each method).
    """
    keys = [key for key in varying(flats) if key != "seed"]
    values = {key: [repr(flat.get(key)) for flat in flats] for key in keys}
    kept: list[str] = []
    for i, key in enumerate(keys):
        # Of two choices that determine each other the first one stays.
        leaders = [other for other in (*kept, *keys[i + 1 :]) if other.endswith(".name")]
        if not any(
            _determines(values[other], values[key]) and (other in kept or not _determines(values[key], values[other]))
            for other in leaders
        ):
            kept.append(key)
    return kept


def _determines(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether equal values of one mean equal values of the other."""
    return len(set(zip(one, other))) == len(set(one))


def describe(flats: Sequence[Flat], keys: Sequence[str] | None = None) -> list[str]:
    """For each configuration the settings in which it differs from the others, or these `keys`, as people type them."""
    keys = varying(flats) if keys is None else keys
    return [
        " ".join(f"{key.removesuffix('.name')}={plain(flat[key])}" for key in keys if flat.get(key) is not None)
        for flat in flats
    ]


def other_settings(result: Flat, asked: "LinearEval") -> str:
    """The settings, as people type them, in which the run's linear evaluation differs from the one that is asked for."""
    probes = result.get("probes")
    there = probes.get(asked.protocol.record) if isinstance(probes, dict) else None
    if not isinstance(there, dict):
        return ""
    wanted = {**{f"probe.{key}": value for key, value in asked.probe.settings().items()}, "seed": asked.seed}
    stored = {key: there.get(key.removeprefix("probe.")) for key in wanted}
    return " ".join(f"{key}={plain(stored[key])}" for key in wanted if stored[key] not in (None, wanted[key]))


def plain(value: object) -> str:
    """The value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
