"""What run folders hold, each run read once. Reads run folders and SLURM's queue alone; loads neither torch nor pydantic."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moco.analysis.numbers import Published, Reached, Result, Rung, is_number, lacking, published, result
from moco.errors import UserError
from moco.io import Json
from moco.launch import slurm_client as slurm
from moco.runs.lease import Damaged
from moco.runs.run import Run
from moco.runs.settings import Alike, Flat, alike_but_for_seed, identifying
from moco.runs.state import State
from moco.runs.sweep import membership, select

if TYPE_CHECKING:
    import pandas

NAMES = ("method.name", "model.name", "data.name")  # every configuration has them


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
    absent = [key for key in NAMES if key not in flat]
    content = run.result
    if content is None and os.path.exists(f"{run.folder}/result.json"):
        return _unusable(run, f"{run.folder}/result.json cannot be read")
    if content is not None:
        absent += lacking(content)
    if absent:
        return _unusable(run, f"{run.folder} lacks {', '.join(absent)}")
    return Entry(run, flat, published(config), None if content is None else result(content), "")


def _unusable(run: Run, problem: str) -> Entry:
    return Entry(run, {}, None, None, problem)


def placed(entry: Entry, state: State) -> Entry:
    """The entry of a run in that state; where it is paused, with its rung."""
    if state != State.PAUSED or entry.problem or entry.result:
        return entry
    last, epochs, holder = entry.run.last_metrics(), entry.flat.get("epochs"), entry.run.holder()
    epoch = last.get("epoch")
    reached = Reached(epoch if isinstance(epoch, int) else 0, epochs if isinstance(epochs, int) else 0)
    metrics = {key: value for key, value in last.items() if "/" in key and is_number(value)}
    why = holder.why.removeprefix(f"paused at epoch {reached.epoch}, ") if holder else ""
    return entry._replace(rung=Rung(reached, metrics, why))


def fold(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The runs of each configuration, which differ in the seed alone; unreadable ones are left out.

    As in their ids, a key that came to the schema later counts where it differs from "as before", so that seeds which were
    trained before and after it came are of one configuration.
    """
    readable = [entry for entry in entries if entry.flat]
    before: Mapping[str, Json] = {}
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
