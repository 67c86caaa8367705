"""What the report's charts are made of: plotly's traces and layouts as plain data."""

import html
from collections.abc import Iterable, Sequence
from typing import NotRequired, TypeAlias, TypedDict

from moco.analysis.charts import Place

Trace: TypeAlias = dict[str, object]
Axis: TypeAlias = dict[str, object]


class Chart(TypedDict):
    """A chart of the page; `metric`: shown for that choice of metric, None for each; `wide`: its least width in pixels; `key`:
    what the numbers in it stand for, from 1 on."""

    title: str
    note: str
    metric: str | None
    data: list[Trace]
    layout: dict[str, Axis]
    wide: int | None
    key: NotRequired[list[str]]


def chart(title: str, traces: list[Trace], x: Axis, y: Axis, note: str = "", wide: int | None = None) -> Chart:
    layout = {"xaxis": x, "yaxis": y}
    return {"title": title, "note": note, "metric": None, "data": traces, "layout": layout, "wide": wide}


def titled(text: str, **more: object) -> Axis:
    return {"title": {"text": text}, **more}


def epochs(end: float) -> Axis:
    """An axis of epochs up to this one, with whole ticks, at most some ten of them."""
    step = next(step for power in range(12) for base in (1, 2, 5) if 10 * (step := base * 10**power) >= end)
    return titled("epoch", tick0=0, dtick=step, tickformat="d")


def escaped(text: str) -> str:
    """A text from a run's folder as plotly is to show it, which takes text for markup."""
    return html.escape(text, quote=False)


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
