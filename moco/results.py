"""The result table: every finished run by kNN and by linear evaluation, seeds folded, the published row beside ours.

Reads run folders alone and imports no torch.
"""

import csv
import io
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moco.config import LABELS, UserError
from moco.files import write_atomic
from moco.runs import NOT_IDENTITY, Run

PROTOCOLS = {"knn": "kNN", "linear": "Linear", "linear_cached": "Linear (cached)"}
PROBES = {label: protocol for protocol, label in LABELS.items()}
PUBLISHED = {"kNN": "knn", "Linear": "linear"}
# Settings that have a column of their own, by their key in the flat configuration.
COLUMNS = {
    "method.name": "Method", "model.name": "Model", "data.name": "Data", "feature_dim": "Feature Dim", "m": "m",
    "momentum": "Momentum", "batch_size": "Batch", "epochs": "Epochs", "temperature": "tau", "k": "K",
}  # fmt: skip
FORMATS = ("markdown", "csv", "latex", "json")
Finished = tuple[dict[str, Any], Run, dict[str, Any]]  # flat configuration, run, result


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration less what cannot change the result."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return {key: value for key, value in flatten(kept).items() if key != "data.root"}


def varying(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which the configurations differ, choices of groups first.

    Left out are interpolated copies of root keys (method.m), and what another choice of a group brings along (method.splits
    of MoCo beside SimCLR), which its name says already.
    """
    keys = dict.fromkeys(key for flat in flats for key in flat)
    roots = {key for key in keys if "." not in key}
    found = [
        key
        for key in keys
        if not key.endswith("._target_")
        and not (key.startswith("method.") and key.partition(".")[2] in roots)
        and _varies(key, flats)
    ]
    return sorted(found, key=lambda key: not key.endswith(".name"))


def _varies(key: str, flats: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the key differs; one of a group, among the configurations that share the group's choice."""
    whole = "." not in key or key.endswith(".name")
    seen: dict[Any, set[str]] = {}
    for flat in flats:
        if whole or key in flat:
            choice = None if whole else flat.get(f"{key.partition('.')[0]}.name")
            seen.setdefault(choice, set()).add(json.dumps(flat.get(key)))
    return any(len(values) > 1 for values in seen.values())


def describe(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each configuration the settings in which it differs from the others, as people would type them."""
    keys = varying(flats)
    return [
        " ".join(f"{key.removesuffix('.name')}={plain(flat[key])}" for key in keys if flat.get(key) is not None)
        for flat in flats
    ]


def plain(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def table(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Rows with the seed's columns for all finished runs; other settings get a column where they vary.

    Top-1, Top-5 and Best hold {"mean", "std", "n"} in percent over the seeds of a configuration; Best is the best epoch's
    kNN, never what counts.
    """
    done = [finished for run in runs if (finished := _finished(run))]
    groups: dict[str, list[Finished]] = {}
    for flat, run, result in done:
        groups.setdefault(json.dumps({**flat, "seed": None}, sort_keys=True), []).append((flat, run, result))
    extra = [key for key in varying([flat for flat, _, _ in done]) if key not in COLUMNS and key != "seed"]
    rows = [row for members in groups.values() for row in _rows(members, extra)]
    # A published row stands once, whatever was varied around its recipe.
    return list({(row["Protocol"], row["path"], str(row["Top-1"])): row for row in rows}.values())


def _finished(run: Run) -> Finished | None:
    """What the table needs of a finished run; a damaged or foreign one is named and left out."""
    if (result := run.result) is None:
        return None
    try:
        flat = settings(run.config)
        lacking = [key for key in ("method.name", "model.name", "data.name") if key not in flat]
        lacking += [key for key in ("knn/top1", "params", "multiply_adds") if key not in result]
        if lacking:
            raise UserError(f"{run.folder} lacks {', '.join(lacking)}")
    except (UserError, TypeError) as error:
        print(f"warning: left out of the table: {error}", file=sys.stderr)
        return None
    return flat, run, result


def _rows(members: Sequence[Finished], extra: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one configuration: a row a protocol, each followed by the published one where there is one."""
    flat = members[0][0]
    recipe: dict[str, Any] = next(filter(None, (run.config.get("recipe") for _, run, _ in members)), {})
    rows = []
    for prefix, protocol in PROTOCOLS.items():
        scored = [r for _, _, r in members if f"{prefix}/top1" in r]
        if not scored:
            continue
        paths, result = [run.folder.name for _, run, r in members if f"{prefix}/top1" in r], scored[0]
        part = "" if prefix == "knn" else "_backbone"
        head = result["probes"][PROBES[prefix]]["params_classifier"] if part else 0
        row: dict[str, Any] = {"Protocol": protocol}
        row |= {COLUMNS[key]: flat.get(key) for key in ("method.name", "model.name", "data.name")}
        row |= {"Params": f"{(result['params' + part] + head) / 1e6:.2f} M"}
        row |= {"FLOPs": f"{(result['multiply_adds' + part] + head) / 1e9:.3g} G"}
        row |= {name: flat.get(key) for key, name in COLUMNS.items() if "." not in key}
        row |= {key: flat.get(key) for key in extra}
        row |= {
            "Top-1": spread([r[f"{prefix}/top1"] for r in scored]),
            "Top-5": spread([r[f"{prefix}/top5"] for r in scored]),
        }
        best = [r["best"]["knn/top1"] for r in scored] if prefix == "knn" else []
        row |= {"Best": spread(best) if best else None, "path": " ".join(paths)}
        rows.append(row)
        numbers = recipe.get(PUBLISHED.get(protocol, ""))
        if numbers:
            published = dict.fromkeys(row) | {"Protocol": f"{protocol}, published", "path": recipe.get("source")}
            if recipe.get("note"):
                published["path"] = f"{recipe['source']} ({recipe['note']})"
            published |= {key: spread([v]) for key, v in zip(("Top-1", "Top-5"), numbers) if v is not None}
            rows.append(published)
    return rows


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (None for one) and count."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "n": len(values)}  # type: ignore[dict-item]


def cell(value: Any) -> str:
    """A table's cell as text: percent with two decimals, deviation and count where there are several seeds."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        text = f"{value['mean']:.2f}"
        return text if value["std"] is None else f"{text} ± {value['std']:.2f} (n={value['n']})"
    return str(value)


def render(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """The table as markdown, csv, latex or json.

    Raises:
        UserError: another format.
    """
    if form == "json":
        return json.dumps(list(rows), indent=1)
    if form not in FORMATS:
        raise UserError(f"format {form} is unknown: give one of {', '.join(FORMATS)}")
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
