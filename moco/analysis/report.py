"""python -m moco report: one HTML file with the answer in words, the result table and charts; opens without a network.

The page is report.html.j2; charts are plotly's, its script embedded once. Colours in figures are names of CSS variables
(--c0), which the page fills in for light and dark.
"""

import datetime
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from moco.analysis import charts as panels
from moco.analysis.records import PROTOCOLS, Entry, cost, is_number, look, plain, spread, state_counts, swept, varying
from moco.analysis.summary import Configuration, configurations, ranked, sentences
from moco.analysis.table import mean, published
from moco.errors import UserError
from moco.io import write_atomic
from moco.runs.run import other_folders
from moco.runs.sweep import select

LABELLED = 8  # so many points are labelled in a scatter chart
NAMED = 100  # so many unfinished runs are listed


def write(runs_dir: Path | str, names: Sequence[str], out: Path) -> list[str]:
    """Writes the report of all runs, or of these sweeps, ids and folders; returns the answer in sentences.

    Raises:
        UserError: plotly or jinja2 is not installed, a name is unknown, or there are no runs.
        OSError: `out` cannot be written.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("report needs plotly and jinja2: pip install plotly jinja2") from error
    runs = select(runs_dir, names)
    entries, stands = look(runs)
    answer = sentences(entries, stands)
    if not names and (others := other_folders(runs_dir)):
        answer.append(f"No runs, without a config.yaml: {', '.join(others[:8])}{' ...' if len(others) > 8 else ''}.")
    found = configurations(entries)
    keys = varying([c.flat for c in found])
    keys = [key for key in keys if key != "seed"] or ["method.name"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    unfinished = _unfinished(entries, stands)
    page = environment.get_template("report.html.j2").render(
        title=", ".join(names) or f"All runs in {Path(runs_dir).name}",
        answer=answer,
        plotly=get_plotlyjs(),
        counts=f"{len(runs)} runs: {state_counts(stands)}",
        when=datetime.datetime.now().strftime("%d %b %Y, %H:%M"),
        shared=panels.shared([c.flat for c in found], keys),
        unfinished=unfinished[:NAMED],
        more=max(0, len(unfinished) - NAMED),
        data={
            "table": _table(found, keys, dict(zip((e.run.folder for e in entries), stands))),
            "charts": _charts(found),
        },
    )
    write_atomic(out, page)
    return answer


def _unfinished(entries: Sequence[Entry], stands: Sequence[str]) -> list[dict[str, str]]:
    """State, folder and reason of each run without a usable result."""
    found = []
    for entry, state in zip(entries, stands):
        if entry.result is None:
            said = "" if entry.problem or state in ("running", "queued") else " ".join(entry.run.log_tail(1))[:300]
            why = entry.problem if state == "damaged" else said
            found.append({"state": state, "folder": entry.run.folder.name, "why": why})
    return found


# The table: a row a configuration, each cell a text and what it is sorted by


def _table(found: Sequence[Configuration], keys: Sequence[str], stands: dict[Path, str]) -> dict[str, Any]:
    metrics = {
        f"{prefix}/top{k}": f"{label} top-{k}"
        for prefix, label in PROTOCOLS.items()
        if any(c.values(f"{prefix}/top1") for c in found)
        for k in (1, 5)
    }
    partly = any(entry.result is None for c in found for entry in c.entries)
    heads = [{"name": panels.name(key), "kind": "setting"} for key in keys]
    heads += [{"name": label, "kind": "accuracy"} for label in metrics.values()]
    several = any(len(c.entries) > 1 for c in found)
    heads += [{"name": "seeds", "kind": "number"}] * several
    heads += [{"name": "minutes", "kind": "number"}, {"name": "images/s", "kind": "number"}]
    heads += [{"name": "state", "kind": "text"}] * partly + [{"name": "runs", "kind": "text"}]
    order = ranked(found, "knn/top1")
    rows, seen = [], set()
    for c in [*order, *(c for c in found if not c.values("knn/top1"))]:
        minutes, speed = costs(c)
        cells = [_setting(c.flat.get(key)) for key in keys]
        cells += [_cell(c.score(metric)) for metric in metrics]
        cells += [[str(seeds), seeds] for seeds in [len(c.values("knn/top1"))] * several]
        cells += [
            [f"{minutes:.1f}", minutes] if minutes else ["", None],
            [f"{speed:.0f}", speed] if speed else ["", None],
        ]
        found_states = [stands[entry.run.folder] for entry in c.entries]
        state = "" if set(found_states) == {"done"} else state_counts(found_states)
        cells += [[state, state or None]] * partly + [[" ".join(entry.run.id for entry in c.entries)] * 2]
        row: dict[str, Any] = {"cells": cells}
        theirs, source = _published(c, metrics)
        if source and source not in seen:
            seen.add(source)
            blank = [["published", ""], *[["", None]] * (len(keys) - 1)]
            row["published"] = [*blank, *theirs, *[["", None]] * (several + 2 + partly), [source, source]]
        rows.append(row)
    return {"heads": heads, "rows": rows}


def _published(c: Configuration, metrics: dict[str, str]) -> tuple[list[Any], str]:
    """The cells of the metrics that the recipe's source reports, and the source."""
    numbers: dict[str, Any] = {}
    where = ""
    for prefix, label in PROTOCOLS.items():
        quoted, source = published(c.entries, label)
        numbers |= {f"{prefix}/{key.lower().replace('-', '')}": value for key, value in quoted.items()}
        where = where or source
    return [_cell(numbers.get(metric)) for metric in metrics], where if set(numbers) & set(metrics) else ""


def _setting(value: Any) -> list[Any]:
    text = "" if value is None else plain(value)
    return [text, value if is_number(value) else text or None]


def _cell(score: dict[str, float] | None) -> list[Any]:
    return [mean(score), score["mean"]] if score else ["", None]


def costs(c: Configuration) -> tuple[float | None, float | None]:
    """Mean minutes and images a second over the finished seeds, None where unknown."""
    pairs = [cost(entry, entry.result) for entry in c.entries if entry.result]
    seconds, speeds = [s for s, _ in pairs if s], [v for _, v in pairs if v]
    return spread(seconds)["mean"] / 60 if seconds else None, spread(speeds)["mean"] if speeds else None


# Charts: plotly's traces and layout; `metric` says for which choice of metric a chart is shown, None for each


def _charts(found: Sequence[Configuration]) -> list[dict[str, Any]]:
    labels = {prefix: f"{label} top-1" for prefix, label in PROTOCOLS.items()}
    learning = panels.learning(found)
    charts: list[dict[str, Any] | None] = [
        _curves(learning, "knn/top1", "kNN top-1 over the epochs", "kNN top-1 (%)"),
        _curves(learning, "train/loss", "Training loss over the epochs", "loss"),
    ]
    for prefix, label in labels.items():
        metric = f"{prefix}/top1"
        if not ranked(found, metric):
            continue
        own: list[dict[str, Any] | None] = [_against(panel, label) for panel in panels.panels(found, metric)]
        own += [_heat(found, metric, label), _parallel(found, metric, label), *_costs(found, metric, label)]
        charts += [{**chart, "metric": label} for chart in own if chart]
    return [chart for chart in charts if chart]


def _chart(title: str, traces: list[Any], x: dict[str, Any], y: dict[str, Any], note: str = "") -> dict[str, Any]:
    return {"title": title, "note": note, "metric": None, "data": traces, "layout": {"xaxis": x, "yaxis": y}}


def _grey(lines: Iterable[tuple[list[Any], list[Any]]], **more: Any) -> dict[str, Any]:
    """One trace for many thin lines, a gap between each two."""
    x: list[Any] = []
    y: list[Any] = []
    for xs, ys in lines:
        x += [*xs, None]
        y += [*ys, None]
    line = {"color": "--grey", "width": 1}
    return {"x": x, "y": y, "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False, **more}


def _curves(learning: Sequence[panels.Learning], metric: str, title: str, label: str) -> dict[str, Any] | None:
    traces: list[dict[str, Any]] = []
    grey = []
    for name, colour, runs in learning:
        curves = [curve for lines in runs if (curve := panels.curve(lines, metric, colour))[0]]
        if colour is None:
            grey += curves
            continue
        for i, (x, y) in enumerate(curves):
            traces.append(
                {
                    "x": x,
                    "y": y,
                    "name": name,
                    "showlegend": i == 0,
                    "mode": "lines+markers" if len(x) < 15 else "lines",
                    "line": {"color": f"--c{colour}", "width": 2 if len(curves) == 1 else 1.3},
                    "marker": {"color": f"--c{colour}", "size": 5},
                }
            )
    if not traces and not grey:
        return None
    note = f"In colour the best {panels.BEST} by kNN; grey: {len(grey)} runs of the others" if grey else ""
    return _chart(
        title, [_grey(grey)] * bool(grey) + traces, {"title": {"text": "epoch"}}, {"title": {"text": label}}, note
    )


def _against(panel: panels.Panel, label: str) -> dict[str, Any]:
    """A metric against a setting, with error bars over seeds."""
    traces: list[dict[str, Any]] = []
    lines = panels.coloured(panel.lines)
    dull = [(line.x, line.y) for line, number in lines if number is None]
    for line, number in lines:
        if number is not None:
            colour = f"--c{number}"
            crowd = len(line.x) > panels.SCATTER and not panel.alone
            traces.append(
                {
                    "x": line.x,
                    "y": line.y,
                    "name": line.label,
                    "showlegend": len(panel.lines) > 1,
                    "mode": "lines+markers" if panel.joined else "markers",
                    "line": {"color": colour, "width": 2},
                    "marker": {"color": colour, "size": 5 if crowd else 8, "opacity": 0.6 if crowd else 1},
                }
            )
            if any(d is not None for d in line.deviation):
                bars = {"type": "data", "array": line.deviation, "color": colour, "thickness": 1.5, "width": 4}
                traces[-1]["error_y"] = bars
    axis: dict[str, Any] = {"title": {"text": panels.name(panel.key)}, "type": panel.axis}
    values = {value for line in panel.lines for value in line.x}
    if panel.axis == "category":
        axis |= {"categoryorder": "array", "categoryarray": panels.ordered(values)}
    elif len(values) <= panels.DISTINCT:
        axis |= {"tickvals": sorted(values), "ticktext": [plain(value) for value in sorted(values)]}
    note = "" if panel.alone else "All configurations: the setting hardly ever varies alone"
    if any(d is not None for line in panel.lines for d in line.deviation):
        note = "; ".join(filter(None, (note, "bars: one standard deviation over seeds")))
    title = f"{label} against {panels.name(panel.key)}"
    if len(values) > panels.DISTINCT and panel.axis == "log":
        places = panels.ticks(min(values), max(values), "log")
        axis |= {"tickvals": places, "ticktext": [f"{place:g}" for place in places]}
    return _chart(title, [_grey(dull)] * bool(dull) + traces, axis, {"title": {"text": f"{label} (%)"}}, note)


def _heat(found: Sequence[Configuration], metric: str, label: str) -> dict[str, Any] | None:
    grid = panels.heat(found, metric)
    if not grid:
        return None
    names = (panels.name(grid.x_key), panels.name(grid.y_key))
    trace = {
        "type": "heatmap",
        "x": [plain(x) for x in grid.xs],
        "y": [plain(y) for y in grid.ys],
        "z": grid.z,
        "text": [["" if value is None else f"{value:.2f}" for value in row] for row in grid.z],
        "texttemplate": "%{text}" if len(grid.xs) <= 12 else None,
        "colorscale": "sequential",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": f"{names[0]}=%{{x}}<br>{names[1]}=%{{y}}<br>%{{z:.2f}} %<extra></extra>",
        "colorbar": {"thickness": 12, "title": {"text": "%"}},
    }
    x, y = ({"title": {"text": text}, "type": "category", "showgrid": False} for text in names)
    return _chart(f"{label} by {names[0]} and {names[1]}", [trace], x, y)


def _parallel(found: Sequence[Configuration], metric: str, label: str) -> dict[str, Any] | None:
    """Parallel coordinates, where more than two settings were swept."""
    scored = ranked(found, metric)
    keys = swept([c.flat for c in scored])
    if len(keys) < 3:
        return None
    means = [(c.score(metric) or {})["mean"] for c in scored]
    dimensions = [_dimension(key, [c.flat.get(key) for c in scored]) for key in keys]
    dimensions.append({"label": f"{label} (%)", "values": means})
    # Lines that come later lie on top: the best.
    for dimension in dimensions:
        dimension["values"] = dimension["values"][::-1]
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {"color": means[::-1], "colorscale": "sequential", "showscale": False},
    }
    note = "Drag along an axis to keep the lines that pass there; the best in the strongest colour"
    return {**_chart("All settings together", [trace], {}, {}, note), "wide": 110 * len(dimensions)}


def _dimension(key: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis of parallel coordinates; of a logarithmic or category axis the ticks carry the values."""
    kind, name = panels.axis(values), panels.name(key)
    if kind == "category":
        texts = panels.ordered({plain(value) for value in values})
        places = [texts.index(plain(value)) for value in values]
        return {"label": name, "values": places, "tickvals": list(range(len(texts))), "ticktext": texts}
    ticks = sorted(set(values))
    ticks = ticks if len(ticks) <= panels.DISTINCT else panels.ticks(ticks[0], ticks[-1], kind)
    place = math.log10 if kind == "log" else float
    texts = [f"{tick:g}" for tick in ticks]
    return {
        "label": name,
        "values": [place(v) for v in values],
        "tickvals": [place(t) for t in ticks],
        "ticktext": texts,
    }


def _costs(found: Sequence[Configuration], metric: str, label: str) -> list[dict[str, Any] | None]:
    """Accuracy against minutes and against images a second."""
    made: list[dict[str, Any] | None] = []
    scored = ranked(found, metric)
    axes = {"minutes": "minutes of training with its evaluations", "speed": "training images a second"}
    for i, (short, name) in enumerate(axes.items()):
        points = [(costs(c)[i], (c.score(metric) or {})["mean"], c.label) for c in scored]
        points = [point for point in points if point[0]]
        if len(points) > 1:
            x, y, texts = (list(part) for part in zip(*points))
            trace = {
                "x": [float(f"{value:.5g}") for value in x],
                "y": y,
                "text": texts,
                "showlegend": False,
                "mode": "markers+text" if len(points) <= LABELLED else "markers",
                "textposition": "top center",
                "marker": {"color": "--c0", "size": 8 if len(points) <= LABELLED else 5, "opacity": 0.7},
                "cliponaxis": False,
                "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.2f} %<extra></extra>",
            }
            axis = {"title": {"text": name}, "type": "log" if max(x) >= 10 * min(x) else "linear"}
            made.append(_chart(f"{label} against {short}", [trace], axis, {"title": {"text": f"{label} (%)"}}))
    return made
