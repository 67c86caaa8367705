"""What run folders hold, read for people: each run once, seeds folded, and which settings tell configurations apart.

Reads run folders alone and imports no torch.
"""

import functools
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from moco.errors import UserError
from moco.launch import slurm_client as slurm
from moco.runs.run import NOT_IDENTITY, Run
from moco.runs.sweep import membership, select

if TYPE_CHECKING:
    import pandas

PROTOCOLS = {"knn": "kNN", "linear": "Linear", "linear_cached": "Linear (cached)"}  # prefix of the metrics -> label
PUBLISHED = {"kNN": "knn", "Linear": "linear"}


class Entry(NamedTuple):
    """A run as it was read; what is damaged or foreign is empty and named in `problem`."""

    run: Run
    flat: dict[str, Any]  # see settings
    recipe: dict[str, Any]
    result: dict[str, Any] | None  # None where the run is not done
    problem: str


def read(run: Run) -> Entry:
    """What tables, statistics and reports need of a run; never raises."""
    flat: dict[str, Any] = {}
    recipe, problem = {}, ""
    try:
        config = run.flat_config
        flat = settings(config)
        recipe = {key: config.get(f"recipe.{key}") for key in ("knn", "linear", "source", "note")}
        lacking = [key for key in ("method.name", "model.name", "data.name") if key not in flat]
    except (UserError, TypeError) as error:
        problem, lacking = str(error), []
    result = run.result
    if result is not None and not problem:
        lacking += _lacking(result)
    elif (run.folder / "result.json").exists() and not problem:
        problem = f"{run.folder / 'result.json'} cannot be read"
    if lacking:
        problem = f"{run.folder} lacks {', '.join(lacking)}"
    if problem:
        return Entry(run, {}, {}, None, problem)
    return Entry(run, flat, recipe, result, "")


def _lacking(result: Any) -> list[str]:
    """The numbers that a result should hold and does not."""
    if not isinstance(result, Mapping):
        return ["a result"]
    needed = ["knn/top1", "params", "multiply_adds"]
    needed += [f"{prefix}/top5" for prefix in PROTOCOLS if f"{prefix}/top1" in result]
    present = [f"{prefix}/top1" for prefix in PROTOCOLS if f"{prefix}/top1" in result]
    if len(present) > ("knn/top1" in present):
        needed += ["params_backbone", "multiply_adds_backbone"]
    return [key for key in dict.fromkeys([*needed, *present]) if not is_number(result.get(key))]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fold(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The runs of each configuration, which differ in the seed alone; unreadable ones are left out."""
    groups: dict[frozenset[Any], list[Entry]] = {}
    for entry in entries:
        if entry.flat:
            kept = frozenset((key, _hashable(value)) for key, value in entry.flat.items() if key != "seed")
            groups.setdefault(kept, []).append(entry)
    return list(groups.values())


def settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration less what cannot change the result."""
    return {key: value for key, value in flat.items() if _identifies(key)}


@functools.cache
def _identifies(key: str) -> bool:
    return key.partition(".")[0] not in NOT_IDENTITY and key != "data.root"


def varying(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which the configurations differ, choices of groups first.

    Left out are interpolated copies of root keys (method.m), and what another choice of a group brings along (method.splits
    of MoCo beside SimCLR), which its name says already.
    """
    found = [key for key in own_keys(flats) if _varies(key, flats)]
    return sorted(found, key=lambda key: not key.endswith(".name"))


def own_keys(flats: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that a setting stands under; left out are `_target_` and interpolated copies of root keys (method.m)."""
    keys: dict[str, None] = {}
    for flat in flats:
        keys.update(dict.fromkeys(flat))
    roots = {key for key in keys if "." not in key}
    copies = {key for key in keys if key.startswith("method.") and key.partition(".")[2] in roots}
    return [key for key in keys if key not in copies and not key.endswith("._target_")]


def _varies(key: str, flats: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the key differs; one of a group, among the configurations that share the group's choice."""
    if "." not in key or key.endswith(".name"):
        return len({_hashable(flat.get(key)) for flat in flats}) > 1
    name = f"{key.partition('.')[0]}.name"
    found = {(flat.get(name), _hashable(flat[key])) for flat in flats if key in flat}
    return len(found) > len({choice for choice, _ in found})


def _hashable(value: Any) -> Any:
    """A setting that a set takes: lists as text."""
    return repr(value) if isinstance(value, list | set) else value


def swept(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fewest settings that tell the configurations apart: what a group's choice brings along is left out.

    Left out is a setting that the name of another choice fixes throughout (augment and momentum of each method).
    """
    keys = [key for key in varying(flats) if key != "seed"]
    values = {key: [repr(flat.get(key)) for flat in flats] for key in keys}
    kept: list[str] = []
    for i, key in enumerate(keys):
        # Of two names that fix each other the first one stays.
        leaders = [other for other in (*kept, *keys[i + 1 :]) if other.endswith(".name")]
        if not any(
            _fixes(values[other], values[key]) and (other in kept or not _fixes(values[key], values[other]))
            for other in leaders
        ):
            kept.append(key)
    return kept


def _fixes(one: Sequence[str], other: Sequence[str]) -> bool:
    return len(set(zip(one, other))) == len(set(one))


def describe(flats: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None) -> list[str]:
    """Of each configuration the settings in which it differs from the others (or these `keys`), as people would type them."""
    keys = varying(flats) if keys is None else keys
    return [
        " ".join(f"{key.removesuffix('.name')}={plain(flat[key])}" for key in keys if flat.get(key) is not None)
        for flat in flats
    ]


def plain(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (None for one) and count."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "n": len(values)}  # type: ignore[dict-item]


def cost(entry: Entry, last: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Seconds of training with its evaluations, and training images a second over that time; None where unknown.

    Args:
        last: the run's result, or its last metrics where it is not done.
    """
    seconds, steps = last.get("seconds"), last.get("steps", last.get("step"))
    batch = entry.flat.get("batch_size")
    if not is_number(seconds) or not seconds > 0:
        return None, None
    return seconds, steps * batch / seconds if is_number(steps) and is_number(batch) else None


def states(runs: Sequence[Run], queue: dict[str, dict[str, str]] | None = None) -> list[str]:
    """Where each run stands, put right by SLURM's queue (slurm.queued); `damaged` where a file says nonsense."""
    queue = slurm.queued(runs) if queue is None else queue
    found = []
    for run in runs:
        try:
            found.append(slurm.explain(run, slurm.corrected(run, run.state(), queue)))
        except (KeyError, TypeError, AttributeError):
            found.append("damaged")
    return found


def state_counts(states: Sequence[str]) -> str:
    """How many runs are in each state: 7 done, 1 failed."""
    return ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())


def look(runs: Sequence[Run]) -> tuple[list[Entry], list[str]]:
    """The runs as read, and their states; one whose files cannot be used is `damaged`, one without a folder `missing`."""
    entries = [read(run) for run in runs]
    found = []
    for entry, state in zip(entries, states(runs)):
        known = "damaged" if entry.problem else state
        found.append(known if entry.run.folder.exists() else "missing")
    return entries, found


def load(runs_dir: Path | str = "runs", names: Sequence[str] = ()) -> "pandas.DataFrame":
    """One row a run, whatever its state: all runs, or those of these sweeps, ids and folders.

    Columns: id, folder, state, sweeps (a list); the settings under their dotted keys; the newest value of each metric
    (knn/top1 in percent, of the last epoch that has one); seconds and images_per_second of the training with its
    evaluations; problem, what is wrong with a damaged folder.

    Raises:
        UserError: pandas is not installed, a name is unknown, or there are no runs.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError("load needs pandas: pip install pandas") from error
    runs, sweeps = select(runs_dir, names), membership(runs_dir)
    rows = []
    for entry, state in zip(*look(runs)):
        last = entry.result or entry.run.last_metrics()
        seconds, speed = cost(entry, last)
        rows.append(
            {
                "id": entry.run.id,
                "folder": str(entry.run.folder),
                "state": state,
                "sweeps": sweeps.get(entry.run.folder.name, []),
                **entry.flat,
                **{key: value for key, value in last.items() if "/" in key},
                "seconds": seconds,
                "images_per_second": speed,
                "problem": entry.problem,
            }
        )
    return pandas.DataFrame(rows)
