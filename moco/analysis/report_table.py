"""The report's table: one row per configuration. A cell is the text that is shown and the value that it is sorted by."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict

from moco.analysis import charts
from moco.analysis.configurations import Configuration, in_order
from moco.analysis.numbers import is_number
from moco.analysis.records import state_counts
from moco.analysis.statistics import Score
from moco.analysis.table import published
from moco.protocols import KNN, TABULATED, Protocol, found_in
from moco.runs.settings import plain
from moco.runs.state import State

Cell: TypeAlias = tuple[str, float | str | None]
EMPTY: Cell = ("", None)


class Head(TypedDict):
    """A column's name and kind: setting, accuracy, number or text; and its head where that is another."""

    name: str
    kind: str
    title: NotRequired[str]


class PageRow(TypedDict):
    """A configuration's cells, and those of the published row below it."""

    cells: list[Cell]
    published: NotRequired[list[Cell]]


class PageTable(TypedDict):
    """The whole table."""

    heads: list[Head]
    rows: list[PageRow]


def table(found: Sequence[Configuration], keys: Sequence[str], states: Mapping[Path, State]) -> PageTable:
    """The table of these configurations, best first.

    Where all of a configuration's runs that have come anywhere are paused, its kNN is shown as it was there, and sorted by
    nothing, since it is not what the others end with.

    Args:
        keys: the settings that get a column.
        states: of each run, by its folder.
    """
    metrics = {p.metric(k): f"{p.label} top-{k}" for p in _protocols(found) for k in (1, 5)}
    several = any(len(c.entries) > 1 for c in found)
    partly = any(entry.result is None for c in found for entry in c.entries)
    heads: list[Head] = [{"name": charts.name(key), "kind": "setting", "title": charts.words(key)} for key in keys]
    heads += [{"name": label, "kind": "accuracy"} for label in metrics.values()]
    heads += [{"name": "seeds", "kind": "number"} for _ in range(several)]
    heads += [{"name": "minutes", "kind": "number"}, {"name": "images/s", "kind": "number"}]
    heads += [{"name": "state", "kind": "text"} for _ in range(partly)]
    heads += [{"name": "runs", "kind": "text"}]
    rows, seen = [], set()
    for c in in_order(found):
        final = len(c.values(KNN.top1))
        rung = None if final else c.at_rung
        cells = [_setting(c.flat.get(key)) for key in keys]
        cells += [(str(rung), None) if rung and metric == KNN.top1 else _score(c.score(metric)) for metric in metrics]
        cells += [_number(rung.score.n if rung else final, 0) for _ in range(several)]
        cells += [_number(c.minutes, 1), _number(c.images_per_second, 0)]
        cells += [_states(c, states) for _ in range(partly)]
        ids = " ".join(entry.run.id for entry in c.entries)
        row: PageRow = {"cells": [*cells, (ids, ids)]}
        theirs, source = _published(c, list(metrics))
        if source and source not in seen:
            seen.add(source)
            blank = [EMPTY] * (several + 2 + partly)
            row["published"] = [("published", ""), *[EMPTY] * (len(keys) - 1), *theirs, *blank, (source, source)]
        rows.append(row)
    return {"heads": heads, "rows": rows}


def as_csv(found: Sequence[Configuration], keys: Sequence[str], states: Mapping[Path, State]) -> str:
    """The table's numbers in full: mean, deviation and number of seeds of each metric. Of paused runs it has the state."""
    metrics = [p.metric(k) for p in _protocols(found) if any(c.values(p.top1) for c in found) for k in (1, 5)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = [f"{metric} {part}" for metric in metrics for part in ("mean", "std", "seeds")]
    writer.writerow([*map(_harmless, keys), *parts, "minutes", "images_per_second", "state", "runs"])
    for c in in_order(found):
        numbers: list[object] = []
        for metric in metrics:
            score = c.score(metric)
            numbers += [score.mean, score.std, score.n] if score else [None] * 3
        settings = [_harmless("" if (value := c.flat.get(key)) is None else plain(value)) for key in keys]
        ids = " ".join(entry.run.id for entry in c.entries)
        writer.writerow([*settings, *numbers, c.minutes, c.images_per_second, _states(c, states)[0], _harmless(ids)])
    return out.getvalue()


def _protocols(found: Sequence[Configuration]) -> list[Protocol]:
    """Those by which some run has a score."""
    metrics = {metric for c in found for entry in c.entries if entry.result for metric in entry.result.metrics}
    return found_in(metrics | {KNN.top1 for c in found if c.at_rung})


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "@", "\t", "\r")) else text


def _published(c: Configuration, metrics: Sequence[str]) -> tuple[list[Cell], str]:
    """The cells of the metrics that the recipe's source reports, and the source; "" where it reports none of them."""
    numbers: dict[str, Score] = {}
    source = ""
    for protocol in TABULATED:
        reported, where = published(c.entries, protocol)
        numbers |= {protocol.metric(k): score for k, score in reported.items()}
        source = source or where
    return [_score(numbers.get(metric)) for metric in metrics], source if set(numbers) & set(metrics) else ""


def _setting(value: object) -> Cell:
    text = "" if value is None else plain(value)
    return text, value if is_number(value) else text or None


def _score(score: Score | None) -> Cell:
    return (str(score), score.mean) if score else EMPTY


def _number(value: float | None, digits: int) -> Cell:
    return EMPTY if value is None else (f"{value:.{digits}f}", value)


def _states(c: Configuration, states: Mapping[Path, State]) -> Cell:
    """The states of its runs where not all of them are done."""
    found = [states[entry.run.folder] for entry in c.entries]
    text = "" if set(found) == {State.DONE} else state_counts(found)
    return text, text or None
