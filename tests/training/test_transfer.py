"""The frozen backbone of a run on another data set than its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import composed
from PIL import Image

from moco.analysis.numbers import lacking
from moco.analysis.table import lines
from moco.config.check import check_linear_eval
from moco.config.schema import Config, OtherData
from moco.data import load_image_folder
from moco.errors import UserError
from moco.evaluation.features import Labelled
from moco.evaluation.knn import knn
from moco.launch.data import refuse_changed, refuse_missing
from moco.launch.preflight import linear_tasks
from moco.runs.lease import Stopped
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.runs.sweep import Sweep
from moco.training.checkpoint import load_encoder
from moco.training.components import Components
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import summary, train
from moco.training.signals import Signals

Make = Callable[..., Config]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger images than the digits: bright left or bright right halves in noise."""
    root, noise = tmp_path_factory.mktemp("data") / "halves", np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 5)):
        for side, name in enumerate(("left", "right")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = noise.integers(0, 120, (12, 12, 3), dtype=np.uint8)
                pixels[:, 6 * side : 6 * side + 6] += 100
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def run(tiny: Make, tmp_path: Path) -> Run:
    train(tiny("simclr", "epochs=1"))
    [run] = all_runs(tmp_path / "runs")
    return run


def asked(*words: str, run: str | None = None, sweep: str | None = None, runs_dir: str = "runs") -> Any:
    where = [f"runs_dir={runs_dir}", *([f"run={run}"] if run else []), *([f"sweep={sweep}"] if sweep else [])]
    fast = ["tracker=none", "device=cpu", "probe=cached", "probe.epochs=2", *where]
    return check_linear_eval(composed(*fast, *words, entry="linear_eval"))


def test_its_numbers_stand_beside_the_own_ones(run: Run, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = run.result or {}
    linear_eval(run, asked("data=image_folder", f"data.root={shapes}"))
    result = run.result or {}
    assert {key: result[key] for key in own} == own
    new = {key for key in result.keys() - own.keys() if key != "probes"}
    assert new == {f"halves/{prefix}/top{k}" for prefix in ("knn", "linear_cached") for k in (1, 5)}
    assert run.metrics()[-1] == {"epoch": 1, "step": own["steps"], **{key: result[key] for key in new}}
    assert result["probes"]["halves/cached"]["params_classifier"] == (16 + 1) * 2 and not lacking(result)
    assert f"kNN on halves {result['halves/knn/top1']:.2f} / " in summary(result)

    # Normalised by the run's mean and deviation, in the size of its own images; all 24 images vote, fewer than k would.
    parts = Components(run.config, "cpu")
    encoder, data = load_encoder(run, parts.encoder).eval(), load_image_folder(str(shapes), None).loaded()

    def features(images: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.interpolate(images.float() / 255, size=(8, 8), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(result[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.no_grad(), parts.autocast():
            return encoder((x - mean) / std).float()

    bank, queries = Labelled(features(data.train_images), data.train_labels), features(data.test_images)
    want = knn(bank, Labelled(queries, data.test_labels), k=5, temperature=run.config.knn_temperature, num_classes=2)
    assert result["halves/knn/top1"] == pytest.approx(want.top1) and want.top1 > 50

    capsys.readouterr()
    linear_eval(run, asked("data=image_folder", f"data.root={shapes}", "probe.lr=0.5"))
    assert "has its linear evaluation (halves/cached)" in (said := capsys.readouterr().out) and "probe.lr=0.001" in said
    linear_eval(run, asked("data=image_folder", f"data.root={shapes}", "probe.lr=0.5", "rerun=true"))
    assert (run.result or {})["probes"]["halves/cached"]["lr"] == 0.5 and not list(run.folder.glob("again.*"))

    found = lines([run])
    assert [(line.row["Protocol"], line.row["Transfer to"]) for line in found] == [
        ("kNN", None), ("kNN", "halves"), ("Linear (cached)", "halves"),
    ]  # fmt: skip
    assert [*found[0].row][:3] == ["Protocol", "Transfer to", "Method"]


def test_views_and_grids_transfer_too(run: Run, shapes: Path) -> None:
    words = ["data=image_folder", f"data.root={shapes}", "data.name=half/s", "probe.epochs=2"]
    linear_eval(run, asked(*words, "probe=moco"))
    linear_eval(run, asked(*words, "probe=grid"))
    result = run.result or {}
    for metric in ("knn", "linear_moco", "linear_grid"):
        assert 0 <= result[f"half_s/{metric}/top1"] <= result[f"half_s/{metric}/top5"] == 100
    assert "chosen" in result["probes"]["half_s/grid"] and "augmented" not in result["probes"]


def test_other_images_under_the_name_of_another_set_are_refused_until_they_are_to_replace_it(
    run: Run, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["data=image_folder", f"data.root={shapes}"]
    linear_eval(run, asked(*here, "data.validation=0.25"))
    held_out = (run.result or {})["halves/linear_cached/top1"]
    with pytest.raises(UserError, match=r"images named halves \(data.validation=0.25 then, 0.0 now\): give data.name="):
        linear_eval(run, asked(*here))
    with pytest.raises(UserError, match="data.validation=0.25 then"):
        linear_eval(run, asked(*here, "probe=grid"))
    moved = tmp_path / "elsewhere" / "halves"
    shutil.copytree(shapes, moved)
    linear_eval(run, asked("data=image_folder", f"data.root={moved}", "data.validation=0.25"))
    assert "has its linear evaluation" in capsys.readouterr().out
    (moved / "train" / "left" / "0.png").rename(moved / "train" / "right" / "new.png")
    there = ["data=image_folder", f"data.root={moved}"]
    with pytest.raises(UserError, match="as many, but not the same"):
        linear_eval(run, asked(*there, "data.validation=0.25"))
    Sweep(tmp_path / "runs", "s").record([run.folder.name])
    words = dict(sweep="s", runs_dir=f"{tmp_path}/runs")
    with pytest.raises(UserError, match="as many, but not the same"):
        refuse_changed(linear_tasks(asked(*there, "data.validation=0.25", **words)))
    assert (run.result or {})["halves/linear_cached/top1"] == held_out

    linear_eval(run, asked(*here, "probe=grid", "rerun=true"))
    result = run.result or {}
    assert "halves/linear_grid/top1" in result and "halves/linear_cached/top1" not in result
    assert "halves/cached" not in result["probes"]
    linear_eval(run, asked(*here))
    assert "halves/linear_cached/top1" in (run.result or {})


def test_training_views_have_no_say_in_a_transfer(tiny: Make, shapes: Path, tmp_path: Path) -> None:
    train(tiny("simclr", "epochs=1", "data.size=16", "augment.smaller=[[12,0.5]]"))
    [run] = all_runs(tmp_path / "runs")
    linear_eval(run, asked("data=image_folder", f"data.root={shapes}"))  # of 12 pixels
    assert "halves/linear_cached/top1" in (run.result or {})


def test_what_was_fitted_to_other_images_does_not_go_on(
    run: Run, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ["data=image_folder", f"data.root={shapes}", "data.validation=0.25"]
    stopped_after_a_step(monkeypatch)
    with pytest.raises(Stopped):
        linear_eval(run, asked(*here))
    assert list(run.folder.glob("probe_*.pt"))
    monkeypatch.undo()
    with pytest.raises(UserError, match="data.validation=0.25 then"):
        linear_eval(run, asked(*here[:2]))
    linear_eval(run, asked(*here[:2], "rerun=true"))
    assert not list(run.folder.glob("probe_*.pt"))


def stopped_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next linear evaluation saves and stops, as after a signal."""
    monkeypatch.setattr(Signals, "decide", lambda self, due: (True, "SIGTERM"))


def test_own_data_and_data_without_labels_are_no_transfer(run: Run, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data=digits is what .* was trained on: leave it out"):
        linear_eval(run, asked("data=digits"))
    unlabelled = tmp_path / "unlabelled" / "train"
    unlabelled.mkdir(parents=True)
    for file in (shapes / "train" / "left").iterdir():
        (unlabelled / file.name).write_bytes(file.read_bytes())
    before = (run.folder / "result.json").read_bytes()
    with pytest.raises(UserError, match="data=unlabelled has no labels"):
        linear_eval(run, asked("data=image_folder", f"data.root={tmp_path}/unlabelled"))
    assert (run.folder / "result.json").read_bytes() == before


def test_a_sweep_transfers_and_its_data_is_looked_for_first(run: Run, shapes: Path, tmp_path: Path) -> None:
    Sweep(tmp_path / "runs", "s").record([run.folder.name])
    words = dict(sweep="s", runs_dir=f"{tmp_path}/runs")
    [task] = linear_tasks(asked("data=image_folder", f"data.root={shapes}", **words))
    assert isinstance(task.evaluations[0], OtherData) and task.missing == ["halves/linear_cached"]
    refuse_missing([task])
    task.freeze("now")
    assert [path.name for path in run.folder.glob("again.*")] == ["again.halves@linear_cached"]
    linear_eval(run, task.evaluations[0])
    assert task.missing == ["halves/linear_cached"]  # the order stands: whoever is not of that launch has not obeyed it
    task.withdraw()
    assert not task.missing and not list(run.folder.glob("again.*"))
    [absent] = linear_tasks(asked("data=image_folder", "data.root=/nowhere/else", **words))
    with pytest.raises(UserError, match="/nowhere/else"):
        refuse_missing([absent])
