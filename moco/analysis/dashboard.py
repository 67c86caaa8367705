"""python -m moco dashboard: a saved W&B workspace of a sweep, by wandb-workspaces (an optional dependency)."""

import warnings
from collections.abc import Sequence
from typing import Any

from moco.analysis import charts as panels
from moco.analysis.records import PROTOCOLS, is_number, read, swept
from moco.errors import UserError
from moco.runs.run import Run

METRIC = "knn/top1"
ACROSS, WIDTH, HEIGHT = 24, 8, 8  # of a section, of a panel


def specification(runs: Sequence[Run], sweep: str | None = None) -> dict[str, Any]:
    """What the workspace shows, as plain data: where, the settings that vary, the metrics, and panels in sections.

    Args:
        sweep: whose runs alone are shown; None for the whole project.

    Raises:
        UserError: none of the runs can be read, or wandb did not track them.
    """
    entries = [entry for entry in map(read, runs) if entry.flat]
    if not entries:
        raise UserError("none of these runs can be read: there is nothing to show")
    trackers = [entry.run.config.get("tracker") or {} for entry in entries]
    tracker = next((t for t in trackers if t.get("name") == "wandb"), None)
    if tracker is None:
        raise UserError("these runs have tracker=none: W&B knows nothing of them; python -m moco report shows them")
    flats = [entry.flat for entry in entries]
    keys = swept(flats)
    found = {metric for entry in entries for metric in entry.result or {}}
    metrics = [f"{name}/top1" for name in PROTOCOLS if name == "knn" or f"{name}/top1" in found]
    axes = [{"setting": key, "axis": _axis(key, flats)} for key in keys]
    against: list[dict[str, Any]] = [
        {"panel": "against", "x": axis, "metric": metric, "title": f"{_title(metric)} against {axis['setting']}"}
        for metric in metrics
        for axis in axes
    ]
    if len(keys) > 1:
        against.append({"panel": "parallel", "axes": axes, "metrics": metrics, "title": "Settings and accuracy"})
    curves = [
        {"panel": "lines", "metric": METRIC, "title": "kNN top-1 (%) over the epochs"},
        {"panel": "lines", "metric": "train/loss", "title": "Training loss over the epochs"},
    ]
    results = [{"panel": "bars", "metric": metric, "title": _title(metric)} for metric in metrics]
    sections: dict[str, list[dict[str, Any]]] = {"Results": results, "Settings": against, "Learning curves": curves}
    return {
        "name": f"sweep {sweep}" if sweep else "all runs",
        "entity": tracker.get("entity"),
        "project": tracker["project"],
        "group": (tracker.get("group") or sweep) if sweep else None,
        "columns": keys + ["seed"] * (len({flat.get("seed") for flat in flats}) > 1),
        "metrics": metrics,
        "sections": [{"name": name, "panels": shown} for name, shown in sections.items() if shown],
    }


def _axis(key: str, flats: Sequence[dict[str, Any]]) -> str:
    """linear, log or category."""
    values = [flat[key] for flat in flats if flat.get(key) is not None]
    if not all(map(is_number, values)):
        return "category"
    return "log" if panels.axis(values) == "log" else "linear"


def _title(metric: str) -> str:
    """knn/top1 -> kNN top-1 (%)."""
    name, _, k = metric.partition("/")
    return f"{PROTOCOLS[name]} {k.replace('top', 'top-')} (%)"


def workspace(specified: dict[str, Any], entity: str) -> Any:
    """The specification as wandb-workspaces' Workspace; needs no network.

    Raises:
        UserError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():  # of its own use of pydantic
            warnings.simplefilter("ignore", DeprecationWarning)
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
            from wandb_workspaces import expr
    except ImportError as error:
        raise UserError("dashboard needs wandb-workspaces: pip install wandb-workspaces") from error

    def panel(one: dict[str, Any], layout: Any) -> Any:
        title, metric = one["title"], one.get("metric", METRIC)
        if one["panel"] == "bars":
            return wr.BarPlot(title=title, metrics=[summary(metric)], layout=layout)
        if one["panel"] == "lines":
            return wr.LinePlot(title=title, x="epoch", y=[metric], title_x="epoch", layout=layout)
        if one["panel"] == "parallel":
            settings = [
                wr.ParallelCoordinatesPlotColumn(wr.Config(a["setting"]), a["setting"], log=a["axis"] == "log" or None)
                for a in one["axes"]
            ]
            ends = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(summary(m)), _title(m)) for m in one["metrics"]]
            return wr.ParallelCoordinatesPlot(columns=settings + ends, title=title, layout=layout)
        setting, axis = wr.Config(one["x"]["setting"]), one["x"]["axis"]
        if axis == "category":  # a scatter plot has no place for words
            return wr.BarPlot(
                title=title,
                metrics=[summary(metric)],
                groupby=setting,
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                layout=layout,
            )
        y = wr.SummaryMetric(summary(metric))
        return wr.ScatterPlot(title=title, x=setting, y=y, log_x=axis == "log" or None, layout=layout)

    def section(one: dict[str, Any]) -> Any:
        made, x, y = [], 0, 0
        for described in one["panels"]:
            width = ACROSS if described["panel"] == "parallel" else WIDTH
            if x + width > ACROSS:
                x, y = 0, y + HEIGHT
            made.append(panel(described, wr.Layout(x=x, y=y, w=width, h=HEIGHT)))
            x += width
        return ws.Section(name=one["name"], panels=made, is_open=True)

    columns = [f"summary:{summary(metric)}" for metric in specified["metrics"]]
    columns += [f"config:{_stored(key)}" for key in specified["columns"]]
    runs = ws.RunsetSettings(
        filters=expr.And(expr.Metric("Group") == specified["group"]) if specified["group"] else "",
        order=[expr.Ordering(expr.Summary(summary(METRIC)), ascending=False)],
        pinned_columns=["run:displayName", *columns],
    )
    return ws.Workspace(
        entity=entity,
        project=specified["project"],
        name=specified["name"],
        sections=[section(one) for one in specified["sections"]],
        runset_settings=runs,
    )


def summary(metric: str) -> str:
    """Where W&B keeps the best value of a metric that is summarized by its maximum (moco.tracking)."""
    return f"{metric}.max"


def _stored(key: str) -> str:
    """Where W&B keeps a setting: optimizer.lr -> optimizer.value.lr."""
    first, *rest = key.split(".")
    return ".".join([first, "value", *rest])


def publish(specified: dict[str, Any]) -> str:
    """Saves the workspace in the project that the runs are in; its address.

    Raises:
        UserError: no package, no key, no answer, or W&B refuses.
    """
    from moco.analysis.sync import require_login, require_server

    workspace(specified, "")  # a package that is missing is said before a key that is
    require_server(require_login())
    import wandb

    try:
        made = workspace(specified, specified["entity"] or wandb.Api().default_entity or "")
        made.save()
        return made.url
    except Exception as error:  # whatever wandb raises, the user sees one line
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"W&B did not take the dashboard ({type(error).__name__}: {reason})") from error
