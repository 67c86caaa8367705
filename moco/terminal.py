"""Tables that fit a terminal, drawn by rich: words go on in the next line, numbers stay whole, columns that matter less go."""

import bisect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table
    from rich.text import Text

GAP = 2  # spaces between columns
WORD = 24  # a longer word may be broken, unless it is a setting
NARROW = 16  # a column of words is not made narrower than that where it has more to show
HEAD = 8  # a column's name up to that length stays on one line
HYPHENS = {"Temperature": ["Temper-", "ature"], "Negatives": ["Nega-", "tives"], "Neighbours": ["Neigh-", "bours"]}


@dataclass(frozen=True)
class Column:
    """A column of texts.

    Attributes:
        name: its head.
        cells: one text per row.
        rank: 0 for what always stays; of the others the one with the highest rank goes first.
        minor: whether it goes before words take a second line.
        words: whether the cells are words, which may take several lines.
        right: whether the cells are aligned on the right.
        styles: rich's style of each cell; none where it is empty.
    """

    name: str
    cells: Sequence[str]
    rank: int = 0
    minor: bool = False
    words: bool = False
    right: bool = False
    styles: Sequence[str] = ()

    @property
    def natural(self) -> int:
        """The width at which every text stands on one line."""
        return max(map(len, [self.name, *self.cells]))

    @property
    def least(self) -> int:
        """The least width at which nothing is cut that should be whole."""
        head = max(len(part.rstrip()) for part in _parts(self.name))
        if not self.words:
            return max(head, *map(len, self.cells), 0)
        longest = max((_whole(word) for cell in self.cells for word in cell.split()), default=0)
        return max(head, longest, min(self.natural, NARROW))

    @property
    def unfolded(self) -> int:
        """The width at which the settings of each row stand on one line."""
        return max((len(cell) for cell in self.cells if all("=" in word for word in cell.split())), default=0)


class Fit(NamedTuple):
    """The columns that have room side by side, their widths, and the names of those that had to go."""

    columns: list[Column]
    widths: list[int]
    dropped: list[str]


def console() -> "Console | None":
    """The terminal that standard output is; None where it is something else."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console(highlight=False)


def fit(columns: Sequence[Column], width: int) -> Fit:
    """As many of the columns as have room, in their order."""
    kept = list(columns)
    while kept and (least := max(kept, key=lambda column: column.rank)).rank:
        if _room(kept, width // 2 if least.minor else 0) <= width:
            break
        kept.remove(least)
    widths = {column.name: column.least for column in kept}
    spare = width - _room(kept)
    for column in sorted(kept, key=lambda column: (not column.words, column.rank)):
        if spare < 0 and column.words:  # not even what must stay has room: words give way
            more = max(spare, HEAD - column.least)
        else:
            more = max(0, min(spare, column.natural - column.least))
        widths[column.name] += more
        spare -= more
    dropped = [column.name for column in columns if column.name not in widths]
    return Fit(kept, [widths[column.name] for column in kept], dropped)


def _room(columns: Sequence[Column], unfolded: int = 0) -> int:
    """The least width of these columns together, settings of up to `unfolded` characters on one line."""
    return sum(max(column.least, column.words * min(column.unfolded, unfolded)) + GAP for column in columns) - GAP


def _whole(word: str) -> int:
    """The width that a word should have on one line."""
    return len(word) if "=" in word else min(len(word), WORD)


def _parts(name: str) -> list[str]:
    """The parts of a head that may stand below each other: optimizer. weight_ decay."""
    return [name] if len(name) <= HEAD else HYPHENS.get(name) or re.findall(r"[^ ._-]+[ ._-]*", name)


def _stacked(name: str, width: int) -> str:
    """The head in as few lines of that width as hold it."""
    if len(name) <= width:
        return name
    lines = [""]
    for part in _parts(name):
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def draw(columns: Sequence[Column], width: int) -> "tuple[Table, str]":
    """The table in that width, and a note that names the columns without room, "" if all have room."""
    from rich.table import Table
    from rich.text import Text

    kept, widths, dropped = fit(columns, width)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, size in zip(kept, widths):
        head = Text(_stacked(column.name, size))
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(head, width=size, no_wrap=not column.words, overflow="fold", justify=justify)
    rows = zip(*(_texts(column, size) for column, size in zip(kept, widths)))
    for row in rows:
        table.add_row(*row)
    return table, f"Not shown in {width} columns: {', '.join(dropped)}" if dropped else ""


def most(number: int, fits: Callable[[int], bool]) -> int:
    """The most rows, `number` at most, that fit; fewer fit where more do, and none does always."""
    if fits(number):
        return number
    return bisect.bisect_left(range(number), True, lo=1, key=lambda n: not fits(n)) - 1 if number else 0


def plain(columns: Sequence[Column]) -> str:
    """The table as plain text in its full width."""
    lines = [[column.name for column in columns], *zip(*(column.cells for column in columns))]
    aligned = [
        [
            text.rjust(column.natural) if column.right else text.ljust(column.natural)
            for text, column in zip(line, columns)
        ]
        for line in lines
    ]
    return "\n".join((" " * GAP).join(line).rstrip() for line in aligned)


def _texts(column: Column, width: int) -> "list[Text]":
    """The cells of a column; a setting that is too long for a line is broken after its equals sign."""
    from rich.text import Text

    styles = column.styles or [""] * len(column.cells)
    texts = []
    for cell, style in zip(column.cells, styles):
        words = [word if len(word) <= width else word.replace("=", "= ", 1) for word in cell.split(" ")]
        texts.append(Text(" ".join(words) if column.words else cell, style))
    return texts
