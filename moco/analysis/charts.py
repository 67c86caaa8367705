"""What charts show, apart from who draws it (matplotlib in plots.py, plotly in report.py). Imports neither."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from moco.analysis.records import describe, is_number, own_keys, plain, swept
from moco.analysis.summary import Configuration, ranked

LINES = 6  # more lines than that are thin and grey, the best few apart
BEST = 4
SCATTER = 8  # from so many configurations on a setting is shown that hardly ever varies alone
GREY = 300  # so many grey curves are drawn
POINTS, GREY_POINTS = 200, 30  # of a curve
DISTINCT = 12  # a setting of at most so many uneven values gets an axis of equal steps


T = TypeVar("T")


class Line(NamedTuple):
    """Points in order of x; y is the mean over seeds, deviation its sample standard deviation or None."""

    label: str
    x: list[Any]
    y: list[float]
    deviation: list[float | None]


class Panel(NamedTuple):
    """A metric against one setting: a line for each combination of the others, best first, or one of all configurations."""

    key: str
    axis: str  # linear, log or category
    lines: list[Line]
    alone: bool  # whether nothing else differs along a line
    joined: bool  # whether points are joined: not where they are words, or where other settings differ too


class Heat(NamedTuple):
    """The means over a grid of two settings, z[y][x]; None where no run has finished."""

    x_key: str
    y_key: str
    xs: list[float]
    ys: list[float]
    z: list[list[float | None]]


def axis(values: Sequence[Any]) -> str:
    """How a setting's values are spaced: by a logarithm from a factor of ten on, equally where they are words or crowd."""
    if not all(is_number(value) for value in values):
        return "category"
    distinct = sorted(set(values))
    if distinct[0] > 0 and distinct[-1] >= 10 * distinct[0]:
        return "log"
    gaps = [b - a for a, b in zip(distinct, distinct[1:])]
    crowded = gaps and len(distinct) <= DISTINCT and min(gaps) < (distinct[-1] - distinct[0]) / 50
    return "category" if crowded else "linear"


def panels(found: Sequence[Configuration], metric: str) -> list[Panel]:
    """The metric against each setting that was swept.

    Along a line configurations differ in that setting alone. Where most have no such neighbour (random search) all are shown
    as points, once there are enough of them to see anything.
    """
    scored = ranked(found, metric)
    keys = swept([c.flat for c in scored])
    made = []
    for key in keys:
        others = [other for other in keys if other != key]
        labels = describe([c.flat for c in scored], others)
        groups: dict[str, list[Configuration]] = {}
        for configuration, label in zip(scored, labels):
            groups.setdefault(label, []).append(configuration)
        kind = axis([c.flat.get(key) for c in scored])
        lines = [_line(label, members, key, kind, metric) for label, members in groups.items() if len(members) > 1]
        if 2 * sum(len(line.x) for line in lines) > len(scored):
            made.append(Panel(key, kind, lines, True, all(is_number(c.flat.get(key)) for c in scored)))
        elif len(scored) >= SCATTER:
            made.append(Panel(key, kind, [_line("", scored, key, kind, metric)], False, False))
    return made


def _line(label: str, members: Sequence[Configuration], key: str, kind: str, metric: str) -> Line:
    """Of the configurations in order of the setting; values of a category axis are texts."""
    values = [c.flat.get(key) for c in members]
    order = sorted(range(len(members)), key=lambda i: _rank(values[i]))
    scores = [members[i].score(metric) or {} for i in order]
    xs = [plain(values[i]) if kind == "category" else values[i] for i in order]
    return Line(label, xs, [s["mean"] for s in scores], [s["std"] for s in scores])


def _rank(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then the rest as text."""
    return (False, value) if is_number(value) else (True, plain(value))


def ordered(texts: Iterable[str]) -> list[str]:
    """The texts of a category axis, numbers by size before words."""

    def rank(text: str) -> tuple[bool, Any]:
        try:
            return False, float(text)
        except ValueError:
            return True, text

    return sorted(texts, key=rank)


def ticks(low: float, high: float, kind: str) -> list[float]:
    """Five places along an axis with both its ends."""
    if kind == "log":
        return [float(f"{low * (high / low) ** (i / 4):.2g}") for i in range(5)]
    return [low + (high - low) * i / 4 for i in range(5)]


def heat(found: Sequence[Configuration], metric: str) -> Heat | None:
    """The grid, where exactly two settings were swept and both are numbers; else None."""
    scored = ranked(found, metric)
    keys = swept([c.flat for c in scored])
    if len(keys) != 2 or not all(is_number(c.flat.get(key)) for c in scored for key in keys):
        return None
    # The setting with more values lies along x.
    x_key, y_key = sorted(keys, key=lambda key: -len({c.flat[key] for c in scored}))
    xs, ys = (sorted({c.flat[key] for c in scored}) for key in (x_key, y_key))
    if len(xs) * len(ys) > 2 * len(scored):  # random search: no grid
        return None
    means = {(c.flat[x_key], c.flat[y_key]): (c.score(metric) or {})["mean"] for c in scored}
    return Heat(x_key, y_key, xs, ys, [[means.get((x, y)) for x in xs] for y in ys])


def name(key: str) -> str:
    """A setting's name on an axis."""
    return key.removesuffix(".name")


def coloured(lines: Sequence[T]) -> list[tuple[T, int | None]]:
    """The lines, best first, each with the number of its colour; of many the best few have one, the others None: grey."""
    bright = len(lines) if len(lines) <= LINES else BEST
    return [(line, i if i < bright else None) for i, line in enumerate(lines)]


class Learning(NamedTuple):
    """What is drawn of a configuration's runs: the lines of their metrics."""

    label: str
    colour: int | None  # None for grey
    runs: list[list[dict[str, Any]]]


def learning(found: Sequence[Configuration]) -> list[Learning]:
    """The configurations by kNN, unfinished ones last; of the grey ones at most about GREY runs, spread over the ranking."""
    order = [*ranked(found, "knn/top1"), *(c for c in found if not c.values("knn/top1"))]
    drawn = coloured(order)
    dull = [entry.run for c, colour in drawn if colour is None for entry in c.entries]
    kept = {run.folder for run in dull[:: -(-len(dull) // GREY) or 1]}
    return [
        Learning(c.label, n, [e.run.metrics() for e in c.entries if n is not None or e.run.folder in kept])
        for c, n in drawn
    ]


def curve(lines: Sequence[dict[str, Any]], metric: str, colour: int | None) -> tuple[list[float], list[float]]:
    """Epochs and values of a metric in a run's lines, thinned to what the eye can tell, the last one kept."""
    most = GREY_POINTS if colour is None else POINTS
    points = [
        (line["epoch"], line[metric])
        for line in lines
        if is_number(line.get("epoch")) and is_number(line.get(metric)) and "train/loss" in line
    ]
    step = -(-len(points) // most) or 1
    kept = points[::-1][::step][::-1]
    return [epoch for epoch, _ in kept], [float(f"{value:.5g}") for _, value in kept]


def shared(flats: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Settings that all configurations have with one value, less the `keys` that vary, as they are typed."""
    if not flats:
        return []
    same = [key for key in own_keys(flats[:1]) if key not in keys and flats[0][key] is not None and key != "seed"]
    same.sort(key=lambda key: not key.endswith(".name"))
    texts = {key: repr(flats[0][key]) for key in same}
    return [
        f"{name(key)}={plain(flats[0][key])}"
        for key in same
        if all(repr(flat.get(key)) == texts[key] for flat in flats)
    ]
