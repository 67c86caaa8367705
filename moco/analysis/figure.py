"""The figure for a paper, drawn by matplotlib (an optional dependency)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moco.analysis import charts
from moco.analysis.configurations import configurations
from moco.analysis.courses import Drawn, Learning, course, learning
from moco.analysis.numbers import is_number
from moco.analysis.records import look
from moco.errors import UserError
from moco.protocols import KNN
from moco.runs.run import Run
from moco.runs.settings import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
LABEL = f"{KNN.title} top-1 (%)"
GREY = "0.75"


def figure(runs: Sequence[Run], out: Path) -> None:
    """Learning curves, kNN top-1 against each swept setting with one standard deviation over seeds, and a heat map of two.

    Curves of paused runs end with an open circle; the other parts are of finished runs, but for grey numbers in the heat map.

    Curves are labelled by what varies; the format follows from the file's ending.

    Raises:
        UserError: matplotlib is not installed or does not know the ending, or none of the runs has been evaluated yet.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("plot needs matplotlib: pip install matplotlib") from error
    draws = _draws(runs)
    columns = min(len(draws), COLUMNS)
    rows = -(-len(draws) // columns)
    size = (4.2 * columns, 3.4 * rows + 0.5)
    sheet, places = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    try:
        for draw, axes in zip(draws, places.flat):
            draw(axes)
        for axes in places.flat[len(draws) :]:
            axes.set_visible(False)
        if not places.flat[0].lines:
            raise UserError("none of these runs has been evaluated yet: there is nothing to plot")
        _legend(sheet, places.flat[0])
        known = sheet.canvas.get_supported_filetypes()
        if out.suffix.removeprefix(".").lower() not in known:
            raise UserError(f"{out} should end in one of {', '.join(f'.{ending}' for ending in sorted(known))}")
        sheet.savefig(out, dpi=160)
    finally:
        pyplot.close(sheet)


def _draws(runs: Sequence[Run]) -> list[Callable[["Axes"], None]]:
    """What draws each part of the figure."""
    found = configurations(look(runs)[0])
    lines = learning(found)
    draws: list[Callable[[Axes], None]] = [
        partial(_curves, learning=lines, metric=KNN.top1, label=LABEL),
        partial(_curves, learning=lines, metric="train/loss", label="training loss"),
    ]
    draws += [partial(_against, panel=panel) for panel in charts.panels(found, KNN.top1)]
    if grid := charts.heat(found, KNN.top1):
        draws.append(partial(_heat, grid=grid))
    return draws


def _legend(sheet: "Figure", axes: "Axes") -> None:
    """The names of the learning curves, below all parts."""
    curves, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 3 if max(map(len, labels)) < 40 else 2
        sheet.legend(curves, labels, loc="outside lower center", ncols=columns, frameon=False)


def _curves(axes: "Axes", learning: Sequence[Learning], metric: str, label: str) -> None:
    """The mean over seeds with a band of one standard deviation; if configurations are many, the best few in colour."""
    from matplotlib.ticker import MaxNLocator

    ends = []
    for one in sorted(learning, key=lambda one: charts.natural(one.label)):
        found = course(one, metric)
        if not found:
            continue
        ends += [(x, y, GREY if one.colour is None else f"C{one.colour}") for x, y in found.paused]
        if one.colour is None:
            for x, y in (found.mean, *found.tails):
                _grey(axes, x, y)
        else:
            _curve(axes, found, f"C{one.colour}", one.label)
    _ends(axes, ends)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _finish(axes, "epoch", label)


def _curve(axes: "Axes", found: Drawn, colour: str, label: str) -> None:
    """A coloured mean with its band; dotted, seeds that go on alone."""
    x, y = found.mean
    axes.plot(x, y, color=colour, marker="o" if len(x) < 15 else None, markersize=3, label=label)
    for tail in found.tails:
        axes.plot(*tail, color=colour, linewidth=0.9, linestyle=":")
    if found.deviation:
        low, high = ([a + sign * b for a, b in zip(y, found.deviation)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _ends(axes: "Axes", ends: Sequence[tuple[float, float, str]]) -> None:
    """Open circles where curves of paused runs end: epoch, value and colour; grey ones lowest."""
    for x, y, colour in sorted(ends, key=lambda end: end[2] != GREY):
        axes.plot([x], [y], "o", color=colour, fillstyle="none", markersize=7)
    if ends:
        axes.plot([], [], "o", color="0.4", fillstyle="none", markersize=7, label="paused here")


def _grey(axes: "Axes", x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color=GREY, linewidth=0.8, zorder=1)


def _against(axes: "Axes", panel: charts.Panel) -> None:
    """The metric against a setting, with error bars over seeds."""
    words, places = panel.words, panel.places
    for line, colour in charts.in_legend(panel):
        x = [value if is_number(value) else words.index(str(value)) for value in line.x]
        if colour is None:
            _grey(axes, x, line.y)
            continue
        axes.errorbar(
            x,
            line.y,
            [deviation or 0 for deviation in line.deviation] if any(line.deviation) else None,
            color=f"C{colour}",
            marker="o",
            markersize=4 if panel.alone else 2.5,
            capsize=2,
            linestyle="-" if panel.joined else "",
            label=line.label or None,
        )
    if panel.axis == "log":
        axes.set_xscale("log")
    if words:
        axes.set_xticks(range(len(words)), words)
    elif len(places) <= charts.DISTINCT:
        axes.set_xticks(places, [plain(value) for value in places])
        axes.minorticks_off()
    _finish(axes, charts.words(panel.key), LABEL)
    if len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize="small").set_in_layout(False)  # long labels must not narrow the axes


def _heat(axes: "Axes", grid: charts.Heat) -> None:
    """The means over a grid of two settings, with their numbers where there is room; grey ones are of paused runs."""
    z = [[float("nan") if value is None else value for value in row] for row in grid.z]
    known = [value for row in grid.z for value in row if value is not None]
    middle = min(known) + 0.6 * (max(known) - min(known))
    axes.imshow(z, origin="lower", aspect="auto", cmap="Blues")
    axes.set_xticks(range(len(grid.xs)), [plain(x) for x in grid.xs])
    axes.set_yticks(range(len(grid.ys)), [plain(y) for y in grid.ys])
    axes.set(xlabel=charts.words(grid.x_key), ylabel=charts.words(grid.y_key), title=LABEL)
    for i, row in enumerate(grid.z):
        for j, value in enumerate(row):
            if value is not None and len(grid.xs) <= charts.DISTINCT:
                colour = "black" if value <= middle else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize="small")
            elif (at := grid.rungs[i][j]) and len(grid.xs) <= charts.DISTINCT:
                text = f"{at.score.mean:.2f}\nat epoch {at.reached.epoch}"
                axes.text(j, i, text, ha="center", va="center", color="0.45", fontsize="x-small")


def _finish(axes: "Axes", x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
