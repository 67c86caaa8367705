"""Runs without a result, grouped by the reason that is known."""

import re
from collections.abc import Sequence
from typing import TypedDict

from moco.analysis.records import Entry
from moco.runs.settings import describe, varying
from moco.runs.state import State

NUMBER = re.compile(r"(?<![A-Za-z_])\d+(?:\.\d+)?(?:e[-+]?\d+)?")
POINTS = 12  # so many of a group are named
LONG = 300  # characters of a reason


class Point(TypedDict):
    """A run by its settings and its folder."""

    label: str
    folder: str


class Group(TypedDict):
    """Runs in one state for one reason; numbers in which their reasons differ are given from the lowest to the highest."""

    count: int
    state: str
    why: str
    points: list[Point]
    more: int


def groups(entries: Sequence[Entry], states: Sequence[State]) -> list[Group]:
    """The runs without a usable result that are not paused: those first of which there are most."""
    missing = [(entry, state) for entry, state in zip(entries, states) if entry.result is None and entry.rung is None]
    flats = [entry.flat for entry in entries if entry.flat]
    keys = varying(flats) if flats else []
    found: dict[tuple[State, str], list[tuple[str, Point]]] = {}
    for entry, state in missing:
        why = _why(entry, state)
        [label] = describe([entry.flat], keys) if entry.flat else [""]
        point: Point = {"label": label, "folder": entry.run.folder.name}
        found.setdefault((state, NUMBER.sub("0", why)), []).append((why, point))
    made: list[Group] = [
        {
            "count": len(members),
            "state": str(state),
            "why": together([why for why, _ in members]),
            "points": [point for _, point in members[:POINTS]],
            "more": max(0, len(members) - POINTS),
        }
        for (state, _), members in found.items()
    ]
    return sorted(made, key=lambda group: -group["count"])


def _why(entry: Entry, state: State) -> str:
    """What is known of the reason, less what names the run itself."""
    if state == State.DAMAGED:
        said = entry.problem
    else:
        quiet = entry.problem or state in (State.RUNNING, State.QUEUED, State.MISSING)
        said = "" if quiet else " ".join(entry.run.log_tail(1))
    folder = entry.run.folder
    return said.replace(str(folder), "<its folder>").replace(folder.name, "<its folder>")[:LONG]


def together(reasons: Sequence[str]) -> str:
    """Reasons that differ in numbers alone as one: loss became NaN at step 1 to 7."""
    texts = NUMBER.split(reasons[0])
    columns = zip(*(NUMBER.findall(reason) for reason in reasons))
    spans = []
    for column in columns:
        low, high = min(column, key=float), max(column, key=float)
        spans.append(low if float(low) == float(high) else f"{low} to {high}")
    return "".join(text + span for text, span in zip(texts, [*spans, ""]))
