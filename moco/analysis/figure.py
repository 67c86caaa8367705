"""The figure for a paper, by matplotlib (an optional dependency)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moco.analysis import charts as panels
from moco.analysis.records import plain, read
from moco.analysis.summary import configurations
from moco.errors import UserError
from moco.runs.run import Run

COLUMNS = 3
GREY = {"color": "0.75", "linewidth": 0.8, "zorder": 1}
METRIC, LABEL = "knn/top1", "kNN top-1 (%)"


def figure(runs: Sequence[Run], out: Path) -> None:
    """Learning curves, kNN top-1 against each swept setting with one standard deviation over seeds, and a heat map of two.

    Labelled by what varies; the format follows from the file's ending.

    Raises:
        UserError: matplotlib is not installed or does not know the ending, or none of the runs has been evaluated yet.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("plot needs matplotlib: pip install matplotlib") from error
    found = configurations([read(run) for run in runs])
    learning = panels.learning(found)
    parts: list[tuple[Any, ...]] = [
        (_curves, learning, METRIC, LABEL),
        (_curves, learning, "train/loss", "training loss"),
    ]
    parts += [(_against, panel) for panel in panels.panels(found, METRIC)]
    parts += [(_heat, grid)] if (grid := panels.heat(found, METRIC)) else []
    columns = min(len(parts), COLUMNS)
    size = (4.2 * columns, 3.4 * -(-len(parts) // columns) + 0.5)
    sheet, places = pyplot.subplots(
        -(-len(parts) // columns), columns, figsize=size, layout="constrained", squeeze=False
    )
    for (draw, *arguments), axes in zip(parts, places.flat):
        draw(axes, *arguments)
    for axes in places.flat[len(parts) :]:
        axes.set_visible(False)
    curves, labels = places.flat[0].get_legend_handles_labels()
    if labels:
        sheet.legend(
            curves, labels, loc="outside lower center", ncols=3 if max(map(len, labels)) < 40 else 2, frameon=False
        )
    try:
        if not places.flat[0].lines:
            raise UserError("none of these runs has been evaluated yet: nothing to plot")
        sheet.savefig(out, dpi=160)
    except ValueError as error:  # an unknown ending
        raise UserError(str(error) if isinstance(error, UserError) else f"{out}: {error}") from error
    finally:
        pyplot.close(sheet)


def _curves(axes: Any, learning: Sequence[panels.Learning], metric: str, label: str) -> None:
    """A line a run; with many configurations the best few in colour."""
    for name, colour, runs in learning:
        for i, lines in enumerate(runs):
            x, y = panels.curve(lines, metric, colour)
            if colour is None:
                axes.plot(x, y, **GREY)
            elif x:
                mark = "o" if len(x) < 15 else None
                axes.plot(x, y, color=f"C{colour}", marker=mark, markersize=3, label=name if i == 0 else None)
    _finish(axes, "epoch", label)


def _against(axes: Any, panel: panels.Panel) -> None:
    order = panels.ordered({x for line in panel.lines for x in line.x}) if panel.axis == "category" else []
    for line, colour in panels.coloured(panel.lines):
        x = [order.index(value) for value in line.x] if order else line.x
        if colour is None:
            axes.plot(x, line.y, **GREY)
        else:
            bars = [d or 0 for d in line.deviation] if any(line.deviation) else None
            axes.errorbar(
                x,
                line.y,
                bars,
                color=f"C{colour}",
                marker="o",
                markersize=4 if panel.alone else 2.5,
                capsize=2,
                linestyle="-" if panel.joined else "",
                label=line.label or None,
            )
    values = sorted({value for line in panel.lines for value in line.x}) if not order else []
    if panel.axis == "log":
        axes.set_xscale("log")
    if order:
        axes.set_xticks(range(len(order)), order)
    elif len(values) <= panels.DISTINCT:
        axes.set_xticks(values, [plain(value) for value in values])
        axes.minorticks_off()
    _finish(axes, panels.name(panel.key), LABEL)
    if len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize="small").set_in_layout(False)  # long labels must not narrow the axes


def _heat(axes: Any, grid: panels.Heat) -> None:
    z = [[float("nan") if value is None else value for value in row] for row in grid.z]
    image = axes.imshow(z, origin="lower", aspect="auto", cmap="Blues")
    axes.set_xticks(range(len(grid.xs)), [plain(x) for x in grid.xs])
    axes.set_yticks(range(len(grid.ys)), [plain(y) for y in grid.ys])
    axes.set(xlabel=panels.name(grid.x_key), ylabel=panels.name(grid.y_key), title=LABEL)
    for i, row in enumerate(grid.z):
        for j, value in enumerate(row):
            if value is not None and len(grid.xs) <= panels.DISTINCT:
                light = image.norm(value) < 0.6
                axes.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    color="black" if light else "white",
                    fontsize="small",
                )


def _finish(axes: Any, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
