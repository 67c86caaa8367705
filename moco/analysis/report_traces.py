"""What the report's charts are made of: plotly's traces and layouts as plain data."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypedDict

from moco.analysis.charts import Place

Trace: TypeAlias = dict[str, object]
Axis: TypeAlias = dict[str, object]


class Chart(TypedDict):
    """A chart of the page; `metric`: shown for that choice of metric, None for each; `wide`: its least width in pixels."""

    title: str
    note: str
    metric: str | None
    data: list[Trace]
    layout: dict[str, Axis]
    wide: int | None


def chart(title: str, traces: list[Trace], x: Axis, y: Axis, note: str = "", wide: int | None = None) -> Chart:
    layout = {"xaxis": x, "yaxis": y}
    return {"title": title, "note": note, "metric": None, "data": traces, "layout": layout, "wide": wide}


def titled(text: str, **more: object) -> Axis:
    return {"title": {"text": text}, **more}


def grey(lines: Iterable[tuple[Sequence[Place], Sequence[float]]]) -> list[Trace]:
    """One trace for many thin lines, with a gap between each two; none where there are no lines."""
    x: list[Place | None] = []
    y: list[float | None] = []
    for xs, ys in lines:
        x += [*xs, None]
        y += [*ys, None]
    line = {"color": "--grey", "width": 1}
    trace: Trace = {"x": x, "y": y, "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}
    return [trace] if x else []
