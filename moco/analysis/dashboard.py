"""python -m moco dashboard: a saved W&B workspace of a sweep, by wandb-workspaces (an optional dependency)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from moco.analysis import charts
from moco.analysis.numbers import is_number
from moco.analysis.records import Entry, look
from moco.config.schema import Tracking
from moco.errors import UserError
from moco.protocols import KNN, MEASURES, TABULATED
from moco.runs.run import Run
from moco.runs.settings import Flat, swept
from moco.tracking.environment import PROJECT, effective

AS_FAR = " (paused runs as far as they have come)"  # after the name of a section whose panels compare values
METRIC_TITLES = {protocol.top1: f"{protocol.title} top-1 (%)" for protocol in TABULATED}


@dataclass(frozen=True)
class Axis:
    """A setting and how its values are spaced: linear, log or category."""

    setting: str
    axis: str


@dataclass(frozen=True)
class Panel:
    """One panel: bars or lines of a metric, a metric `against` a setting, or settings and metrics `parallel`."""

    panel: str
    title: str
    metrics: list[str]
    axes: list[Axis] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class Dashboard:
    """What the workspace shows.

    Attributes:
        name: its title.
        entity: who owns the project; None for the account's default.
        project: where it is saved.
        group: whose runs alone are shown; None for the whole project.
        columns: the settings that vary.
        metrics: the accuracies.
        sections: the panels.
    """

    name: str
    entity: str | None
    project: str
    group: str | None
    columns: list[str]
    metrics: list[str]
    sections: list[Section]


def specification(runs: Sequence[Run], sweep: str | None = None) -> Dashboard:
    """The dashboard of these runs.

    Args:
        sweep: whose runs alone are shown; None for the whole project.

    Raises:
        UserError: none of the runs can be read, or wandb did not track them.
    """
    entries = [entry for entry in look(runs)[0] if entry.flat]
    if not entries:
        raise UserError("none of these runs can be read: there is nothing to show")
    tracker = _tracker(entries)
    flats = [entry.flat for entry in entries]
    keys = swept(flats)
    found = {metric for entry in entries if entry.result for metric in entry.result.metrics}
    metrics = [protocol.top1 for protocol in TABULATED if protocol is KNN or protocol.top1 in found]
    seeds = {str(flat.get("seed")) for flat in flats}
    note = AS_FAR if any(entry.rung for entry in entries) else ""
    sections = [
        Section(f"Results{note}", [Panel("bars", METRIC_TITLES[metric], [metric]) for metric in metrics]),
        Section(f"Settings{note}", _settings(metrics, [Axis(key, _spacing(key, flats)) for key in keys])),
        Section("Learning curves", _curves()),
        Section("Without labels", [Panel("lines", m.title, [m.key]) for m in MEASURES.values() if m.key in found]),
    ]
    return Dashboard(
        name=f"sweep {sweep}" if sweep else "all runs",
        entity=tracker.get("entity"),
        project=tracker["project"] or PROJECT,
        group=(tracker.get("group") or sweep) if sweep else None,
        columns=[*keys, "seed"] if len(seeds) > 1 else keys,
        metrics=metrics,
        sections=[section for section in sections if section.panels],
    )


def _tracker(entries: Sequence[Entry]) -> dict[str, str | None]:
    """Project, entity and group of the first run that wandb tracked.

    Raises:
        UserError: there is none.
    """
    for entry in entries:
        config = entry.run.flat_config
        if config.get("tracker.name") == "wandb":
            keys = ("project", "entity", "group")
            given = {key: str(value) for key in keys if (value := config.get(f"tracker.{key}")) is not None}
            asked = effective(Tracking.model_validate({**given, "name": "wandb", "mode": "offline"}))
            return {key: getattr(asked, key) for key in keys}
    raise UserError("these runs have tracker=none, so W&B has nothing of them: python -m moco report shows them")


def _curves() -> list[Panel]:
    return [
        Panel("lines", f"{METRIC_TITLES[KNN.top1]} over the epochs", [KNN.top1]),
        Panel("lines", "Training loss over the epochs", ["train/loss"]),
    ]


def _settings(metrics: Sequence[str], axes: Sequence[Axis]) -> list[Panel]:
    """Each metric against each setting, and all of them in parallel where there are several settings."""
    panels = [
        Panel("against", f"{METRIC_TITLES[metric]} against {axis.setting}", [metric], [axis])
        for metric in metrics
        for axis in axes
    ]
    if len(axes) > 1:
        panels.append(Panel("parallel", "Settings and accuracy", list(metrics), list(axes)))
    return panels


def _spacing(key: str, flats: Sequence[Flat]) -> str:
    """linear, log or category."""
    values = [flat[key] for flat in flats if flat.get(key) is not None]
    if not all(map(is_number, values)):
        return "category"
    return "log" if charts.axis(values) == "log" else "linear"


def publish(dashboard: Dashboard) -> str:
    """Saves the workspace in the project that the runs are in; its address.

    Raises:
        UserError: the package or the key is missing, the server does not answer, or W&B refuses.
    """
    from moco.analysis.sync import require_login, require_server

    try:
        from moco.analysis.workspace import workspace
    except ImportError as error:
        raise UserError("dashboard needs wandb-workspaces: pip install wandb-workspaces") from error
    require_server(require_login())
    import wandb

    try:
        made = workspace(dashboard, dashboard.entity or wandb.Api().default_entity or "")
        made.save()  # type: ignore[no-untyped-call]
        return str(made.url)
    except Exception as error:  # whatever wandb raises, the user sees one line
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"W&B did not take the dashboard ({type(error).__name__}: {reason})") from error
