"""The W&B workspace of a sweep, as plain data and as wandb-workspaces takes it. There is no network."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from common import METHODS, python
from folders import point, write_paused, write_run, write_sweep

from moco.analysis.dashboard import AS_FAR, Axis, specification
from moco.config.schema import Config
from moco.errors import UserError
from moco.runs.listing import all_runs

pytestmark = pytest.mark.usefixtures("without_login")
workspaces = pytest.importorskip("moco.analysis.workspace")


@pytest.fixture
def swept(checked: Callable[..., Config], tmp_path: Path) -> Path:
    base = checked("model=small", "epochs=4", "tracker.project=ours", "tracker.entity=team")
    made = []
    for m, temperature in ((64, 0.05), (64, 0.5), (4096, 0.05), (4096, 0.5)):
        changed = point(base, {"m": m, "temperature": temperature})
        made.append(write_run(tmp_path / "runs", changed, 50 + m / 1000, linear=60.0))
    write_sweep(tmp_path / "runs", "grid", made)
    return tmp_path / "runs"


def test_it_shows_what_varies(swept: Path) -> None:
    dashboard = specification(all_runs(swept), "grid")
    assert (dashboard.name, dashboard.project, dashboard.entity, dashboard.group) == (
        "sweep grid",
        "ours",
        "team",
        "grid",
    )
    assert sorted(dashboard.columns) == ["m", "temperature"] and dashboard.metrics == ["knn/top1", "linear/top1"]
    sections = {section.name: section.panels for section in dashboard.sections}
    *against, parallel = sections["Settings"]
    assert {panel.panel for panel in against} == {"against"} and parallel.panel == "parallel"
    assert sorted((panel.metrics[0], panel.axes[0].setting, panel.axes[0].axis) for panel in against) == [
        (metric, key, "log") for metric in ("knn/top1", "linear/top1") for key in ("m", "temperature")
    ]
    assert [panel.title for panel in sections["Results"]] == ["kNN top-1 (%)", "Linear top-1 (%)"]
    assert [panel.metrics for panel in sections["Learning curves"]] == [["knn/top1"], ["train/loss"]]
    assert specification(all_runs(swept)).group is None


def test_seeds_are_a_column(checked: Callable[..., Config], tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs", point(checked(), {"seed": seed}))
    dashboard = specification(all_runs(tmp_path / "runs"))
    assert dashboard.columns == ["seed"] and [s.name for s in dashboard.sections] == ["Results", "Learning curves"]


def test_wandb_takes_the_workspace(swept: Path) -> None:
    made = workspaces.workspace(specification(all_runs(swept), "grid"), "team")
    view = made._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    sections = view["section"]["panelBankConfig"]["sections"]
    assert [one["name"] for one in sections] == ["Results", "Settings", "Learning curves"]
    kinds = [panel["viewType"] for one in sections for panel in one["panels"]]
    assert kinds.count("Scatter Plot") == 4 and kinds.count("Parallel Coordinates Plot") == 1
    assert kinds.count("Bar Chart") == 2 and kinds.count("Run History Line Plot") == 2
    scatter = next(p for p in sections[1]["panels"] if p["viewType"] == "Scatter Plot")["config"]
    assert scatter["xAxis"].startswith("config:") and scatter["xAxis"].endswith(".value")
    assert scatter["yAxis"] == "summary:knn/top1.max" and scatter["xAxisLogScale"] is True
    [runset] = view["section"]["runSets"]
    assert "grid" in json.dumps(runset["filters"])
    assert {"summary:epoch", "summary:knn/top1.max", "config:m.value"} <= set(runset["runFeed"]["columnPinned"])
    assert workspaces.stored("optimizer.lr") == "optimizer.value.lr"


def test_words_are_bars_and_not_scattered(checked: Callable[..., Config], tmp_path: Path) -> None:
    for method in ("moco", "simclr"):
        write_run(tmp_path / "runs", checked(*METHODS[method], "model=small", "epochs=4"))
    dashboard = specification(all_runs(tmp_path / "runs"))
    [panel] = dashboard.sections[1].panels
    assert (panel.panel, panel.axes) == ("against", [Axis("method.name", "category")])
    view = workspaces.workspace(dashboard, "team")._to_model().spec.model_dump(by_alias=True)
    assert view["section"]["panelBankConfig"]["sections"][1]["panels"][0]["viewType"] == "Bar Chart"


def test_the_command(swept: Path, tmp_path: Path) -> None:
    shown = python("-m", "moco", "dashboard", "grid", "--dry-run", cwd=tmp_path, **os.environ)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == dataclasses.asdict(specification(all_runs(swept), "grid"))
    for words, said in ((["grid"], "wandb has no key for"), (["gird"], "there is no sweep gird")):
        refused = python("-m", "moco", "dashboard", *words, cwd=tmp_path, **os.environ)
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1 and said in refused.stderr


def test_runs_that_wandb_did_not_track_or_that_cannot_be_read(checked: Callable[..., Config], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", checked("tracker=none"))
    with pytest.raises(UserError, match="tracker=none, so W&B has nothing of them"):
        specification(all_runs(tmp_path / "runs"))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="none of these runs can be read"):
        specification(all_runs(tmp_path / "runs"))


def test_sections_that_compare_say_that_paused_runs_have_not_come_to_their_ends(
    checked: Callable[..., Config], swept: Path
) -> None:
    write_paused(swept, checked("model=small", "epochs=4", "tracker.project=ours", "m=128"), 2)
    names = [section.name for section in specification(all_runs(swept)).sections]
    assert names == [f"Results{AS_FAR}", f"Settings{AS_FAR}", "Learning curves"]
