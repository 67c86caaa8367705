"""python -m moco report: one HTML file with the answer in words, the result table and charts; opens without a network.

The page is report.html.j2; the charts are plotly's, whose script is embedded once. Colours in figures are names of CSS
variables (--c0), which the page replaces for light and dark.
"""

import base64
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from moco.analysis import charts, measures, report_charts, report_missing, report_table
from moco.analysis.configurations import configurations
from moco.analysis.page import template
from moco.analysis.records import Entry, look, state_counts
from moco.analysis.report_best import best
from moco.analysis.summary import by_images, sentences
from moco.io import write_atomic
from moco.protocols import KNN
from moco.runs.listing import other_folders
from moco.runs.settings import varying
from moco.runs.state import State
from moco.runs.sweep import select

NAMED = 100  # so many paused runs and reasons of others are listed
FOREIGN = 8  # so many folders without a run are named


def write(runs_dir: Path | str, names: Sequence[str], out: Path) -> list[str]:
    """Writes the report of all runs, or of these sweeps, ids and folders; returns the answer in sentences.

    Raises:
        UserError: plotly or jinja2 is not installed, a name is unknown, or there are no runs.
        OSError: `out` cannot be written.
    """
    page, plotly = template("report.html.j2", "report")
    content = page_content(runs_dir, names, *look(select(runs_dir, names)))
    write_atomic(out, page.render(plotly=plotly, **content.values))
    return content.answer


class PageContent(NamedTuple):
    """The answer in sentences, and all that the page shows by the names that the template has for it."""

    answer: list[str]
    values: dict[str, object]


def page_content(
    runs_dir: Path | str, names: Sequence[str], entries: Sequence[Entry], states: Sequence[State]
) -> PageContent:
    """What the page shows of these runs, as records.look gives them: all of runs_dir, or those of these names."""
    answer = sentences(entries, states) + ([] if names else _foreign(runs_dir))
    title = ", ".join(names) or f"All runs in {Path(runs_dir).absolute().name}"
    return PageContent(answer, {"title": title, "answer": answer, **_content(entries, states)})


def _content(entries: Sequence[Entry], states: Sequence[State]) -> dict[str, object]:
    """What the page shows below the answer, by the names that the template has for it."""
    found = configurations(entries)
    keys = [key for key in varying([c.flat for c in found]) if key != "seed"] or ["method.name"]
    paused, missing = _paused(entries), report_missing.groups(entries, states)
    groups = by_images(found)
    bests = [one for where, group in groups.items() if (one := best(where if len(groups) > 1 else "", group))]
    by_folder = {entry.run.folder: state for entry, state in zip(entries, states)}
    return {
        "counts": f"{len(entries)} runs: {state_counts(states)}",
        "when": datetime.datetime.now().strftime("%d %b %Y, %H:%M"),
        "shared": charts.shared([c.flat for c in found], keys),
        "bests": bests,
        "csv": base64.b64encode(report_table.as_csv(found, keys, by_folder).encode()).decode(),
        "measures": measures.of_report(entries),
        "paused": paused[:NAMED],
        "more_paused": max(0, len(paused) - NAMED),
        "missing": missing[:NAMED],
        "more": sum(group["count"] for group in missing[NAMED:]),
        "data": {"table": report_table.table(found, keys, by_folder), "charts": report_charts.charts(found)},
    }


def _foreign(runs_dir: Path | str) -> list[str]:
    """A sentence that names the folders without a run, where there are any."""
    others = other_folders(runs_dir)
    if not others:
        return []
    return [f"Folders without a run: {', '.join(others[:FOREIGN])}{' ...' if len(others) > FOREIGN else ''}."]


def _paused(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """Epoch, kNN, folder and reason of each paused run, the farthest first."""
    rungs = [(entry.run, entry.rung) for entry in entries if entry.rung]
    rungs.sort(key=lambda pair: (-pair[1].reached.share, -pair[1].metrics.get(KNN.top1, 0.0)))
    return [
        {
            "epoch": str(rung.reached),
            "knn": f"{rung.metrics[KNN.top1]:.2f}" if KNN.top1 in rung.metrics else "",
            "folder": run.folder.name,
            "why": rung.why,
        }
        for run, rung in rungs
    ]
