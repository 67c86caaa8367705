"""The report's learning curves."""

from collections.abc import Mapping, Sequence

from moco.analysis import charts as shown
from moco.analysis.report_traces import Chart, Trace, chart, grey, titled


def curves(learning: Sequence[shown.Learning], metric: str, title: str, label: str) -> Chart | None:
    """One line per run, with an open circle where it is paused; if configurations are many, the best few in colour."""
    traces: list[Trace] = []
    dull: list[tuple[list[float], list[float]]] = []
    marks: dict[str, list[tuple[float, float, str]]] = {}
    for name, colour, runs in learning:
        drawn = [(curve, run.paused) for run in runs if (curve := shown.curve(run.lines, metric, colour))[0]]
        lines = [curve for curve, _ in drawn]
        ends = [(x[-1], y[-1], name) for (x, y), paused in drawn if paused]
        if ends:
            marks.setdefault("--grey" if colour is None else f"--c{colour}", []).extend(ends)
        if colour is None:
            dull += lines
            continue
        for i, (x, y) in enumerate(lines):
            traces.append(
                {
                    "x": x,
                    "y": y,
                    "name": name,
                    "showlegend": i == 0,
                    "mode": "lines+markers" if len(x) < 15 else "lines",
                    "line": {"color": f"--c{colour}", "width": 2 if len(lines) == 1 else 1.3},
                    "marker": {"color": f"--c{colour}", "size": 5},
                }
            )
    if not traces and not dull:
        return None
    best = f"best {shown.BEST}: finished ones by kNN, then the latest paused" if marks else f"best {shown.BEST} by kNN"
    note = f"In colour the {best}; in grey {len(dull)} runs of the others" if dull else ""
    return chart(title, grey(dull) + traces + _ends(marks), titled("epoch"), titled(label), note)


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
