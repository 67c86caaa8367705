"""python -m moco show: one HTML file of a run, from its checkpoint; opens without a network. The page is show.html.j2."""

import base64
import datetime
import errno
import gzip
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from moco.analysis import report_charts
from moco.analysis.configurations import configurations
from moco.analysis.page import template
from moco.analysis.records import Entry, look
from moco.errors import UserError
from moco.io import Json, read_json, write_atomic
from moco.protocols import GUESSED, KNN, found_in
from moco.runs.run import Run
from moco.runs.settings import own_keys, plain
from moco.runs.state import State

if TYPE_CHECKING:
    from moco.analysis.learnt import Learnt
    from moco.analysis.show_charts import Mistake

LOG_LINES = 60


class Neighbour(TypedDict):
    """A training image near a test image. `right`: whether it is of the same class; None without labels."""

    url: str
    label: str
    similarity: str
    right: bool | None


class Tested(TypedDict):
    """A test image, its class, what kNN takes it for (both "" without labels), and its neighbours."""

    url: str
    label: str
    taken: str
    right: bool | None
    neighbours: list[Neighbour]


class ShownView(TypedDict):
    """A view, what was drawn for it, and where its crop lay in the image, as CSS; "" where that is not known."""

    url: str
    lines: list[str]
    box: str


class ShownRow(TypedDict):
    """An image and its views."""

    url: str
    label: str
    views: list[ShownView]


def write(run: Run, out: Path, root: str | None = None, device: str = "auto") -> list[str]:
    """Writes the page; returns what it says first.

    Args:
        root: where the run's images are now, if they were moved.

    Raises:
        UserError: plotly or jinja2 is not installed, there is no checkpoint, the images are not there or are others.
        OSError: `out` cannot be written.
    """
    page, plotly = template("show.html.j2", "show")
    [entry], [state] = look([run])
    if entry.problem:
        raise UserError(f"{entry.problem}: there is nothing to show")
    _check_writable(out)
    from moco.analysis.learnt import learnt

    found = learnt(run, root, device)
    content = _content(found, entry, state)
    script = base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode()
    write_atomic(out, page.render(plotly=script, **content))
    answer = content["answer"]
    assert isinstance(answer, list)
    return answer


def _check_writable(out: Path) -> None:
    """Refuses a file that cannot be written before anything is computed."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if out.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _content(learnt: "Learnt", entry: Entry, state: State) -> dict[str, object]:
    """What the page shows, by the names that the template has for it."""
    import torch

    from moco.analysis import show_charts, views
    from moco.analysis.thumbnails import sheet
    from moco.data.pixels import one_by_one

    run, what = entry.run, _images(learnt)
    print("places the images on a map (t-SNE)", file=sys.stderr, flush=True)
    on_map, points, index = show_charts.on_map(learnt, what)
    errors = show_charts.mistakes(learnt)
    charts = [*report_charts.charts(configurations([entry])), show_charts.confusion(learnt, what)]
    return {
        "title": run.folder.name,
        "counts": f"{state}, epoch {learnt.epoch:.4g} of {learnt.parts.config.epochs}",
        "when": datetime.datetime.now().strftime("%d %b %Y, %H:%M"),
        "answer": _answer(learnt, entry, errors),
        "mistakes": errors,
        "tested": _tested(learnt),
        "what": what,
        "views": _views(learnt),
        "augmentation": views.settings(learnt.parts.config.augment),
        "settings": [f"{key.removesuffix('.name')}={plain(entry.flat[key])}" for key in _keys(entry)],
        "provenance": _provenance(run),
        "log": run.log_tail(LOG_LINES),
        "failure": run.failure() if state in (State.FAILED, State.OUT_OF_MEMORY) else "",
        "data": {
            "charts": [chart for chart in charts if chart],
            "map": on_map,
            "points": points,
            "sheet": sheet(one_by_one(learnt.test_images, torch.tensor(index))),
        },
    }


def _images(learnt: "Learnt") -> str:
    """What the images are called that are looked at."""
    if not learnt.is_test:
        return "training images"
    return "validation images" if learnt.parts.config.data.validation else "test images"


def _answer(learnt: "Learnt", entry: Entry, errors: "list[Mistake]") -> list[str]:
    """What is to be said first, in sentences."""
    config, number = learnt.parts.config, f"{len(learnt.test_images):,}"
    after = f"after {learnt.epoch:.4g} of {config.epochs} epochs"
    if learnt.predicted is None:
        said = [f"Without labels there is no accuracy: see what {number} {_images(learnt)} look like to it {after}."]
    else:
        said = [
            f"kNN top-1 is {learnt.top1:.2f} % {after}, on {number} {_images(learnt)} of {len(learnt.classes)} classes."
        ]
    if entry.result:
        if entry.result.at_chance:
            said.append(f"That {GUESSED}, so the features have probably collapsed.")
        for protocol in found_in(entry.result.metrics):
            if protocol is not KNN:
                top1, top5 = (entry.result.metrics[protocol.metric(k)] for k in (1, 5))
                said.append(f"{protocol.words}: {top1:.2f} % (top-5 {top5:.2f} %).")
    if entry.rung:
        said.append(f"Paused at epoch {entry.rung.reached}: {entry.rung.why}.")
    if errors:
        first = errors[0]
        said.append(
            f"Most often taken for another: {first.label} for {first.taken} ({first.number} of {first.of} images)."
        )
    return said


def _keys(entry: Entry) -> list[str]:
    """The settings that have a value, choices of groups first."""
    keys = [key for key in own_keys([entry.flat]) if entry.flat[key] is not None]
    return sorted(keys, key=lambda key: not key.endswith(".name"))


def _tested(learnt: "Learnt") -> list[Tested]:
    """A few test images with their neighbours."""
    import torch

    from moco.analysis.thumbnails import alone, picture
    from moco.data.pixels import one_by_one

    found, names = learnt.neighbours(), learnt.classes
    guessed = learnt.predicted
    rows: list[Tested] = []
    for i, near, similarities in zip(found.images.tolist(), found.rows.tolist(), found.similarity.tolist()):
        label = int(learnt.test.labels[i])
        taken = None if guessed is None else int(guessed[i])
        neighbours: list[Neighbour] = []
        for row, image, similarity in zip(near, one_by_one(learnt.bank_images, torch.tensor(near)), similarities):
            other = int(learnt.bank.labels[row])
            neighbours.append(
                {
                    "url": alone(picture(image)),
                    "label": "" if taken is None else names[other],
                    "similarity": f"{similarity:.2f}",
                    "right": None if taken is None else other == label,
                }
            )
        rows.append(
            {
                "url": alone(picture(*one_by_one(learnt.test_images, slice(i, i + 1)))),
                "label": "" if taken is None else names[label],
                "taken": "" if taken is None else names[taken],
                "right": None if taken is None else taken == label,
                "neighbours": neighbours,
            }
        )
    return rows


def _views(learnt: "Learnt") -> list[ShownRow]:
    """Training images and their views, as `python -m moco views` shows them."""
    from moco.analysis import views
    from moco.analysis.thumbnails import alone

    found: list[ShownRow] = []
    for row in views.rows(learnt.parts):
        width, height = row.picture.size
        shown: list[ShownView] = []
        for view in row.views:
            box = ""
            if view.drawn:
                top, left, high, wide = view.drawn.crop
                sides = {"top": top / height, "left": left / width, "height": high / height, "width": wide / width}
                box = "; ".join(f"{side}: {100 * share:.2f}%" for side, share in sides.items())
            shown.append({"url": alone(view.picture, 128), "lines": view.lines, "box": box})
        found.append({"url": alone(row.picture, 128), "label": row.label, "views": shown})
    return found


def _provenance(run: Run) -> list[list[tuple[str, str]]]:
    """Of each attempt, the latest first, what is known of its origin."""
    attempts = read_json(run.folder / "provenance.json")
    found = [attempt for attempt in attempts if isinstance(attempt, dict)] if isinstance(attempts, list) else []
    return [[pair for key, value in attempt.items() for pair in _told(key, value)] for attempt in found[::-1]]


def _told(key: str, value: Json) -> list[tuple[str, str]]:
    """A fact of provenance.json in words; none where it says nothing."""
    if value is None:
        return []
    if key == "dirty":
        return [("uncommitted changes", "yes, in git.diff" if value else "none")]
    if isinstance(value, dict):
        return [(key, ", ".join(f"{name} {plain(version)}" for name, version in value.items()))]
    return [(key, plain(value))]
