"""The report's learning curves."""

from collections.abc import Mapping, Sequence

from moco.analysis import charts as shown
from moco.analysis.courses import Curve, Drawn, Learning, course
from moco.analysis.report_traces import Chart, Trace, chart, epochs, escaped, grey, titled

MARKED = 15  # a curve of fewer points shows them
CLEAR = ":2e"  # behind a colour's name: how opaque a band is, in hexadecimal


def curves(learning: Sequence[Learning], metric: str, title: str, label: str) -> Chart | None:
    """The mean over seeds with a band, which ends with an open circle where runs are paused; of one seed its curve.

    If configurations are many, the best few are in colour. Traces of single seeds are marked as such: the page draws them
    when it is asked to.
    """
    drawn = [(one, found) for one in learning if (found := course(one, metric))]
    if not drawn:
        return None
    dull = [found for one, found in drawn if one.colour is None]
    marks: dict[str, list[tuple[float, float, str]]] = {}
    for one, found in drawn:
        if found.paused:
            colour = "--grey" if one.colour is None else f"--c{one.colour}"
            marks.setdefault(colour, []).extend((x, y, escaped(one.label)) for x, y in found.paused)
    bright = [(one.label, f"--c{one.colour}", found) for one, found in drawn if one.colour is not None]
    bright.sort(key=lambda each: shown.natural(each[0]))
    traces = [trace for _, colour, found in bright for trace in _band(found, colour)]
    traces += [trace for name, colour, found in bright for trace in _lines(name, colour, found)]
    lines = [curve for found in dull for curve in (found.mean, *found.tails)]
    end = max(x[-1] for _, found in drawn for x, _ in found.seeds)
    return chart(
        title, [*grey(lines), *traces, *_ends(marks)], epochs(end), titled(label), _note(bright, dull, bool(marks))
    )


def _note(bright: Sequence[tuple[str, str, Drawn]], dull: Sequence[Drawn], marks: bool) -> str:
    """What the colours, bands and thin lines of the chart are."""
    best = f"best {shown.BEST}: finished ones by kNN, then the latest paused" if marks else f"best {shown.BEST} by kNN"
    notes = [f"In colour the {best}; in grey {len(dull)} others"] if dull else []
    if any(found.deviation for _, _, found in bright):
        notes.append("lines are means over seeds, bands one standard deviation")
    if any(found.tails for _, _, found in bright):
        notes.append("dotted: seeds that go on alone")
    return "; ".join(notes)


def _band(found: Drawn, colour: str) -> list[Trace]:
    """One standard deviation to both sides of the mean."""
    x, y = found.mean
    if not found.deviation or len(x) < 2:
        return []
    high = [a + b for a, b in zip(y, found.deviation)]
    low = [a - b for a, b in zip(y, found.deviation)]
    around = {"x": [*x, *x[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "fillcolor": f"{colour}{CLEAR}"}
    return [{**around, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}]


def _lines(name: str, colour: str, found: Drawn) -> list[Trace]:
    """The mean, what is left of seeds where it ends, and the single seeds."""
    hover = "%{fullData.name}<br>epoch %{x}: %{y:.5g}<extra></extra>"
    common: Trace = {"name": escaped(name), "showlegend": False, "marker": {"color": colour, "size": 5}}
    common["hovertemplate"] = hover

    def line(curve: Curve, width: float, dash: str) -> Trace:
        mode = "lines+markers" if len(curve[0]) < MARKED and dash == "solid" else "lines"
        return common | {
            "x": curve[0],
            "y": curve[1],
            "mode": mode,
            "line": {"color": colour, "width": width, "dash": dash},
        }

    # Where seeds have no epoch in common the mean is empty, and stands for them in the legend.
    made = [{**line(found.mean, 2, "solid"), "showlegend": True}]
    made += [line(curve, 1.3, "dot") for curve in found.tails]
    if len(found.seeds) > 1:
        made += [{**line(curve, 1, "solid"), "mode": "lines", "single": True} for curve in found.seeds]
    return made


def _ends(marks: Mapping[str, Sequence[tuple[float, float, str]]]) -> list[Trace]:
    """Open circles where curves of paused runs end, by colour, grey ones lowest; the first stands for all in the legend."""
    traces: list[Trace] = []
    for colour in sorted(marks, key=lambda colour: colour != "--grey"):
        x, y, labels = zip(*marks[colour])
        traces.append(
            {
                "x": x,
                "y": y,
                "text": labels,
                "name": "paused here",
                "showlegend": not traces,
                "mode": "markers",
                "marker": {"color": colour, "symbol": "circle-open", "size": 10, "line": {"width": 2}},
                "hovertemplate": "%{text}<br>paused at epoch %{x}: %{y:.2f}<extra></extra>",
                "cliponaxis": False,
            }
        )
    return traces
