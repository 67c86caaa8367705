"""The result table: finished runs by kNN and by linear evaluation, seeds folded, the published row beside ours.

Rows hold numbers; selection.py chooses among them, formats.py and terminal.py make text of them.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from moco.analysis.numbers import Reached, Result, Size, is_number
from moco.analysis.recipes import follows
from moco.analysis.records import Entry, clock_note, fold, placed, read, states
from moco.analysis.statistics import Score, spread
from moco.io import Json
from moco.protocols import GUESSED, KNN, Protocol, found_in
from moco.runs.run import Run
from moco.runs.settings import Flat, plain, varying
from moco.runs.state import State

Cell: TypeAlias = "Json | Score | Reached"
Row: TypeAlias = dict[str, Cell]

# Settings that have a column of their own, by their dotted keys. Words, since m and K are other things in MoCo's paper.
SETTINGS = {
    "method.name": "Method",
    "model.name": "Model",
    "data.name": "Data",
    "feature_dim": "Feature Dim",
    "m": "Negatives",
    "momentum": "Momentum",
    "batch_size": "Batch",
    "epochs": "Epochs",
    "temperature": "Temperature",
    "k": "Neighbours",
}
PARAMS, MULTIPLY_ADDS = "Params", "Multiply-adds"
EPOCH = "Epoch"  # where a row's runs stand, in a table that has paused ones
TRANSFER = "Transfer to"  # the other data set of a row's protocol, in a table that has any
ACCURACIES = ("Top-1", "Top-5", "Best")
NAMED = 6  # so many runs of a state are named that are left out
PUBLISHED = ", published"  # after the protocol's name
NOT_SETTINGS = ("seed", "finished", "params_classifier", "chosen", "of_each_draw")  # of what a result keeps of a probe


class Line(NamedTuple):
    """One of our rows with its configuration, the published row that stands below it, and all metrics of its runs by name."""

    row: Row
    flat: Flat
    published: Row | None
    metrics: Row


def lines(runs: Iterable[Run], paused: bool = False) -> list[Line]:
    """The table's rows for all finished runs: one for each configuration and protocol, in the order of the settings.

    A setting without a column of its own gets one where it varies. Top-1, Top-5 and Best hold a Score in percent over the
    seeds of a configuration; Best is the best epoch's kNN, never what counts. What is left out is said on stderr: damaged
    and foreign runs by name, those that are not done by their number and states. Runs that have probably
    collapsed are named there too.

    Args:
        paused: runs that are paused have rows, too, below the others, and a column tells at which epoch each row stands.
            Seeds at different epochs are not folded into one row.
    """
    entries = [read(run) for run in runs]
    unfinished = [entry for entry in entries if not entry.result and not entry.problem]
    found = states([entry.run for entry in unfinished])
    at_rung = [placed(entry, state) for entry, state in zip(unfinished, found) if state == State.PAUSED]
    _tell(entries, unfinished, found, paused)
    done = _in_order([entry for entry in entries if entry.result])
    if guessing := [entry.run.id for entry in done if entry.result and entry.result.at_chance]:
        print(f"warning: kNN {GUESSED}, probably collapsed: {', '.join(guessing)}", file=sys.stderr)
    shown = [*done, *(at_rung if paused else [])]
    extra = [key for key in varying([entry.flat for entry in shown]) if key not in SETTINGS and key != "seed"]
    rows, without = list[Line](), list[str]()
    for members in fold(done):
        found_rows = [*_of_configuration(members, extra, paused)]
        rows += found_rows
        without += [] if found_rows else [entry.run.id for entry in members]
    if without:
        print(f"left out of the table: {len(without)} without a score ({_some(without)}): no labels", file=sys.stderr)
    rows += _paused(at_rung, extra) if paused else []
    return rows if any(line.row[TRANSFER] for line in rows) else [_without(line, TRANSFER) for line in rows]


def _without(line: Line, name: str) -> Line:
    """The line without a column."""
    published = line.published
    for row in (line.row, *([published] if published else [])):
        del row[name]
    return line


def _tell(entries: Sequence[Entry], unfinished: Sequence[Entry], found: Sequence[State], paused: bool) -> None:
    """Says on stderr what the table leaves out."""
    for entry in entries:
        if entry.problem:
            print(f"warning: left out of the table: {entry.problem}", file=sys.stderr)
    at_rung = sum(state == State.PAUSED for state in found)
    if at_rung and not paused:
        one = at_rung == 1
        which = f"{at_rung} of {len(entries)} runs {'is' if one else 'are'} paused at a rung"
        print(f"{which}; --paused shows {'it' if one else 'them'}", file=sys.stderr)
    others: dict[State, list[str]] = {}
    for entry, state in zip(unfinished, found):
        if state != State.PAUSED:
            others.setdefault(state, []).append(entry.run.id)
    if others:
        named = [f"{len(ids)} {state} ({_some(ids)})" for state, ids in others.items()]
        print(f"left out of the table: {', '.join(named)}; see python -m moco status", file=sys.stderr)
    if note := clock_note(sum(entry.run.by_own_clock for entry in unfinished)):
        print(note, file=sys.stderr)


def _some(ids: Sequence[str]) -> str:
    """The first few of the ids."""
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return " ".join(ids[:NAMED]) + more


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    """The entries by their settings, as columns stand: words by letters, numbers by size, what is not set last."""
    extra = [key for key in varying([entry.flat for entry in entries]) if key not in SETTINGS]

    def value(entry: Entry, key: str) -> tuple[int, float, str]:
        found = entry.flat.get(key)
        return (0, found, "") if is_number(found) else (2, 0, "") if found is None else (1, 0, plain(found))

    return sorted(entries, key=lambda entry: [value(entry, key) for key in (*SETTINGS, *extra)])


def _paused(at_rung: Sequence[Entry], extra: Sequence[str]) -> list[Line]:
    """The lines of paused runs: for each configuration one per epoch at which seeds of it stand, the farthest first."""
    found = []
    for members in fold(at_rung):
        reached = {entry.rung.reached for entry in members if entry.rung}
        for at in reached:
            here = [e for e in members if e.rung and e.rung.reached == at]
            scores = {f"Top-{k}": _score([e.rung.metrics for e in here if e.rung], KNN.metric(k)) for k in (1, 5)}
            row = _settings(KNN, here[0].flat, extra) | {EPOCH: at, **scores, "Best": None}
            metrics = _metrics([e.rung.metrics for e in here if e.rung])
            found.append((at, Line(row | {"path": _folders(e.run for e in here)}, here[0].flat, None, metrics)))
    return [line for _, line in sorted(found, key=lambda pair: -pair[0].share)]


def _of_configuration(members: Sequence[Entry], extra: Sequence[str], epoch: bool) -> list[Line]:
    """The lines of one configuration, one for each protocol.

    Args:
        epoch: whether there is a column for the epoch.
    """
    flat, found = members[0].flat, []
    for protocol in found_in(metric for e in members if e.result for metric in e.result.metrics):
        scored = [(e.run, e.result) for e in members if e.result and protocol.top1 in e.result.metrics]
        _warn_of_mixture(protocol, scored)
        row = _row(protocol, flat, extra, scored, epoch)
        metrics = _metrics([result.metrics for _, result in scored])
        found.append(Line(row, flat, _published(members, protocol, row), metrics))
    return found


def _row(
    protocol: Protocol, flat: Flat, extra: Sequence[str], scored: Sequence[tuple[Run, Result]], epoch: bool
) -> Row:
    """A configuration's row by one protocol."""
    results = [result for _, result in scored]
    best = [result.best for result in results if result.best is not None] if protocol is KNN else []
    row = _settings(protocol, flat, extra, results[0].size(protocol))
    if epoch:
        row[EPOCH] = Reached(epochs, epochs) if isinstance(epochs := flat.get("epochs"), int) else None
    row |= {f"Top-{k}": spread([result.metrics[protocol.metric(k)] for result in results]) for k in (1, 5)}
    return row | {"Best": spread(best) if best else None, "path": _folders(run for run, _ in scored)}


def _settings(protocol: Protocol, flat: Flat, extra: Sequence[str], size: Size | None = None) -> Row:
    """The first columns of a row; the size is unknown before a run is done."""
    row: Row = {"Protocol": protocol.title, TRANSFER: protocol.data or None}
    row |= {name: flat.get(key) for key, name in SETTINGS.items() if key.endswith(".name")}
    row |= {PARAMS: size.params if size else None, MULTIPLY_ADDS: size.multiply_adds if size else None}
    row |= {name: flat.get(key) for key, name in SETTINGS.items() if not key.endswith(".name")}
    return row | {key: flat.get(key) for key in extra}


def _metrics(found: Sequence[Mapping[str, float]]) -> Row:
    """Each metric over those that have it."""
    return {name: _score(found, name) for name in dict.fromkeys(name for metrics in found for name in metrics)}


def _score(metrics: Iterable[Mapping[str, float]], name: str) -> Score | None:
    """The metric over those that have it."""
    values = [one[name] for one in metrics if name in one]
    return spread(values) if values else None


def _folders(runs: Iterable[Run]) -> str:
    return " ".join(run.folder.name for run in runs)


def _warn_of_mixture(protocol: Protocol, scored: Sequence[tuple[Run, Result]]) -> None:
    """Says where the seeds in one row were evaluated with different settings of the probe."""
    probes = [result.probe(protocol) for _, result in scored]
    settings = dict.fromkeys(key for probe in probes for key in probe if key not in NOT_SETTINGS)
    keys = [key for key in settings if len({str(probe.get(key)) for probe in probes}) > 1]
    if keys:
        told = ", ".join(f"{run.id} {key}={p.get(key)}" for key in keys for (run, _), p in zip(scored, probes))
        print(
            f"warning: one row of {protocol.label} mixes probes: {told} (rerun=true evaluates again)", file=sys.stderr
        )


def _published(members: Sequence[Entry], protocol: Protocol, like: Row) -> Row | None:
    """What the recipe's source reports by this protocol, with the columns of `like`; None where it reports nothing."""
    reported, source = published(members, protocol)
    if not reported:
        return None
    named: Row = {"Protocol": protocol.title + PUBLISHED, "path": source}
    return dict.fromkeys(like) | named | {f"Top-{k}": score for k, score in reported.items()}


def is_published(row: Row) -> bool:
    """Whether the row is a published one; one that was cut to columns without its protocol counts as ours."""
    return str(row.get("Protocol")).endswith(PUBLISHED)


def published(members: Sequence[Entry], protocol: Protocol) -> tuple[dict[int, Score], str]:
    """Top-1 and top-5 that the configuration's recipe quotes for a protocol, and where from.

    ({}, "") where it quotes nothing, or where the configuration is not the recipe any more.
    """
    for run, quoted in ((entry.run, entry.published) for entry in members):
        if quoted and (reported := quoted.top(protocol)) and follows(run, quoted.recipe):
            return {k: spread([value]) for k, value in reported.items()}, quoted.source
    return {}, ""
