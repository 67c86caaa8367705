"""The result table: finished runs by kNN and by linear evaluation, seeds folded, the published row beside ours.

Filtered, sorted and cut to columns on demand; as Markdown, csv, LaTeX, JSON or Parquet.
"""

import csv
import difflib
import io
import json
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moco.analysis.records import PROTOCOLS, PUBLISHED, Entry, fold, is_number, plain, read, spread, varying
from moco.errors import UserError
from moco.io import write_atomic
from moco.runs.run import LABELS, Run

PROBES = {label: protocol for protocol, label in LABELS.items()}
# Settings that have a column of their own, by their key in the flat configuration.
COLUMNS = {
    "method.name": "Method",
    "model.name": "Model",
    "data.name": "Data",
    "feature_dim": "Feature Dim",
    "m": "m",
    "momentum": "Momentum",
    "batch_size": "Batch",
    "epochs": "Epochs",
    "temperature": "tau",
    "k": "K",
}
ACCURACIES = ("Top-1", "Top-5", "Best")
FORMATS = ("markdown", "csv", "latex", "json", "parquet")
Row = dict[str, Any]


class Line(NamedTuple):
    """A row of ours with its configuration, and the published row that stands below it."""

    row: Row
    flat: dict[str, Any]
    published: Row | None


def table(runs: Iterable[Run], where: str = "", sort: str = "", columns: Sequence[str] = ()) -> list[Row]:
    """Rows with the seed's columns for all finished runs; other settings get a column where they vary.

    Top-1, Top-5 and Best hold {"mean", "std", "n"} in percent over the seeds of a configuration; Best is the best epoch's
    kNN, never what counts. A damaged or foreign run is named on stderr and left out.

    Args:
        where: comparisons of a column or setting joined by `and`: "m>=1024 and optimizer.name=sgd".
        sort: a column or setting, accuracies from the highest, others from the lowest; a leading - turns it round.
        columns: those to keep, in this order; settings are known by their keys too.

    Raises:
        UserError: a column is unknown, or a comparison is none.
    """
    entries = [read(run) for run in runs]
    for entry in entries:
        if entry.problem and (entry.run.folder / "result.json").exists():
            print(f"warning: left out of the table: {entry.problem}", file=sys.stderr)
    done = [entry for entry in entries if entry.result]
    extra = [key for key in varying([entry.flat for entry in done]) if key not in COLUMNS and key != "seed"]
    lines = [line for members in fold(done) for line in _lines(members, extra)]
    if not lines:
        return []
    for test in _tests(where, lines):
        lines = [line for line in lines if test(line)]
    if sort:
        lines = _sorted(lines, sort)
    names = {name: _column(name, lines) for name in columns}
    rows = []
    for line in lines:
        for row in filter(None, (line.row, line.published)):
            flat = line.flat if row is line.row else {}
            rows.append({name: _value(key, row, flat) for name, key in names.items()} if columns else row)
    # A published row stands once, whatever was varied around its recipe.
    whole = [row for line in lines for row in (line.row, line.published) if row]
    return list({(row["Protocol"], row["path"], str(row["Top-1"])): kept for row, kept in zip(whole, rows)}.values())


def _lines(members: Sequence[Entry], extra: Sequence[str]) -> list[Line]:
    """The lines of one configuration, one a protocol."""
    flat = members[0].flat
    lines = []
    for prefix, protocol in PROTOCOLS.items():
        scored = [(e.run, e.result) for e in members if e.result and f"{prefix}/top1" in e.result]
        if not scored:
            continue
        results, part = [result for _, result in scored], "" if prefix == "knn" else "_backbone"
        probe = results[0].get("probes", {}).get(PROBES[prefix], {}) if part else {}
        if part:
            _warn_of_mixture(protocol, scored, PROBES[prefix])
        head = probe.get("params_classifier", 0)
        row: Row = {"Protocol": protocol}
        row |= {COLUMNS[key]: flat.get(key) for key in ("method.name", "model.name", "data.name")}
        row |= {"Params": f"{(results[0]['params' + part] + head) / 1e6:.2f} M"}
        row |= {"FLOPs": f"{(results[0]['multiply_adds' + part] + head) / 1e9:.3g} G"}
        row |= {name: flat.get(key) for key, name in COLUMNS.items() if "." not in key}
        row |= {key: flat.get(key) for key in extra}
        row |= {f"Top-{k}": spread([result[f"{prefix}/top{k}"] for result in results]) for k in (1, 5)}
        best = [result["best"]["knn/top1"] for result in results if prefix == "knn" and result.get("best")]
        row |= {"Best": spread(best) if best else None, "path": " ".join(run.folder.name for run, _ in scored)}
        lines.append(Line(row, flat, _published(members, protocol, row)))
    return lines


def _warn_of_mixture(protocol: str, scored: Sequence[tuple[Run, Mapping[str, Any]]], name: str) -> None:
    """Says where seeds in one row were evaluated with different settings of the probe, which are no setting of the run."""
    probes = [result.get("probes", {}).get(name, {}) for _, result in scored]
    keys = [key for key in ("epochs", "batch_size", "lr", "weight_decay") if len({p.get(key) for p in probes}) > 1]
    if keys:
        told = ", ".join(f"{run.id} {key}={p.get(key)}" for key in keys for (run, _), p in zip(scored, probes))
        print(f"warning: one row of {protocol} mixes probes: {told} (rerun=true evaluates again)", file=sys.stderr)


def _published(members: Sequence[Entry], protocol: str, like: Row) -> Row | None:
    """What the recipe's source reports by this protocol, with the columns of `like`."""
    numbers, source = published(members, protocol)
    if not numbers:
        return None
    return dict.fromkeys(like) | {"Protocol": f"{protocol}, published", "path": source} | numbers


def published(members: Sequence[Entry], protocol: str) -> tuple[dict[str, Any], str]:
    """Top-1 and Top-5 that the configuration's recipe quotes for a protocol, and where from; ({}, "") where it does not."""
    recipe = next((entry.recipe for entry in members if entry.recipe["source"]), {})
    quoted = recipe.get(PUBLISHED.get(protocol, ""))
    numbers = {key: spread([v]) for key, v in zip(("Top-1", "Top-5"), quoted or ()) if is_number(v)}
    source, note = recipe.get("source"), recipe.get("note")
    return numbers, (f"{source} ({note})" if note else str(source)) if numbers else ""


# Columns by name


def _column(name: str, lines: Sequence[Line]) -> str:
    """The row's column or setting's key of that name.

    Raises:
        UserError: there is none; names the columns.
    """
    if name == "seed":
        raise UserError("there is no column seed: a row is all seeds of a configuration; name runs by their ids")
    shown = {column.lower(): column for column in lines[0].row}
    known = {key for line in lines for key in line.flat}
    for candidate in (name, f"{name}.name"):
        if candidate in lines[0].row or candidate in known:
            return candidate
    if name.lower() in shown:
        return shown[name.lower()]
    near = difflib.get_close_matches(name, [*lines[0].row, *known], 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"there is no column {name}: {hint}there are {', '.join(lines[0].row)}, and every setting by its key"
    )


def _value(key: str, row: Row, flat: Mapping[str, Any]) -> Any:
    return row[key] if key in row else flat.get(key)


def _size(value: Any) -> float | None:
    """What a cell is compared by: its number or mean; None for words."""
    if isinstance(value, Mapping):
        return value["mean"]
    if isinstance(value, str):  # 24.62 M: all of a column have one unit
        number = re.match(r"-?[\d.]+(?= [MG]$)", value)
        return float(number[0]) if number else None
    return value if is_number(value) else None


def _sorted(lines: Sequence[Line], sort: str) -> list[Line]:
    """Numbers first, then words; what has no value comes last either way."""
    key = _column(sort.removeprefix("-"), lines)
    backwards = (key in ACCURACIES) != sort.startswith("-")
    sized: list[tuple[tuple[bool, Any], Line]] = []
    without = []
    for line in lines:
        value = _value(key, line.row, line.flat)
        size = _size(value)
        if value is None:
            without.append(line)
        else:
            sized.append(((size is None, plain(value) if size is None else size), line))
    return [line for _, line in sorted(sized, key=lambda pair: pair[0], reverse=backwards)] + without


SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def _tests(where: str, lines: Sequence[Line]) -> list[Callable[[Line], bool]]:
    """A test of a line for each comparison.

    Raises:
        UserError: something is no comparison, or a word is compared by size.
    """
    tests = []
    for part in filter(None, re.split(r"\s+and\s+", where.strip())):
        match = re.fullmatch(r"\s*([\w. ()-]+?)\s*(<=|>=|!=|==|=|<|>)\s*(.+?)\s*", part)
        if not match:
            raise UserError(
                f"--where {part} is no comparison: write one like m>=1024 or method=moco, several joined by and"
            )
        tests.append(_test(_column(match[1], lines), match[2], match[3]))
    return tests


def _test(key: str, sign: str, text: str) -> Callable[[Line], bool]:
    try:
        wanted = json.loads(text)
    except ValueError:
        wanted = text.strip("'\"")
    size = _size(wanted)
    if size is None and sign not in ("=", "==", "!="):
        raise UserError(f"--where {key}{sign}{text} compares words by size: use = or !=")

    def test(line: Line) -> bool:
        value = _value(key, line.row, line.flat)
        number = _size(value)
        if size is not None and number is not None:
            return SIGNS[sign](number, size)
        return sign in ("=", "==", "!=") and SIGNS[sign](plain(value), plain(wanted))

    return test


# Formats


def cell(value: Any) -> str:
    """A table's cell as text: percent with two decimals, deviation and count where there are several seeds."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return mean(value) if value["std"] is None else f"{mean(value)} (n={value['n']})"
    return str(value)


def mean(score: Mapping[str, Any]) -> str:
    """A score's mean with two decimals, with its deviation where there are several seeds."""
    return f"{score['mean']:.2f}" if score["std"] is None else f"{score['mean']:.2f} ± {score['std']:.2f}"


def render(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """The table as markdown, csv, latex or json.

    Raises:
        UserError: another format; parquet is no text, see write_parquet.
    """
    if form == "json":
        return json.dumps(list(rows), indent=1)
    if form not in FORMATS:
        raise UserError(f"format {form} is unknown: give one of {', '.join(FORMATS)}")
    if form == "parquet":
        raise UserError("parquet is no text: give --out FILE")
    names = list(rows[0]) if rows else ["Protocol", "Top-1", "Top-5", "path"]
    cells = [[cell(row[name]) for name in names] for row in rows]
    if form == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([names, *cells])
        return out.getvalue().rstrip("\n")
    if form == "latex":
        return _latex(names, cells)
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _latex(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A booktabs tabular."""
    escapes = {c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    escapes |= {"^": r"\textasciicircum{}", "±": r"$\pm$"}
    line = lambda texts: " & ".join("".join(escapes.get(c, c) for c in text) for text in texts) + r" \\"  # noqa: E731
    head = [
        r"\begin{tabular}{" + "l" * len(names) + "}",
        r"\toprule",
        line(names).replace("tau", r"$\tau$"),
        r"\midrule",
    ]
    return "\n".join([*head, *map(line, cells), r"\bottomrule", r"\end{tabular}"])


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows with `Top-1 mean`, `Top-1 std` and `Top-1 n` for each accuracy; a column of several types becomes text.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet needs pyarrow: pip install pyarrow") from error
    flat: list[Row] = []
    for row in rows:
        line: Row = {}
        for name, value in row.items():
            if name in ACCURACIES:
                line |= {f"{name} {part}": (value or {}).get(part) for part in ("mean", "std", "n")}
            else:
                line[name] = value
        flat.append(line)
    columns = {name: [row[name] for row in flat] for name in (flat[0] if flat else ())}
    for name, values in columns.items():
        kinds = {float if type(value) is int else type(value) for value in values if value is not None}
        if len(kinds) > 1:
            columns[name] = [None if value is None else plain(value) for value in values]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


MARKS = ("<!-- table -->", "<!-- /table -->")


def rewrite_block(path: Path, text: str) -> None:
    """Puts the text between the marks in the Markdown file at `path`.

    Raises:
        UserError: there is no such file, or it has no such marks.
    """
    try:
        before, _, rest = path.read_text().partition(MARKS[0])
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise UserError(f"{path} has no {MARKS[0]} followed by {MARKS[1]}: write both where the table should stand")
    write_atomic(path, f"{before}{MARKS[0]}\n{text}\n{mark}{after}")
