"""What charts show, apart from who draws them (matplotlib in figure.py, plotly in report_charts.py). Imports neither."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from moco.analysis.configurations import AtRung, Configuration, scored
from moco.analysis.numbers import is_number
from moco.analysis.statistics import Score
from moco.protocols import KNN
from moco.runs.settings import Flat, describe, own_keys, plain, swept

LINES = 6  # more lines than that are thin and grey, except for the best few
BEST = 4
SCATTER = 8  # from so many configurations on, a setting is shown that hardly ever varies alone
DISTINCT = 12  # a setting with at most so many uneven values gets an axis of equal steps


T = TypeVar("T")
WORDS = {"m": "negatives (m)", "k": "neighbours (k)"}
Place: TypeAlias = float | str  # on an axis: a number, or a word on a category axis


class Line(NamedTuple):
    """Points in order of x; y is the mean over seeds, deviation its sample standard deviation or None."""

    label: str
    x: list[Place]
    y: list[float]
    deviation: list[float | None]


class Panel(NamedTuple):
    """A metric against one setting: one line for each combination of the others, best first, or one for all together."""

    key: str
    axis: str  # linear, log or category
    lines: list[Line]
    alone: bool  # whether nothing else differs along a line
    joined: bool  # whether points are joined: not where they are words, or where other settings differ too

    @property
    def places(self) -> list[float]:
        """The numbers on its axis; empty for a category axis."""
        return sorted({x for line in self.lines for x in line.x if is_number(x)})

    @property
    def words(self) -> list[str]:
        """The words on its axis in their order; empty unless it is a category axis."""
        return ordered({x for line in self.lines for x in line.x if isinstance(x, str)})


class Heat(NamedTuple):
    """The means over a grid of two settings, z[y][x]; None where no run has finished.

    rungs[y][x]: where runs are paused and none has finished; these values are shown and not coloured.
    """

    x_key: str
    y_key: str
    xs: list[float]
    ys: list[float]
    z: list[list[float | None]]
    rungs: list[list[AtRung | None]]


def axis(values: Sequence[object]) -> str:
    """How a setting's values are spaced: log if the largest is at least ten times the smallest, or if they grow by a factor
    (0.05, 0.1, 0.2); category for words and for values that would crowd."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values):
        return "category"
    distinct = sorted(set(numbers))
    if distinct[0] > 0 and (distinct[-1] >= 10 * distinct[0] or _by_a_factor(distinct)):
        return "log"
    gaps = [b - a for a, b in zip(distinct, distinct[1:])]
    crowded = gaps and len(distinct) <= DISTINCT and min(gaps) < (distinct[-1] - distinct[0]) / 50
    return "category" if crowded else "linear"


def _by_a_factor(values: Sequence[float]) -> bool:
    """Whether sorted values above 0 grow at least fourfold, in steps whose ratios are more alike than their differences."""
    if len(values) < 3 or values[-1] < 3.99 * values[0]:
        return False
    gaps = [b - a for a, b in zip(values, values[1:])]
    ratios = [math.log(b / a) for a, b in zip(values, values[1:])]
    return max(ratios) / min(ratios) < 0.99 * max(gaps) / min(gaps)


def panels(found: Sequence[Configuration], metric: str) -> list[Panel]:
    """The metric against each setting that was swept.

    Along a line configurations differ in that setting alone. Where most have no such neighbour (random search) all are shown
    as points, once there are enough of them to see anything.
    """
    pairs = scored(found, metric)
    keys = swept([c.flat for c, _ in pairs])
    return [panel for key in keys if (panel := _panel(pairs, key, keys))]


def _panel(pairs: Sequence[tuple[Configuration, Score]], key: str, keys: Sequence[str]) -> Panel | None:
    """The panel of one setting; None where there is nothing to see."""
    flats = [c.flat for c, _ in pairs]
    groups: dict[str, list[tuple[Configuration, Score]]] = {}
    for label, pair in zip(describe(flats, [other for other in keys if other != key]), pairs):
        groups.setdefault(label, []).append(pair)
    values = [flat.get(key) for flat in flats]
    kind = axis(values)
    lines = [_line(label, members, key, kind) for label, members in groups.items() if len(members) > 1]
    if 2 * sum(len(line.x) for line in lines) > len(pairs):
        return Panel(key, kind, lines, True, all(map(is_number, values)))
    if len(pairs) >= SCATTER:
        return Panel(key, kind, [_line("", pairs, key, kind)], False, False)
    return None


def _line(label: str, pairs: Sequence[tuple[Configuration, Score]], key: str, kind: str) -> Line:
    """The configurations in order of the setting; values of a category axis are texts."""
    points = sorted(((c.flat.get(key), score) for c, score in pairs), key=lambda point: _rank(point[0]))
    xs = [value if kind != "category" and is_number(value) else plain(value) for value, _ in points]
    return Line(label, xs, [score.mean for _, score in points], [score.std for _, score in points])


def _rank(value: object) -> tuple[bool, float, str]:
    """Numbers by size, then the rest as text."""
    return (False, value, "") if is_number(value) else (True, 0, plain(value))


def ordered(texts: Iterable[str]) -> list[str]:
    """The texts of a category axis, numbers by size before words."""

    def rank(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), ""
        except ValueError:
            return True, 0, text

    return sorted(texts, key=rank)


def ticks(low: float, high: float, kind: str) -> list[float]:
    """Five places along an axis, both ends among them."""
    if kind == "log":
        return [float(f"{low * (high / low) ** (i / 4):.2g}") for i in range(5)]
    return [low + (high - low) * i / 4 for i in range(5)]


def heat(found: Sequence[Configuration], metric: str) -> Heat | None:
    """The grid, where exactly two settings were swept, both are numbers, and a run has finished; else None."""
    known = [c for c in found if c.values(metric) or (metric == KNN.top1 and c.at_rung)]
    keys = swept([c.flat for c in known])
    if len(keys) != 2 or not any(c.values(metric) for c in known):
        return None
    points = [(x, y, c) for c in known if is_number(x := c.flat.get(keys[0])) and is_number(y := c.flat.get(keys[1]))]
    if len(points) < len(known):
        return None
    x_key, y_key = keys
    xs, ys = sorted({x for x, _, _ in points}), sorted({y for _, y, _ in points})
    at = {(x, y): c for x, y, c in points}
    if len(ys) > len(xs):  # the setting with more values lies along x
        x_key, y_key, xs, ys = y_key, x_key, ys, xs
        at = {(y, x): c for (x, y), c in at.items()}
    if len(xs) * len(ys) > 2 * len(known):  # random search: there is no grid
        return None
    scores = [[c.score(metric) if (c := at.get((x, y))) else None for x in xs] for y in ys]
    rungs = [[c.at_rung if (c := at.get((x, y))) and not c.score(metric) else None for x in xs] for y in ys]
    return Heat(x_key, y_key, xs, ys, [[score.mean if score else None for score in row] for row in scores], rungs)


def name(key: str) -> str:
    """A setting's name as it is typed."""
    return key.removesuffix(".name")


def words(key: str) -> str:
    """A setting's name at an axis or a column, in words where its letter is another thing in MoCo's paper."""
    return WORDS.get(key, name(key))


def coloured(lines: Sequence[T]) -> list[tuple[T, int | None]]:
    """The lines, best first, each with the number of its colour; if they are many the best few have one, the others None."""
    bright = len(lines) if len(lines) <= LINES else BEST
    return [(line, i if i < bright else None) for i, line in enumerate(lines)]


def in_legend(panel: Panel) -> list[tuple[Line, int | None]]:
    """The lines with their colours, grey ones first, the others in the order of the values that they are named by."""
    return sorted(coloured(panel.lines), key=lambda pair: (pair[1] is not None, natural(pair[0].label)))


def natural(label: str) -> list[tuple[bool, float, str]]:
    """What sorts labels by their values: numbers by size, words by their letters. m=512 comes before m=4096."""
    parts = re.split(r"(?<![\w.])(-?\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.])", label)
    return [(False, float(part), "") if i % 2 else (True, 0.0, part) for i, part in enumerate(parts)]


def shared(flats: Sequence[Flat], keys: Sequence[str]) -> list[str]:
    """Settings in which all configurations agree, without the `keys` that vary, as they are typed."""
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
