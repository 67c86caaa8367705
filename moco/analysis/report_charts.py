"""The report's charts: plotly's traces and layouts as plain data. Imports no plotly: the page draws them."""

import math
from collections.abc import Iterable, Sequence

from moco.analysis import charts as shown
from moco.analysis.configurations import Configuration, scored
from moco.analysis.courses import learning
from moco.analysis.importance import FORESTS, importance
from moco.analysis.numbers import is_number
from moco.analysis.report_curves import curves
from moco.analysis.report_traces import Axis, Chart, Trace, chart, escaped, grey, titled
from moco.protocols import KNN, REPRESENTATION, TABULATED
from moco.runs.settings import plain, swept

LABELLED, NUMBERED = 8, 40  # so many points of a scatter chart are labelled, or have numbers beside a key
ALIKE = 1.1  # costs that differ by a smaller factor teach nothing
PIXELS = 110  # an axis of parallel coordinates needs so many


def charts(found: Sequence[Configuration]) -> list[Chart]:
    """All charts of these configurations. Paused ones are marked in curves and heat map, and left out of the others."""
    lines, rankme = learning(found), REPRESENTATION["rankme"]
    made = [
        curves(lines, KNN.top1, f"{KNN.title} top-1 over the epochs", f"{KNN.title} top-1 (%)"),
        curves(lines, "train/loss", "Training loss over the epochs", "loss"),
        curves(lines, rankme.key, f"{rankme.title} of the backbone over the epochs", rankme.title),
    ]
    paused = any(c.at_rung for c in found)
    for protocol in TABULATED:
        metric, label = protocol.top1, f"{protocol.title} top-1"
        if scored(found, metric):
            panels = [_against(panel, label) for panel in shown.panels(found, metric)]
            others = [_importance(found, metric, label), _parallel(found, metric, label), *_costs(found, metric, label)]
            own = [*_of_finished(panels, paused), _heat(found, metric, label), *_of_finished(others, paused)]
            made += [{**one, "metric": label} for one in own if one]
    return [one for one in made if one]


def _of_finished(made: Iterable[Chart | None], paused: bool) -> list[Chart]:
    """The charts, where there are paused runs with the note that these are not in them."""
    note = "finished runs alone" if paused else ""
    return [{**one, "note": "; ".join(filter(None, [one["note"], note]))} for one in made if one]


def _against(panel: shown.Panel, label: str) -> Chart | None:
    """A metric against a setting, with error bars over seeds."""
    lines = shown.in_legend(panel)
    dull = grey((line.x, line.y) for line, number in lines if number is None)
    traces = [_line(line, panel, f"--c{number}") for line, number in lines if number is not None]
    notes = [] if panel.alone else ["All configurations: the setting hardly ever varies alone"]
    if any(_has_bars(line) for line in panel.lines):
        notes.append("bars: one standard deviation over seeds")
    name = escaped(shown.name(panel.key))
    return chart(f"{label} against {name}", dull + traces, _setting(panel), titled(f"{label} (%)"), "; ".join(notes))


def _place(x: shown.Place) -> shown.Place:
    return escaped(x) if isinstance(x, str) else x


def _has_bars(line: shown.Line) -> bool:
    return any(deviation is not None for deviation in line.deviation)


def _line(line: shown.Line, panel: shown.Panel, colour: str) -> Trace:
    """A coloured line of a panel."""
    crowd = len(line.x) > shown.SCATTER and not panel.alone
    trace: Trace = {
        "x": [_place(x) for x in line.x],
        "y": line.y,
        "name": escaped(line.label),
        "showlegend": len(panel.lines) > 1,
        "mode": "lines+markers" if panel.joined else "markers",
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 5 if crowd else 8, "opacity": 0.6 if crowd else 1},
    }
    if _has_bars(line):
        bars = {"type": "data", "array": line.deviation, "color": colour, "thickness": 1.5, "width": 4}
        trace["error_y"] = bars
    return trace


def _setting(panel: shown.Panel) -> Axis:
    """The axis of a panel's setting."""
    axis = titled(escaped(shown.words(panel.key)), type=panel.axis)
    places = panel.places
    if panel.axis == "category":
        return axis | {"categoryorder": "array", "categoryarray": [escaped(word) for word in panel.words]}
    if len(places) <= shown.DISTINCT:
        return axis | {"tickvals": places, "ticktext": [plain(place) for place in places]}
    if panel.axis == "log":
        ticks = shown.ticks(places[0], places[-1], "log")
        return axis | {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return axis


def _heat(found: Sequence[Configuration], metric: str, label: str) -> Chart | None:
    """The grid of two settings, where exactly two were swept; cells of paused runs have their value and no colour."""
    grid = shown.heat(found, metric)
    if not grid:
        return None
    x_name, y_name = escaped(shown.name(grid.x_key)), escaped(shown.name(grid.y_key))
    common: Trace = {
        "type": "heatmap",
        "x": [plain(x) for x in grid.xs],
        "y": [plain(y) for y in grid.ys],
        "texttemplate": "%{text}" if len(grid.xs) <= shown.DISTINCT else None,
        "xgap": 2,
        "ygap": 2,
    }
    where = f"{x_name}=%{{x}}<br>{y_name}=%{{y}}<br>"
    traces: list[Trace] = [
        {
            **common,
            "z": grid.z,
            "text": [["" if value is None else f"{value:.2f}" for value in row] for row in grid.z],
            "colorscale": "sequential",
            "hovertemplate": f"{where}%{{z:.2f}} %<extra></extra>",
            "colorbar": {"thickness": 12, "title": {"text": "%"}},
        }
    ]
    paused = any(at for row in grid.rungs for at in row)
    if paused:
        traces.append(common | _rungs(grid) | {"hovertemplate": f"{where}paused: %{{text}}<extra></extra>"})
    x, y = (
        titled(text, type="category", showgrid=False)
        for text in (escaped(shown.words(key)) for key in (grid.x_key, grid.y_key))
    )
    # Both axes have all values in their order, whichever of the traces holds them.
    x |= {"categoryorder": "array", "categoryarray": common["x"]}
    y |= {"categoryorder": "array", "categoryarray": common["y"]}
    note = "Grey: paused, with the value at that epoch, which is not compared" if paused else ""
    return chart(f"{label} by {x_name} and {y_name}", traces, x, y, note)


def _rungs(grid: shown.Heat) -> Trace:
    """What is special to the cells of paused runs."""
    texts = [[f"{at.score.mean:.2f}<br>at epoch {at.reached.epoch}" if at else "" for at in row] for row in grid.rungs]
    return {
        "z": [[None if at is None else 0 for at in row] for row in grid.rungs],
        "text": texts,
        "textfont": {"color": "--soft", "size": 9},
        "colorscale": "uncoloured",
        "showscale": False,
    }


def _parallel(found: Sequence[Configuration], metric: str, label: str) -> Chart | None:
    """Parallel coordinates, where more than two settings were swept."""
    pairs = scored(found, metric)[::-1]  # lines that come later lie on top: the best
    keys = swept([c.flat for c, _ in pairs])
    if len(keys) < 3:
        return None
    means = [score.mean for _, score in pairs]
    dimensions = [_dimension(key, [c.flat.get(key) for c, _ in pairs]) for key in keys]
    dimensions.append({"label": f"{label} (%)", "values": means})
    line = {"color": means, "colorscale": "sequential", "showscale": False}
    trace: Trace = {"type": "parcoords", "dimensions": dimensions, "line": line}
    note = "Drag along an axis to keep the lines that pass there; the best in the strongest colour"
    return chart("All settings together", [trace], {}, {}, note, PIXELS * len(dimensions))


def _dimension(key: str, values: Sequence[object]) -> Axis:
    """An axis of parallel coordinates; on a logarithmic or category axis the ticks carry the values."""
    kind, name = shown.axis(values), escaped(shown.name(key))
    numbers = [value for value in values if is_number(value)]
    if kind == "category":
        texts = shown.ordered({plain(value) for value in values})
        places = [texts.index(plain(value)) for value in values]
        return {
            "label": name,
            "values": places,
            "tickvals": list(range(len(texts))),
            "ticktext": [escaped(text) for text in texts],
        }
    ticks = sorted(set(numbers))
    ticks = ticks if len(ticks) <= shown.DISTINCT else shown.ticks(ticks[0], ticks[-1], kind)
    place = math.log10 if kind == "log" else float
    return {
        "label": name,
        "values": [place(number) for number in numbers],
        "tickvals": [place(tick) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _importance(found: Sequence[Configuration], metric: str, label: str) -> Chart | None:
    """What each setting matters; None where that is not known."""
    try:
        ranking = importance(found, metric)[::-1]  # the first bar is drawn lowest
    except ImportError:
        note = "It takes scikit-learn, which is not installed: pip install scikit-learn"
        return chart(f"What each setting matters for {label}", [], {}, {}, note)
    if not ranking:
        return None
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [float(f"{one.mean:.4g}") for one in ranking],
        "y": [escaped(shown.name(one.key)) for one in ranking],
        "error_x": {"type": "data", "array": [float(f"{one.deviation:.4g}") for one in ranking], "color": "--ink"},
        "marker": {"color": "--c0"},
        "width": 0.5,
        "showlegend": False,
        "hovertemplate": "%{y}: %{x:.2f} points<extra></extra>",
    }
    note = (
        f"By how many points a random forest's predictions err more once a setting's values are shuffled among the "
        f"configurations; bars: one standard deviation over {FORESTS} forests"
    )
    x = titled("points of error")
    return chart(f"What each setting matters for {label}", [trace], x, {"type": "category"}, note)


def _costs(found: Sequence[Configuration], metric: str, label: str) -> list[Chart | None]:
    """Accuracy against minutes, and against images per second where that does not follow from the minutes."""
    pairs = scored(found, metric)
    minutes = [(c.minutes, score.mean, c.label) for c, score in pairs]
    speeds = [(c.images_per_second, score.mean, c.label) for c, score in pairs]
    images = [c.minutes * c.images_per_second for c, _ in pairs if c.minutes and c.images_per_second]
    return [
        _cost(minutes, f"{label} against minutes", "minutes of training with its evaluations", label),
        _cost(speeds if _differ(images) else [], f"{label} against speed", "training images per second", label),
    ]


def _differ(costs: Sequence[float]) -> bool:
    return len(costs) > 1 and max(costs) > ALIKE * min(costs)


def _cost(points: Sequence[tuple[float | None, float, str]], title: str, name: str, label: str) -> Chart | None:
    """A scatter chart of (cost, accuracy, label), the best first; None where the costs hardly differ.

    Few points have their labels beside them. More have numbers, which a key explains on touch screens and on paper, where
    nothing hovers.
    """
    known = [(x, y, escaped(text)) for x, y, text in points if x]
    xs = [x for x, _, _ in known]
    if not _differ(xs):
        return None
    few = len(known) <= LABELLED
    trace: Trace = {
        "x": [float(f"{x:.5g}") for x in xs],
        "y": [y for _, y, _ in known],
        "text": [text if few else str(i) if i <= NUMBERED else "" for i, (_, _, text) in enumerate(known, 1)],
        "customdata": [text for _, _, text in known],
        "showlegend": False,
        "mode": "markers+text",
        "textposition": "top center",
        "textfont": {"size": 12 if few else 9},
        "marker": {"color": "--c0", "size": 8 if few else 5, "opacity": 0.7},
        "cliponaxis": False,
        "hovertemplate": "%{customdata}<br>%{x:.4g}, %{y:.2f} %<extra></extra>",
    }
    kind = "log" if max(xs) >= 10 * min(xs) else "linear"
    made = chart(title, [trace], titled(name, type=kind), titled(f"{label} (%)"))
    return made if few else {**made, "key": [text for x, _, text in points if x][:NUMBERED]}
