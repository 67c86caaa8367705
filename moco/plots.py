"""Figures of what runs left on disk, by matplotlib (an optional dependency)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moco.config import UserError
from moco.results import describe, settings
from moco.runs import Run


def curves(runs: Sequence[Run], out: Path) -> None:
    """kNN top-1 and loss over the epochs of each run, labelled by what varies; format by the file's ending.

    Raises:
        UserError: matplotlib is not installed, or none of the runs has been evaluated yet.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("plot needs matplotlib: pip install matplotlib") from error
    shown = [(run, [line for line in run.metrics() if "train/loss" in line]) for run in runs]
    shown = [(run, lines) for run, lines in shown if any("knn/top1" in line for line in lines)]
    if not shown:
        raise UserError("none of these runs has been evaluated yet: nothing to plot")
    figure, (accuracy, loss) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (_, lines), name in zip(shown, names([run for run, _ in shown])):
        scored = [line for line in lines if "knn/top1" in line]
        accuracy.plot(
            [p["epoch"] for p in scored], [p["knn/top1"] for p in scored], marker="o", markersize=3, label=name
        )
        loss.plot([p["epoch"] for p in lines], [p["train/loss"] for p in lines], label=name)
    for axes, title in ((accuracy, "kNN top-1 (%)"), (loss, "training loss")):
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.legend(frameon=False, fontsize="small")
    figure.savefig(out, dpi=160)
    pyplot.close(figure)


def names(runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart, as short as it can be: their methods, or the settings that vary."""
    flats: list[dict[str, Any]] = [settings(run.config) for run in runs]
    methods = [flat["method.name"] for flat in flats]
    if len(set(methods)) == len(runs):
        return methods
    texts = describe(flats)
    return texts if len(set(texts)) == len(runs) else [run.folder.name for run in runs]
