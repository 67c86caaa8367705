"""Training on images without labels: scored by labelled ones beside them, or not at all."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import METHODS, TINY, composed
from PIL import Image

from moco.analysis.records import read
from moco.config.check import check_linear_eval
from moco.config.schema import Config
from moco.errors import UserError
from moco.launch.job import Task
from moco.protocols import MEASURES
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.runs.state import State
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train


def add(folder: Path, n: int, level: int = 128) -> None:
    """Images whose brightness is about `level`."""
    folder.mkdir(parents=True)
    for i in range(n):
        noise = np.random.default_rng(i).integers(-40, 40, (8, 8, 3))
        Image.fromarray((level + noise).astype(np.uint8)).save(folder / f"{i}.bmp")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path / "flat" / "train", 32)
    return tmp_path / "flat"


@pytest.fixture
def config(checked: Callable[..., Config], root: Path) -> Callable[..., Config]:
    words = [word for word in TINY if not word.startswith(("data", "batch_size"))]
    return lambda *more: checked(
        *METHODS["simclr"], *words, "data=image_folder", f"data.root={root}", "batch_size=16", *more
    )


def run_of(config: Config) -> Run:
    return Run(Path(config.runs_dir) / folder_name(config))


@pytest.mark.parametrize("beside, words", [(("labelled", "test"), ()), (("val",), ("data.validation=0.5",))])
def test_labelled_images_beside_them_vote_and_are_not_trained_on(
    root: Path, config: Callable[..., Config], beside: tuple[str, ...], words: tuple[str, ...]
):
    for split in beside:
        for level, name in ((60, "dark"), (200, "light")):
            add(root / split / name, 10, level)
    asked = config(*words)
    assert 0 <= train(asked) <= 100
    result = run_of(asked).result
    assert result and result["train_images"] == 32 and result["test_images"] == (20 if len(beside) == 2 else 10)
    linear_eval(
        run_of(asked),
        check_linear_eval(composed("tracker=none", "probe=cached", "probe.epochs=1", entry="linear_eval")),
    )
    assert "linear_cached/top1" in (run_of(asked).result or {})


def test_without_any_label_there_is_a_run_without_scores(
    config: Callable[..., Config], capfd: pytest.CaptureFixture[str]
):
    asked = config()
    assert math.isnan(train(asked)) and math.isnan(train(asked))
    out, err = capfd.readouterr()
    assert out.count("not evaluated, as its data has no labels") == 2 and "has no labels: there is no kNN" in err
    run = run_of(asked)
    assert run.state() == State.DONE and Task(run, asked).state() == State.DONE and Task(run, asked).value() is None
    assert run.result and run.result["knn/top1"] is None and run.result["params"]
    assert len(run.metrics()) == 2 and all("train/loss" in line for line in run.metrics())
    assert all(MEASURES.keys() <= line.keys() for line in run.metrics()) and run.result["repr/rankme"] > 0
    with pytest.raises(UserError, match="has no labels to fit a classifier to"):
        linear_eval(run, check_linear_eval(composed("tracker=none", entry="linear_eval")))
    entry = read(run)
    assert entry.result and not entry.problem and "knn/top1" not in entry.result.metrics


def test_linear_evaluation_without_labels_is_refused_before_training(config: Callable[..., Config]):
    asked = config("linear_eval=true")
    with pytest.raises(UserError, match="linear_eval=true needs labels"):
        train(asked)
    assert not Path(asked.runs_dir).exists()
