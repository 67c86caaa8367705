"""The result table as Markdown, csv, LaTeX, JSON or Parquet."""

import csv
import dataclasses
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from moco.analysis.numbers import Reached
from moco.analysis.statistics import Score
from moco.analysis.table import ACCURACIES, MULTIPLY_ADDS, PARAMS, SETTINGS, Cell, Row
from moco.errors import UserError
from moco.io import Json, write_atomic
from moco.runs.settings import plain

FORMATS = ("markdown", "csv", "latex", "json", "parquet")
MARKS = ("<!-- table -->", "<!-- /table -->")
UNITS = {PARAMS: (1e6, ".2f", "M"), MULTIPLY_ADDS: (1e9, ".3g", "G")}  # the unit that people read a column in
KEYS = {head: key for key, head in SETTINGS.items()}  # settings are named by their keys where programs read
NO_ROWS = ("Protocol", "Top-1", "Top-5", "path")  # the heads of an empty table


def heads(rows: Sequence[Row]) -> list[str]:
    """The names of the columns."""
    return list(rows[0] if rows else NO_ROWS)


def cell(name: str, value: Cell) -> str:
    """A cell of that column as people read it: percent with two decimals, large counts in millions or billions, 3 of 9."""
    if isinstance(value, Reached):
        return str(value)
    if name in UNITS and isinstance(value, int | float):
        unit, digits, letter = UNITS[name]
        return f"{value / unit:{digits}} {letter}"
    return _exact(value)


def _exact(value: Cell) -> str:
    """A cell with its numbers as they are; scores with two decimals."""
    if value is None:
        return ""
    if isinstance(value, Reached):
        return str(value.epoch)
    return value.with_count() if isinstance(value, Score) else str(value)


def render(rows: Sequence[Row], form: str) -> str:
    """The table as markdown, csv, latex or json.

    Raises:
        UserError: it is another format; parquet is not text, see write_parquet.
    """
    if form == "parquet":
        raise UserError("parquet is not text: give a file with --out")
    if form not in FORMATS:
        raise UserError(f"format {form} is unknown: give one of {', '.join(FORMATS)}")
    if form == "json":
        return json.dumps([_by_key(row) for row in rows], indent=1, default=_plain)
    names = heads(rows)
    if form == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(
            [[*map(_key, names)], *([_exact(row[n]) for n in names] for row in rows)]
        )
        return out.getvalue().rstrip("\n")
    cells = [[cell(name, row[name]) for name in names] for row in rows]
    return _latex(names, cells) if form == "latex" else _markdown(names, cells)


def _key(name: str) -> str:
    """The column's name for programs."""
    return KEYS.get(name, name)


def _by_key(row: Row) -> Row:
    return {_key(name): value for name, value in row.items()}


def _plain(value: Score | Reached) -> Json:
    """What JSON holds in its place: a score's parts, or the epoch alone, as a column has the whole run's epochs."""
    return value.epoch if isinstance(value, Reached) else dataclasses.asdict(value)


def _markdown(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _latex(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A booktabs tabular."""
    escapes = {c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    escapes |= {"^": r"\textasciicircum{}", "±": r"$\pm$"}

    def line(texts: Sequence[str]) -> str:
        return " & ".join("".join(escapes.get(c, c) for c in text) for text in texts) + r" \\"

    columns = "l" * len(names)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(names), r"\midrule"]
    return "\n".join([*head, *map(line, cells), r"\bottomrule", r"\end{tabular}"])


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """The rows with `Top-1 mean`, `Top-1 std` and `Top-1 n` for each accuracy; a column of several types becomes text.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet needs pyarrow: pip install pyarrow") from error
    scores = {name for row in rows for name, value in row.items() if name in ACCURACIES or isinstance(value, Score)}
    flat = [_apart(_by_key(row), {_key(name) for name in scores}) for row in rows]
    columns = {name: [row[name] for row in flat] for name in (flat[0] if flat else ())}
    for name, values in columns.items():
        kinds = {float if type(value) is int else type(value) for value in values if value is not None}
        if len(kinds) > 1:
            columns[name] = [None if value is None else plain(value) for value in values]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _apart(row: Row, scores: Collection[str]) -> Row:
    """The row with a column for each part of a score, of those columns that hold scores."""
    flat: Row = {}
    for name, value in row.items():
        if name in scores:
            parts = dataclasses.asdict(value) if isinstance(value, Score) else {}
            flat |= {f"{name} {part.name}": parts.get(part.name) for part in dataclasses.fields(Score)}
        elif isinstance(value, Reached):
            flat[name] = value.epoch
        else:
            flat[name] = value
    return flat


def rewrite_block(path: Path, text: str) -> None:
    """Puts the text between the marks in the Markdown file at `path`.

    Raises:
        UserError: there is no such file, it is not UTF-8, or it has no such marks.
    """
    try:
        before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as that") from error
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise UserError(f"{path} has no {MARKS[0]} followed by {MARKS[1]}: write both where the table should stand")
    write_atomic(path, f"{before}{MARKS[0]}\n{text}\n{mark}{after}")
