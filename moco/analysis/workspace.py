"""A dashboard as a workspace of wandb-workspaces, which this module needs; nothing here needs a network."""

import warnings
from collections.abc import Sequence
from typing import TypeAlias

from moco.analysis.dashboard import METRIC_TITLES, Axis, Dashboard, Panel
from moco.protocols import KNN

with warnings.catch_warnings():  # of its own use of pydantic
    warnings.simplefilter("ignore", DeprecationWarning)
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

ACROSS, WIDTH, HEIGHT = 24, 8, 8  # of a section, of a panel
Drawn: TypeAlias = wr.BarPlot | wr.LinePlot | wr.ParallelCoordinatesPlot | wr.ScatterPlot


def workspace(dashboard: Dashboard, entity: str) -> ws.Workspace:
    """The dashboard as a workspace of this entity, not saved yet."""
    columns = [f"summary:{summary(metric)}" for metric in dashboard.metrics]
    columns += [f"config:{stored(key)}" for key in dashboard.columns]
    return ws.Workspace(
        entity=entity,
        project=dashboard.project,
        name=dashboard.name,
        sections=[ws.Section(name=s.name, panels=list(_placed(s.panels)), is_open=True) for s in dashboard.sections],
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == dashboard.group) if dashboard.group else "",
            order=[expr.Ordering(expr.Summary(summary(KNN.top1)), ascending=False)],
            pinned_columns=["run:displayName", "summary:epoch", *columns],  # paused runs have a kNN, too: of that epoch
        ),
    )


def summary(metric: str) -> str:
    """Where W&B keeps the best value of a metric that is summarized by its maximum (see the wandb mirror)."""
    return f"{metric}.max"


def stored(key: str) -> str:
    """Where W&B keeps a setting: optimizer.lr -> optimizer.value.lr."""
    first, *rest = key.split(".")
    return ".".join([first, "value", *rest])


def _placed(panels: Sequence[Panel]) -> list[Drawn]:
    """The panels of a section side by side, in as many rows as they need."""
    made, x, y = [], 0, 0
    for panel in panels:
        width = ACROSS if panel.panel == "parallel" else WIDTH
        if x + width > ACROSS:
            x, y = 0, y + HEIGHT
        made.append(_panel(panel, wr.Layout(x=x, y=y, w=width, h=HEIGHT)))
        x += width
    return made


def _panel(panel: Panel, layout: wr.Layout) -> Drawn:
    """A panel of the dashboard as one of W&B's."""
    metric = panel.metrics[0]
    if panel.panel == "bars":
        return wr.BarPlot(title=panel.title, metrics=[summary(metric)], layout=layout)
    if panel.panel == "lines":
        return wr.LinePlot(title=panel.title, x="epoch", y=[metric], title_x="epoch", layout=layout)
    if panel.panel == "parallel":
        return _parallel(panel, layout)
    return _against(panel, panel.axes[0], layout)


def _parallel(panel: Panel, layout: wr.Layout) -> Drawn:
    """Settings on the left, metrics on the right."""
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(a.setting), a.setting, log=a.axis == "log" or None)
        for a in panel.axes
    ]
    columns += [
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(summary(metric)), METRIC_TITLES[metric])
        for metric in panel.metrics
    ]
    return wr.ParallelCoordinatesPlot(columns=columns, title=panel.title, layout=layout)


def _against(panel: Panel, axis: Axis, layout: wr.Layout) -> Drawn:
    """Points over numbers; bars with one standard deviation over words, for which a scatter plot has no place."""
    metric, setting = summary(panel.metrics[0]), wr.Config(axis.setting)
    if axis.axis == "category":
        return wr.BarPlot(
            title=panel.title,
            metrics=[metric],
            groupby=setting,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=layout,
        )
    log = axis.axis == "log" or None
    return wr.ScatterPlot(title=panel.title, x=setting, y=wr.SummaryMetric(metric), log_x=log, layout=layout)
