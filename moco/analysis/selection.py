"""Which rows and columns of the result table are shown, and in which order: --where, --sort, --columns."""

import difflib
import json
import operator
import re
from collections.abc import Callable, Sequence

from moco.analysis.numbers import Reached, is_number
from moco.analysis.statistics import Score
from moco.analysis.table import ACCURACIES, EPOCH, TRANSFER, Cell, Line, Row
from moco.errors import UserError
from moco.runs.settings import plain

UNITS = {"M": 1e6, "G": 1e9}
WORDS: dict[str, Callable[[object, object], bool]] = {"=": operator.eq, "==": operator.eq, "!=": operator.ne}
SIZES: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
COMPARISON = re.compile(r"\s*([\w./ ()-]+?)\s*(<=|>=|!=|==|=|<|>)\s*(.+?)\s*")


def select(lines: Sequence[Line], where: str = "", sort: str = "", columns: Sequence[str] = ()) -> list[Row]:
    """The rows of these lines, published ones below ours.

    Args:
        where: comparisons of a column or setting joined by `and` and, more loosely, by `or`: "m>1024 and momentum=0.9 or m=64".
        sort: a column or setting, accuracies from the highest, others from the lowest; a leading - reverses the order.
            Accuracies of paused runs stand below those of finished ones, the farther a run has come the higher.
        columns: those to keep, in this order; settings are known by their keys too, metrics by their names (repr/rankme). In a
            table with paused runs an accuracy brings its epoch along.

    Raises:
        UserError: a column is unknown, or something is not a comparison.
    """
    if not lines:
        return []
    if where:
        choices = [_tests(alternative, lines) for alternative in re.split(r"\s+or\s+", where)]
        lines = [line for line in lines if any(all(test(line) for test in tests) for tests in choices)]
    if not lines:
        return []
    if sort:
        lines = _sorted(lines, sort)
    names = {_head(name, lines): _column(name, lines) for name in columns}
    measured = any(_is_accuracy(key) or any(key in line.metrics for line in lines) for key in names.values())
    if EPOCH in lines[0].row and measured and EPOCH not in names.values():
        names[EPOCH] = EPOCH
    rows: dict[tuple[str, ...], Row] = {}
    for line in lines:
        for row in filter(None, (line.row, line.published)):
            others = _others(line) if row is line.row else {}
            kept: Row = {name: row[key] if key in row else others.get(key) for name, key in names.items()}
            # A published row stands once, whatever was varied around its recipe.
            scored = (row["Protocol"], row.get(TRANSFER), row["path"], row["Top-1"])
            rows[tuple(map(str, scored))] = kept if columns else row
    return list(rows.values())


def _is_accuracy(key: str) -> bool:
    """Whether the column holds accuracies: one of the table's, or a metric by its name."""
    return key in ACCURACIES or "/top" in key


def _head(name: str, lines: Sequence[Line]) -> str:
    """The head of a column that was asked for: that of the table, or the setting as it was typed."""
    key = _column(name, lines)
    return key if key in lines[0].row else name


def _column(name: str, lines: Sequence[Line]) -> str:
    """The table's column or the setting's key of that name.

    Raises:
        UserError: there is none; names the columns.
    """
    if name == "seed":
        raise UserError("there is no column seed: a row holds all seeds of a configuration; name runs by their ids")
    heads = list(lines[0].row)
    known = {key for line in lines for key in _others(line)}
    for candidate in (name, f"{name}.name"):
        if candidate in heads or candidate in known:
            return candidate
    if same := [head for head in heads if head.lower() == name.lower()]:
        return same[0]
    near = difflib.get_close_matches(name, [*heads, *known], 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"there is no column {name}: {hint}there are {', '.join(heads)}, every setting by its key, and metrics such as knn/top1"
    )


def _value(key: str, line: Line) -> Cell:
    return line.row[key] if key in line.row else _others(line).get(key)


def _others(line: Line) -> Row:
    """What may stand in a column of its own: settings by their keys, metrics by their names."""
    return {**line.metrics, **line.flat}


def _size(value: Cell) -> float | None:
    """What a cell is compared by: its number, mean or epoch; None for words."""
    if isinstance(value, Score):
        return value.mean
    if isinstance(value, Reached):
        return value.epoch
    return value if is_number(value) else None


def _sorted(lines: Sequence[Line], sort: str) -> list[Line]:
    """Numbers first, then words; what has no value comes last either way."""
    key = _column(sort.removeprefix("-"), lines)
    backwards = _is_accuracy(key) != sort.startswith("-")
    present = [line for line in lines if _value(key, line) is not None]

    def rank(line: Line) -> tuple[bool, float, str]:
        value = _value(key, line)
        size = _size(value)
        return (True, 0, plain(value)) if size is None else (False, size, "")

    without = [line for line in lines if _value(key, line) is None]
    ordered = sorted(present, key=rank, reverse=backwards)
    return (sorted(ordered, key=_short) if _is_accuracy(key) else ordered) + without


def _short(line: Line) -> float:
    """The share of its epochs that a row's runs have not trained yet."""
    reached = line.row.get(EPOCH)
    return 1 - reached.share if isinstance(reached, Reached) else 0.0


def _tests(where: str, lines: Sequence[Line]) -> list[Callable[[Line], bool]]:
    """A test of a line for each comparison.

    Raises:
        UserError: something is not a comparison, or a word is compared by size.
    """
    tests = []
    for part in re.split(r"\s+and\s+", where.strip()):
        match = COMPARISON.fullmatch(part)
        if not match or re.search(r"[<>=]|\b(and|or|not)$", match[3]):
            raise UserError(
                f"--where {part} is not a comparison: write one like m>=1024 or method=moco, several joined by and, or"
            )
        key = _column(match[1], lines)
        tests.append(_test(key, match[2], match[3]))
        if isinstance(_wanted(match[3]), str) and _is_numeric(key, lines):
            raise UserError(f"--where {match[0].strip()} compares numbers with a word: give a number")
    return tests


def _is_numeric(key: str, lines: Sequence[Line]) -> bool:
    """Whether the column holds numbers alone, and some."""
    values = [value for line in lines if (value := _value(key, line)) is not None]
    return bool(values) and all(_size(value) is not None for value in values)


def _test(key: str, sign: str, text: str) -> Callable[[Line], bool]:
    """Whether a line's value compares so with the text."""
    wanted = _wanted(text)
    size = _size(wanted)
    if size is None and sign in SIZES:
        raise UserError(f"--where {key}{sign}{text} compares words by size: use = or !=")

    def test(line: Line) -> bool:
        value = _value(key, line)
        number = _size(value)
        if size is not None and number is not None:
            return SIZES[sign](number, size) if sign in SIZES else WORDS[sign](number, size)
        return sign in WORDS and WORDS[sign](value == wanted or plain(value) == plain(wanted), True)

    return test


def _wanted(text: str) -> Cell:
    """The value that a comparison names: 20 M is a number as the table shows it."""
    if match := re.fullmatch(r"(-?[\d.]+) ?([MG])", text):
        try:
            return float(match[1]) * UNITS[match[2]]
        except ValueError:
            return text
    if text in ("True", "False"):  # as the table shows them
        return text == "True"
    try:
        value: Cell = json.loads(text)
        return value
    except ValueError:
        return text.strip("'\"")
