"""The result table in a terminal: what is the same in all rows goes below the table before anything else has to go."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from moco.analysis.formats import cell, heads
from moco.analysis.numbers import Reached, is_number
from moco.analysis.statistics import Score
from moco.analysis.table import EPOCH, MULTIPLY_ADDS, PARAMS, SETTINGS, TRANSFER, Row, is_published
from moco.io import Json
from moco.runs.settings import swept
from moco.terminal import Column, draw, fit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WORDS = ("Protocol", "path")  # columns whose cells may take several lines
# What stays, and what goes late: the last of these first. Before them go the settings that some choice determines, the sizes,
# and first of all what is the same in all rows.
STAY = ("Protocol", TRANSFER, EPOCH, "Top-1")
IMPORTANT = ("Method", "Temperature", "Negatives", "Data", "Model")
USEFUL = ("path", "Top-5", "Best")
SIZES = (PARAMS, MULTIPLY_ADDS)


def show(rows: Sequence[Row], console: "Console") -> None:
    """Prints the table in this terminal."""
    console.print(*drawn(rows, console.width), sep="\n")


def drawn(rows: Sequence[Row], width: int) -> "list[RenderableType]":
    """The table for a terminal of that width, and below it what it leaves out."""
    from rich.text import Text

    columns = _columns(rows)
    if fit(columns, width).dropped:
        columns = [_ids(column, rows) if column.name == "path" else column for column in columns]
    dropped = fit(columns, width).dropped
    same = [column for column in columns if column.name in dropped and column.name in _same(rows)]
    table, note = draw([column for column in columns if column not in same], width)
    shared = ", ".join(f"{column.name}={next(filter(None, column.cells))}" for column in same)
    notes = "\n".join(filter(None, [shared and f"The same in all rows: {shared}", note]))
    return [table, Text(f"\n{notes}", "dim")] if notes else [table]


def _columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that hold anything."""
    columns, ranks = [], _ranks(rows)
    for name in heads(rows):
        cells = [cell(name, row[name]) for row in rows]
        if any(cells) or not rows:
            numbers = any(is_number(row[name]) or isinstance(row[name], Score | Reached) for row in rows)
            columns.append(Column(name, cells, ranks[name], words=name in WORDS, right=numbers))
    return columns


def _ranks(rows: Sequence[Row]) -> dict[str, int]:
    """For each column when it goes, the highest rank first; 0 for those that stay."""
    others = [head for head in heads(rows) if head not in (*STAY, *IMPORTANT, *USEFUL, *SIZES)]
    chosen = _chosen(rows)
    varying = [head for head in others if head in chosen]
    order = [*IMPORTANT, *varying, *USEFUL, *(head for head in others if head not in varying), *SIZES]
    same = _same(rows)
    order = [*(head for head in order if head not in same), *(head for head in order if head in same)]
    return {**{head: i for i, head in enumerate(order, 1)}, **dict.fromkeys(STAY, 0)}


def _chosen(rows: Sequence[Row]) -> set[str]:
    """The columns of settings that vary and that no choice of a method, model ... determines."""
    keys = {head: key for key, head in SETTINGS.items()}
    settings = [head for head in heads(rows) if head not in (*STAY, *USEFUL, *SIZES)]
    flats: list[dict[str, Json]] = [
        {keys.get(head, head): value for head in settings if not isinstance(value := row[head], Score | Reached)}
        for row in _ours(rows)
    ]
    needed = swept(flats)
    return {head for head in settings if keys.get(head, head) in needed}


def _same(rows: Sequence[Row]) -> set[str]:
    """The columns of settings and sizes that are the same in all of our rows."""
    ours = _ours(rows)
    found = [head for head in heads(ours) if head not in (*STAY, *USEFUL)]
    return {head for head in found if len({str(row[head]) for row in ours}) == 1}


def _ours(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not is_published(row)]


def _ids(path: Column, rows: Sequence[Row]) -> Column:
    """The column of folders with the runs' ids in their place; sources of published rows stay."""
    cells = [
        text if is_published(row) else " ".join(folder.rpartition("-")[2] for folder in text.split())
        for text, row in zip(path.cells, rows)
    ]
    return replace(path, name="id", cells=cells)
