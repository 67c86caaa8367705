"""The charts of a run's page beside its learning curves: which classes kNN confuses, and the map of the test images."""

from typing import NamedTuple, TypedDict

from moco.analysis.learnt import Learnt
from moco.analysis.report_traces import Chart, Trace, chart, escaped

COUNTED, MATRIX = 12, 100  # up to so many classes counts stand in the matrix, and there is one at all
COLOURED = 10  # up to so many classes each has a colour of the page's
CROWD = 800  # more points than that are smaller
MISTAKES = 8  # so many of the most frequent ones are named


class Tall(Chart):
    """A chart that is higher than others, in pixels."""

    height: int


class Point(TypedDict):
    """What the map tells of an image: its class, and what kNN takes it for; empty without labels."""

    label: str
    taken: str


class Mistake(NamedTuple):
    """Images of one class that kNN takes for another, of all images of that class."""

    label: str
    taken: str
    number: int
    of: int


def confusion(learnt: Learnt, what: str) -> Tall | None:
    """The matrix of kNN's confusions, coloured by shares; None without labels, and for too many classes."""
    n = len(learnt.classes)
    if learnt.predicted is None or n > MATRIX:
        return None
    counts = learnt.confusion()
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    names = [escaped(name) for name in learnt.classes]
    trace: Trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [[round(100 * share, 2) for share in row] for row in shares.tolist()],
        "text": counts.tolist(),
        "texttemplate": "%{text}" if n <= COUNTED else None,
        "colorscale": "sequential",
        "showscale": n > COUNTED,
        "colorbar": {"thickness": 12, "title": {"text": "%"}},
        "xgap": 1 if n <= COUNTED else 0,
        "ygap": 1 if n <= COUNTED else 0,
        "hovertemplate": "%{y}, taken for %{x}: %{text} images (%{z:.1f} %)<extra></extra>",
    }
    axis: dict[str, object] = {"type": "category", "showgrid": False}
    x = {**axis, "title": {"text": "kNN says", "standoff": 14}, "tickangle": -45 if max(map(len, names)) > 3 else 0}
    y = {**axis, "title": {"text": "is", "standoff": 14}, "autorange": "reversed"}
    note = f"How many {what} of each class kNN takes for which"
    return {**chart("What kNN confuses", [trace], x, y, note), "height": 420 if n <= COUNTED else 340 + 7 * n}


def mistakes(learnt: Learnt) -> list[Mistake]:
    """The most frequent confusions, by the share of the class."""
    if learnt.predicted is None:
        return []
    counts = learnt.confusion()
    of = counts.sum(1)
    wrong = counts.clone().fill_diagonal_(0)
    shares = (wrong.double() / of.clamp(min=1).unsqueeze(1)).flatten()
    order = shares.argsort(descending=True, stable=True)[:MISTAKES].tolist()
    n, names = len(learnt.classes), learnt.classes
    pairs = [divmod(i, n) for i in order]
    return [Mistake(names[a], names[b], int(wrong[a, b]), int(of[a])) for a, b in pairs if wrong[a, b] > 0]


def on_map(learnt: Learnt, what: str) -> tuple[Tall, list[Point], list[int]]:
    """The map, what it tells of each image, and the images' places in the data; a point's customdata counts into both."""
    found = learnt.map()
    index = found.images.tolist()
    labels = learnt.test.labels[found.images].tolist() if learnt.predicted is not None else [0] * len(index)
    taken = learnt.predicted[found.images].tolist() if learnt.predicted is not None else labels
    places = [(round(float(x), 2), round(float(y), 2)) for x, y in found.places]
    names = learnt.classes or [""]
    traces: list[Trace] = []
    size = 4 if len(index) > CROWD else 6
    for c, name in enumerate(names):
        members = [i for i, label in enumerate(labels) if label == c]
        if members:
            wrong = [taken[i] != labels[i] for i in members]
            sizes = [size + 2 if cross else size for cross in wrong]
            symbols = ["x" if cross else "circle" for cross in wrong]
            marker = {"color": colour(c, len(names)), "size": sizes, "symbol": symbols, "opacity": 0.8}
            traces.append(
                {
                    "x": [places[i][0] for i in members],
                    "y": [places[i][1] for i in members],
                    "customdata": members,
                    "name": escaped(name),
                    "showlegend": 1 < len(names) <= COLOURED,
                    "mode": "markers",
                    "hoverinfo": "none",  # the page shows the image
                    "marker": marker,
                }
            )
    points: list[Point] = [
        {"label": names[label], "taken": names[guess] if learnt.predicted is not None else ""}
        for label, guess in zip(labels, taken)
    ]
    hidden: dict[str, object] = {"showticklabels": False, "showgrid": False, "ticks": "", "linecolor": "rgba(0,0,0,0)"}
    note = f"{len(index):,} {what}, near each other where their features are (t-SNE); hover or tap shows the image"
    if any(t != label for t, label in zip(taken, labels)):
        note += "; crosses: kNN takes it for another class"
    made = chart("Map of the features", traces, hidden, {**hidden, "scaleanchor": "x"}, note)
    return {**made, "height": 560}, points, index


def colour(c: int, classes: int) -> str:
    """Of class c: a colour of the page, or of the circle of hues where there are too few of them."""
    return f"--c{c}" if classes <= COLOURED else f"hsl({round(360 * c / classes)},60%,{(42, 56)[c % 2]}%)"
