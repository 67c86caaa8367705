"""What run folders hold, each run read once. Reads run folders and SLURM's queue alone; loads neither torch nor pydantic."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from moco.errors import UserError
from moco.io import Json
from moco.launch import slurm_client as slurm
from moco.protocols import KNN, TABULATED, Protocol
from moco.runs.lease import Damaged
from moco.runs.run import Run
from moco.runs.settings import Alike, Flat, alike_but_for_seed, identifying
from moco.runs.state import State
from moco.runs.sweep import membership, select

if TYPE_CHECKING:
    import pandas

NAMES = ("method.name", "model.name", "data.name")  # every configuration has them


class Size(NamedTuple):
    """Of a network: parameters, and multiply-adds of one image's forward pass."""

    params: int
    multiply_adds: int


@dataclass(frozen=True)
class Published:
    """What a recipe's source reports, and the source's name. `scores`: top-1 and top-5 in percent by `recipe_key`."""

    recipe: str
    source: str
    scores: dict[str, list[float | None]]

    def top(self, protocol: Protocol) -> dict[int, float]:
        """The accuracies that are reported by this protocol: {1: 89.1, 5: 99.6}."""
        quoted = self.scores.get(protocol.recipe_key or "", [])
        return {k: value for k, value in zip((1, 5), quoted) if value is not None}


@dataclass(frozen=True)
class Result:
    """The numbers of a finished run.

    Attributes:
        metrics: the last value of each metric (knn/top1, train/loss ...); accuracies in percent.
        best: kNN top-1 of the best epoch, in percent; never what counts.
        whole: the size of backbone and projection head.
        backbone: that of the backbone; None where there is no linear evaluation.
        probes: what each linear evaluation used, by the choice of probe.
        seconds: of training with its evaluations; None where unknown.
        steps: of training; None where unknown.
        at_chance: whether its kNN top-1 is what guessing gives.
    """

    metrics: dict[str, float]
    best: float | None
    whole: Size
    backbone: Size | None
    probes: dict[str, dict[str, Json]]
    seconds: float | None
    steps: float | None
    at_chance: bool

    def probe(self, protocol: Protocol) -> dict[str, Json]:
        """What the linear evaluation by this protocol used."""
        return self.probes.get(protocol.probe or "", {})

    def size(self, protocol: Protocol) -> Size:
        """The size of what this protocol scores: for linear evaluation the backbone with the classifier."""
        if protocol.probe is None or self.backbone is None:
            return self.whole
        head = self.probe(protocol).get("params_classifier")  # a linear layer multiplies and adds once per parameter
        weights = int(head) if is_number(head) else 0
        return Size(self.backbone.params + weights, self.backbone.multiply_adds + weights)


@dataclass(frozen=True)
class Reached:
    """The last epoch that a run has completed, of those of the whole run."""

    epoch: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.epoch} of {self.epochs}"

    @property
    def share(self) -> float:
        """Of the whole run."""
        return self.epoch / self.epochs if self.epochs else 0.0


class Rung(NamedTuple):
    """Where a paused run stands.

    Attributes:
        reached: its epoch.
        metrics: the newest value of each metric (knn/top1, train/loss ...); accuracies in percent.
        why: the reason in words.
    """

    reached: Reached
    metrics: dict[str, float]
    why: str


class Entry(NamedTuple):
    """A run as it was read; of what is damaged or foreign all is empty but `problem`."""

    run: Run
    flat: dict[str, Json]  # see identifying
    published: Published | None
    result: Result | None  # None where the run is not done
    problem: str
    rung: Rung | None = None  # None where the run is not paused, or nobody has asked: see placed


class Cost(NamedTuple):
    """Seconds of training with its evaluations, and training images per second over that time; None where unknown."""

    seconds: float | None
    images_per_second: float | None


def read(run: Run) -> Entry:
    """What tables, statistics and reports need to know of a run; never raises."""
    try:
        config = run.flat_config
    except UserError as error:
        return _unusable(run, str(error))
    flat = identifying(config)
    lacking = [key for key in NAMES if key not in flat]
    content = run.result
    if content is None and os.path.exists(f"{run.folder}/result.json"):
        return _unusable(run, f"{run.folder}/result.json cannot be read")
    if content is not None:
        lacking += _lacking(content)
    if lacking:
        return _unusable(run, f"{run.folder} lacks {', '.join(lacking)}")
    return Entry(run, flat, _published(config), None if content is None else _result(content), "")


def _unusable(run: Run, problem: str) -> Entry:
    return Entry(run, {}, None, None, problem)


def _lacking(content: Mapping[str, Json]) -> list[str]:
    """The numbers that a result should hold and does not."""
    unlabelled = content.get(KNN.top1, "") is None  # see pretrain.scored
    scored = [protocol for protocol in TABULATED if protocol.top1 in content and not (unlabelled and protocol == KNN)]
    needed = [*([] if unlabelled else [KNN.top1]), "params", "multiply_adds"]
    needed += [protocol.metric(5) for protocol in scored]
    if any(protocol.probe for protocol in scored):
        needed += ["params_backbone", "multiply_adds_backbone"]
    needed += [protocol.top1 for protocol in scored]
    return [key for key in dict.fromkeys(needed) if not is_number(content.get(key))]


def _result(content: Mapping[str, Json]) -> Result:
    """The content of a result.json that lacks nothing."""

    def number(key: str) -> float | None:
        value = content.get(key)
        return value if is_number(value) else None

    def size(suffix: str) -> Size | None:
        params, multiply_adds = number(f"params{suffix}"), number(f"multiply_adds{suffix}")
        return None if params is None or multiply_adds is None else Size(int(params), int(multiply_adds))

    whole, best, probes = size(""), content.get("best"), content.get("probes")
    assert whole is not None  # see _lacking
    top = best.get(KNN.top1) if isinstance(best, dict) else None
    return Result(
        metrics={key: value for key, value in content.items() if "/" in key and is_number(value)},
        best=top if is_number(top) else None,
        whole=whole,
        backbone=size("_backbone"),
        probes={key: p for key, p in probes.items() if isinstance(p, dict)} if isinstance(probes, dict) else {},
        seconds=number("seconds"),
        steps=number("steps"),
        at_chance=content.get("at_chance") is True,
    )


def placed(entry: Entry, state: State) -> Entry:
    """The entry of a run in that state; where it is paused, with its rung."""
    if state != State.PAUSED or entry.problem:
        return entry
    last, epochs, holder = entry.run.last_metrics(), entry.flat.get("epochs"), entry.run.holder()
    epoch = last.get("epoch")
    reached = Reached(epoch if isinstance(epoch, int) else 0, epochs if isinstance(epochs, int) else 0)
    metrics = {key: value for key, value in last.items() if "/" in key and is_number(value)}
    why = holder.why.removeprefix(f"paused at epoch {reached.epoch}, ") if holder else ""
    return entry._replace(rung=Rung(reached, metrics, why))


def _published(config: Flat) -> Published | None:
    """What the configuration's recipe quotes; None where it quotes nothing."""
    source, note = config.get("recipe.source"), config.get("recipe.note")
    if not source:
        return None
    scores: dict[str, list[float | None]] = {}
    for protocol in TABULATED:
        quoted = config.get(f"recipe.{protocol.recipe_key}")
        if protocol.recipe_key and isinstance(quoted, list):
            scores[protocol.recipe_key] = [value if is_number(value) else None for value in quoted]
    return Published(str(config.get("recipe.name")), f"{source} ({note})" if note else str(source), scores)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number; True and False are not."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def fold(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The runs of each configuration, which differ in the seed alone; unreadable ones are left out.

    As in their ids, a key that came to the schema later counts where it differs from "as before", so that seeds which were
    trained before and after it came are of one configuration.
    """
    readable = [entry for entry in entries if entry.flat]
    before: Mapping[str, object] = {}
    if len({frozenset(entry.flat) for entry in readable}) > 1:
        from moco.config.schema import Config  # which takes its time to load

        before = Config.as_before()
    groups: dict[Alike, list[Entry]] = {}
    for entry in readable:
        groups.setdefault(alike_but_for_seed(entry.flat, before), []).append(entry)
    return list(groups.values())


def cost(flat: Flat, seconds: object, steps: object) -> Cost:
    """What `steps` steps of a run cost that took `seconds`."""
    batch = flat.get("batch_size")
    if not is_number(seconds) or not seconds > 0:
        return Cost(None, None)
    return Cost(seconds, steps * batch / seconds if is_number(steps) and is_number(batch) else None)


def states(runs: Sequence[Run], queue: "slurm.Queue | None" = None) -> list[State]:
    """Where each run stands, corrected by SLURM's queue (by default as it is now)."""
    queue = slurm.queued(runs) if queue is None else queue
    found = []
    for run in runs:
        try:
            found.append(slurm.explain(run, slurm.corrected(run, run.state(), queue), queue))
        except Damaged:
            found.append(State.DAMAGED)
    return found


def clock_note(number: int) -> str:
    """The line on so many runs whose states this machine's clock tells; empty where there is none."""
    if not number:
        return ""
    runs = "1 run of another machine is" if number == 1 else f"{number} runs of other machines are"
    return (
        f"{runs} judged by this machine's clock, since nothing can be written there: status --watch sees after a minute"
    )


def state_counts(states: Iterable[State]) -> str:
    """How many runs are in each state: 7 done, 1 failed."""
    return ", ".join(f"{n} {state}" for state, n in Counter(states).most_common())


def look(runs: Sequence[Run]) -> tuple[list[Entry], list[State]]:
    """The runs as read, paused ones with their rungs, and their states.

    One whose files cannot be used is `damaged`, one without a folder `missing`.
    """
    entries, found = list[Entry](), list[State]()
    for run, state in zip(runs, states(runs)):
        entry = read(run)
        known = State.DAMAGED if entry.problem else state
        entries.append(placed(entry, known))
        found.append(known if run.folder.exists() else State.MISSING)
    return entries, found


def paused_note(entries: Sequence[Entry]) -> str:
    """How many of the runs are paused and at which epochs: 18 of 27 runs are paused at epochs 1 to 3; empty for none."""
    at = sorted({entry.rung.reached.epoch for entry in entries if entry.rung})
    if not at:
        return ""
    number = sum(entry.rung is not None for entry in entries)
    where = f"epoch {at[0]}" if len(at) == 1 else f"epochs {at[0]} to {at[-1]}"
    return f"{number} of {len(entries)} runs {'is' if number == 1 else 'are'} paused at {where}"


def load(runs_dir: Path | str = "runs", names: Sequence[str] = ()) -> "pandas.DataFrame":
    """One row per run, whatever its state: all runs, or those of these sweeps, ids and folders.

    Columns: id, folder, state, sweeps (a list); the settings under their dotted keys; epoch, the last that is complete;
    the newest value of each metric (knn/top1 in percent, of the last epoch that has one; of a run that is not done, it is
    not what other runs end with); seconds and images_per_second of the training with its evaluations; problem, what is
    wrong with a damaged folder.

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
        known = {"id": entry.run.id, "folder": str(entry.run.folder), "state": str(state)}
        in_sweeps = sweeps.get(entry.run.folder.name, [])
        rows.append({**known, "sweeps": in_sweeps, **entry.flat, **_newest(entry), "problem": entry.problem})
    return pandas.DataFrame(rows)


def _newest(entry: Entry) -> dict[str, object]:
    """The last epoch, the newest value of each metric, and the cost."""
    if entry.result:
        metrics: Mapping[str, Json] = {**entry.result.metrics, "epoch": entry.flat.get("epochs")}
        spent = cost(entry.flat, entry.result.seconds, entry.result.steps)
    else:
        metrics = entry.run.last_metrics()
        spent = cost(entry.flat, metrics.get("seconds"), metrics.get("step"))
    newest = {key: value for key, value in metrics.items() if "/" in key}
    return {"epoch": metrics.get("epoch"), **newest, **spent._asdict()}
