"""Synthetic run folders, as training and linear evaluation leave them."""

import copy
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from moco.config.check import thaw
from moco.config.schema import Config
from moco.io import Json
from moco.protocols import KNN, KNN_HEAD
from moco.runs.identity import folder_name
from moco.runs.lease import Holder, Place, machine
from moco.runs.state import State

SIZES: dict[str, Json] = {
    "params": 24_615_616,
    "multiply_adds": 1_298_923_520,
    "params_backbone": 23_500_352,
    "multiply_adds_backbone": 1_297_809_408,
}
PROBE: dict[str, Json] = {
    "probes": {"augmented": {"params_classifier": 20_490}, "cached": {"params_classifier": 20_490}}
}


def point(cfg: Config, changes: Mapping[str, Json]) -> Config:
    """The configuration with some settings, by dotted keys, changed; the method's copies of root keys follow."""
    changed = copy.deepcopy(cfg.frozen())
    for key, value in changes.items():
        *path, last = key.split(".")
        section = changed
        for part in path:
            section = _section(section, part)
        section[last] = value
        method = _section(changed, "method")
        if key in method:
            method[key] = value
    return thaw(changed)


def _section(nested: dict[str, Json], name: str) -> dict[str, Json]:
    section = nested[name]
    assert isinstance(section, dict)
    return section


def curve(
    cfg: Config, top1: float, seconds: float, measures: Mapping[str, float], every: int = 5
) -> list[dict[str, Json]]:
    """The lines of metrics.jsonl of a run that ends at `top1`, with these measures at each evaluation."""
    epochs, lines = cfg.epochs, []
    for epoch in range(1, epochs + 1):
        line: dict[str, Json] = {
            "epoch": epoch,
            "step": 390 * epoch,
            "train/loss": 2 + 5 / (1 + epoch),
            "train/lr": 0.06 * (1 - epoch / epochs),
        }
        if epoch % every == 0 or epoch == epochs:
            reached = top1 - 30 * (1 - epoch / epochs) ** 2
            line |= {KNN.top1: reached, KNN.metric(5): min(100.0, reached + 40), KNN_HEAD.top1: reached - 4, **measures}
        lines.append(line | {"seconds": seconds * epoch / epochs})
    return lines


def write_run(
    runs_dir: Path,
    cfg: Config,
    top1: float = 50.0,
    *,
    epochs: int | None = None,
    error: str = "",
    seconds: float = 1200.0,
    measures: Mapping[str, float] = {},  # noqa: B006 - read alone
    **more: float,
) -> Path:
    """The folder of a run of that configuration with kNN `top1` and the linear results in `more` (linear=60.0).

    Args:
        epochs: it has come only so far, and has no result.
        error: what it failed with.
        measures: what was measured without labels.
    """
    folder = runs_dir / folder_name(cfg)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(cfg.frozen(), indent=1) + "\n")
    lines = curve(cfg, top1, seconds, measures)
    result: dict[str, Json] = {KNN.top1: top1, KNN.metric(5): min(99.0, top1 + 40), **measures}
    result |= {"best": {KNN.top1: top1 + 1, "epoch": 3}, **SIZES}
    result |= {"evaluated_on": "test", "seconds": seconds, "steps": 390 * cfg.epochs, "epochs": cfg.epochs}
    result |= PROBE if more else {}
    for name, value in more.items():
        scores: dict[str, Json] = {f"{name}/top1": value, f"{name}/top5": min(99.5, value + 30)}
        result |= scores
        lines.append({"epoch": cfg.epochs, "step": 390 * cfg.epochs, **scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:epochs]))
    if error:
        (folder / "error.txt").write_text(error)
    elif epochs is None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_paused(
    runs_dir: Path,
    cfg: Config,
    epoch: int,
    top1: float = 50.0,
    *,
    why: str = "rung 1 of 2: rank 2 of the 3 that are here, of 3",
    place: Place | None = None,
) -> Path:
    """The folder of a run that was paused at a rung after this epoch, with kNN `top1` there.

    Args:
        place: of the job that held it.
    """
    folder = write_run(runs_dir, cfg, top1 + 30 * (1 - epoch / cfg.epochs) ** 2, epochs=epoch)
    path = folder / "metrics.jsonl"
    *before, last = [json.loads(line) for line in path.read_text().splitlines()]
    last |= {KNN.top1: top1, KNN.metric(5): min(99.0, top1 + 40)}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*before, last]))
    (folder / "checkpoint.pt").touch()
    said, now = f"paused at epoch {epoch}, {why}", time.time()
    held = Holder("", machine(), "node7", 1, None, now, "train", "cpu", place or Place(), {}, State.PAUSED, said, now)
    (folder / "lease.json").write_text(json.dumps(dataclasses.asdict(held)))
    return folder


def write_sweep(runs_dir: Path, name: str, folders: Sequence[Path]) -> None:
    """runs_dir/sweeps/<name>/sweep.json with these runs."""
    folder = runs_dir / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"name": name, "runs": [f.name for f in folders], "launches": []}))
