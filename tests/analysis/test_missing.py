"""Runs without a result, grouped by what is known of the reason."""

from collections.abc import Callable
from pathlib import Path

import pytest
from folders import write_paused

from moco.analysis.records import look
from moco.analysis.report_missing import POINTS, groups, together
from moco.runs.listing import all_runs


def test_runs_that_failed_alike_are_one_group_with_their_settings(
    finish: Callable[..., Path], checked, tmp_path
) -> None:
    finish("temperature=0.1")
    write_paused(tmp_path / "runs", checked("temperature=0.2", "epochs=90"), 10)
    for seed in range(POINTS + 2):
        finish(
            f"seed={seed}", "temperature=0.5", epochs=1, error=f"Traceback\nError: loss became NaN at step {1 + seed}\n"
        )
    other = finish("temperature=0.6", epochs=1, error="CUDA out of memory")
    waits = finish("temperature=0.7", epochs=1)
    damaged = finish("temperature=0.8")
    (damaged / "config.json").write_text("{")
    found = groups(*look(all_runs(tmp_path / "runs")))
    first, *rest = found
    assert (first["count"], first["state"], first["more"]) == (POINTS + 2, "failed", 2)
    assert first["why"] == f"Error: loss became NaN at step 1 to {POINTS + 2}" and len(first["points"]) == POINTS
    assert all("temperature=0.5 " in f"{point['label']} " and "seed=" in point["label"] for point in first["points"])
    assert {(group["state"], group["points"][0]["folder"]) for group in rest} == {
        ("failed", other.name),
        ("pending", waits.name),
        ("damaged", damaged.name),
    }
    [broken] = [group for group in rest if group["state"] == "damaged"]
    assert broken["points"][0]["label"] == "" and str(tmp_path) not in broken["why"] and "<its folder>" in broken["why"]


@pytest.mark.parametrize(
    "reasons, said",
    [
        (["NaN at step 7", "NaN at step 10", "NaN at step 1"], "NaN at step 1 to 10"),
        (["lr 0.1 at 5", "lr 1e-3 at 5"], "lr 1e-3 to 0.1 at 5"),
        (["no numbers"], "no numbers"),
        (["resnet18 of cuda:0"], "resnet18 of cuda:0"),
    ],
)
def test_numbers_that_differ_become_a_span(reasons: list[str], said: str) -> None:
    assert together(reasons) == said
