"""The result table in a terminal: what is the same in all rows goes below the table before anything else has to go."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from moco.analysis.formats import cell, heads
from moco.analysis.records import is_number
from moco.analysis.statistics import Score
from moco.analysis.table import MULTIPLY_ADDS, PARAMS, Row, is_published
from moco.analysis.terminal import Column, draw, fit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WHOLE = ("Protocol", "Top-1")  # these columns always stay
# The others go in this order: first what is the same in all rows, then these, then what varies from the right.
LEAST = (MULTIPLY_ADDS, PARAMS, "Best", "Top-5", "path")


def show(rows: Sequence[Row], console: "Console") -> None:
    """Prints the table in this terminal."""
    console.print(*drawn(rows, console.width), sep="\n")


def drawn(rows: Sequence[Row], width: int) -> "list[RenderableType]":
    """The table for a terminal of that width."""
    from rich.text import Text

    columns = _columns(rows)
    if fit(columns, width).dropped:
        columns = [_ids(column, rows) if column.name == "path" else column for column in columns]
    dropped = fit(columns, width).dropped
    same = {c.name: c for c in columns if c.name in dropped and _same(c.cells, rows)}
    shown = [column for column in columns if column.name not in same]
    parts = draw(shown, width)
    if same:
        texts = [f"{name}={next(text for text in column.cells if text)}" for name, column in same.items()]
        parts.append(Text(f"\nThe same in all rows: {', '.join(texts)}", "dim"))
    return parts


def _columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that hold anything."""
    columns = []
    for i, name in enumerate(heads(rows)):
        cells = [cell(name, row[name]) for row in rows]
        if any(cells) or not rows:
            numbers = any(is_number(row[name]) or isinstance(row[name], Score) for row in rows)
            words = name in ("Protocol", "path")
            columns.append(Column(name, cells, _rank(name, i, _same(cells, rows)), words=words, right=numbers))
    return columns


def _rank(name: str, position: int, same: bool) -> int:
    """The order in which columns go, the highest rank first; 0 for those that stay."""
    if name in WHOLE:
        return 0
    if same:
        return 3000 + position
    return 2000 - LEAST.index(name) if name in LEAST else 1000 + position


def _same(cells: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether the column says the same in all of our rows."""
    return len({text for text, row in zip(cells, rows) if not is_published(row)}) == 1


def _ids(path: Column, rows: Sequence[Row]) -> Column:
    """The column of folders with the runs' ids in their place; sources of published rows stay."""
    cells = [
        text if is_published(row) else " ".join(folder.rpartition("-")[2] for folder in text.split())
        for text, row in zip(path.cells, rows)
    ]
    return replace(path, name="id", cells=cells)
