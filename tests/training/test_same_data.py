"""A run goes on with, is done on and is probed on the images that it was trained on, and on no others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import METHODS, TINY, composed
from PIL import Image

from moco.config.check import check_linear_eval
from moco.config.schema import Config, Data, LinearEval
from moco.data.files import tree_fingerprint
from moco.errors import UserError
from moco.io import read_mapping
from moco.runs.identity import folder_name, identity
from moco.runs.run import Run
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train
from moco.training.same_data import check_files, check_images, check_other, keep
from moco.training.trainer import Trainer


def add(root: Path, split: str, name: str, numbers: range) -> None:
    """Images of one class; each number makes another image."""
    (root / split / name).mkdir(parents=True, exist_ok=True)
    for i in numbers:
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / split / name / f"{i}.bmp")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for c, name in enumerate(("ant", "bee")):
        add(tmp_path / "insects", "train", name, range(100 * c, 100 * c + 16))
        add(tmp_path / "insects", "test", name, range(100 * c + 50, 100 * c + 54))
    return tmp_path / "insects"


@pytest.fixture
def config(checked: Callable[..., Config]) -> Callable[..., Config]:
    """config(root, "epochs=3") -> a run on these images that takes a second."""
    words = [word for word in TINY if not word.startswith(("data", "batch_size"))]
    return lambda root, *more: checked(
        *METHODS["simclr"], *words, "data=image_folder", f"data.root={root}", "batch_size=16", *more
    )


def refused(job: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        job()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def probe(config: Config, *words: str) -> LinearEval:
    return check_linear_eval(
        composed(
            f"runs_dir={config.runs_dir}", "tracker=none", "probe=cached", "probe.epochs=1", *words, entry="linear_eval"
        )
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Cut(Exception):
    """A training that ends after its first checkpoint."""


def stopped(config: Config, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with a checkpoint and no result."""
    save = Trainer.save

    def cut(trainer: Trainer) -> None:
        save(trainer)
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", cut)
        with pytest.raises(Cut):
            train(config)
    return Run(Path(config.runs_dir) / folder_name(config))


def test_a_stopped_run_does_not_go_on_with_other_images(
    root: Path, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
):
    asked = config(root, "checkpoint_minutes=0", "data.name=insects")
    run = stopped(asked, monkeypatch)
    (run.folder / "error.txt").unlink()
    shutil.copytree(root, root.parent / "before")
    before = contents(run.folder)
    add(root, "train", "bee", range(300, 310))
    message = refused(lambda: train(asked))
    assert f"{run.folder} was trained on other images (32 training images then, 42 training images now)" in message
    assert "data.name=<another>" in message and "rerun=true" in message
    assert contents(run.folder) == before
    moved = config(root.parent / "before", "data.name=insects")
    assert train(moved) >= 0 and run.result  # the same images elsewhere are the same data


def test_a_run_that_goes_on_in_another_precision_says_so(
    root: Path, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = stopped(config(root, "precision=fp32", "checkpoint_minutes=0"), monkeypatch)
    [attempt] = json.loads((run.folder / "provenance.json").read_text())
    (run.folder / "provenance.json").write_text(json.dumps([{**attempt, "precision": "bf16"}]))
    train(config(root, "precision=fp32"))
    out = capsys.readouterr()
    assert "was trained in bf16 so far, and goes on in fp32" in out.out + out.err


def test_as_many_images_that_are_others_are_noticed(
    root: Path, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
):
    asked = config(root, "checkpoint_minutes=0")
    stopped(asked, monkeypatch)
    shutil.copy(root / "train" / "ant" / "3.bmp", root / "train" / "ant" / "4.bmp")
    assert "(as many, but not the same)" in refused(lambda: train(asked))
    shutil.rmtree(root / "test" / "bee")
    (root / "test" / "ant").rename(root / "test" / "asp")
    (root / "train" / "ant").rename(root / "train" / "asp")
    shutil.copytree(root / "test" / "asp", root / "test" / "bee")
    assert "(classes ant, bee then, classes asp, bee now)" in refused(lambda: train(asked))
    train(asked.model_copy(update={"rerun": True}))


def test_a_finished_run_is_not_done_with_other_images(root: Path, config: Callable[..., Config]):
    asked = config(root)
    train(asked)
    run = Run(Path(asked.runs_dir) / folder_name(asked))
    before = contents(run.folder)
    train(asked)
    add(root, "train", "ant", range(400, 464))
    assert "(32 training images then, 96 training images now)" in refused(lambda: train(config(root)))
    add(root, "train", "cat", range(3))
    assert "(now " in refused(lambda: train(config(root))) and contents(run.folder) == before
    assert identity(config(root, "data.name=more")) != identity(asked)
    shutil.rmtree(root)
    assert train(config(root)) >= 0  # what is done needs no images
    root.mkdir()
    assert train(config(root)) >= 0  # a disk that is not mounted


def test_a_finished_run_is_not_done_with_another_set_of_the_hub_that_ends_in_the_same_word(tiny: Callable[..., Config]):
    train(asked := tiny("simclr", "epochs=1"))
    run = Run(Path(asked.runs_dir) / folder_name(asked))
    config = json.loads((run.folder / "config.json").read_text())
    config["data"] = {"name": "birds", "_target_": "moco.data.load_huggingface", "path": "a/birds", "validation": 0.0}
    (run.folder / "config.json").write_text(json.dumps(config))
    check_files(run, run.config)
    other = run.config.model_copy(update={"data": run.config.data.model_copy(update={"path": "b/birds"})})
    assert "(data.path=a/birds then, b/birds now)" in refused(lambda: check_files(run, other))


def test_a_finished_run_is_not_done_with_another_folder_of_hugging_faces_of_the_same_name(
    tiny: Callable[..., Config], tmp_path: Path
):
    for where, text in (("a", "x"), ("b", "xyz")):
        (tmp_path / where / "birds").mkdir(parents=True)
        (tmp_path / where / "birds" / "data.parquet").write_text(text)
        (tmp_path / where / "birds" / ".moco").mkdir()
    train(asked := tiny("simclr", "epochs=1"))
    run = Run(Path(asked.runs_dir) / folder_name(asked))
    config, record = (json.loads((run.folder / name).read_text()) for name in ("config.json", "data.json"))
    config["data"] = {"name": "birds", "_target_": "moco.data.load_huggingface", "validation": 0.0}
    config["data"]["path"] = str(tmp_path / "a" / "birds")
    (run.folder / "config.json").write_text(json.dumps(config))
    (run.folder / "data.json").write_text(json.dumps(record | {"files": tree_fingerprint(tmp_path / "a" / "birds")}))
    check_files(run, run.config)
    other = run.config.data.model_copy(update={"path": str(tmp_path / "b" / "birds")})
    assert "(files of other names or sizes)" in refused(
        lambda: check_files(run, run.config.model_copy(update={"data": other}))
    )
    (tmp_path / "a").rename(tmp_path / "c")
    check_files(run, run.config)  # a disk that is not mounted
    moved = run.config.data.model_copy(update={"path": str(tmp_path / "c" / "birds")})
    check_files(run, run.config.model_copy(update={"data": moved}))


def test_another_column_of_labels_is_another_set_to_evaluate_on(tiny: Callable[..., Config]):
    train(asked := tiny("simclr", "epochs=1"))
    run = Run(Path(asked.runs_dir) / folder_name(asked))
    words = {"name": "cifar100", "_target_": "moco.data.load_huggingface", "path": "a/cifar100", "validation": 0.0}
    fine, coarse = (Data.model_validate({**words, "label": label}) for label in ("fine", "coarse"))
    keep(run, {"files": None}, fine)
    check_other(run, fine)
    assert "(data.label=fine then, coarse now)" in refused(lambda: check_other(run, coarse))


def test_a_run_whose_images_have_moved_is_probed_where_they_are(root: Path, config: Callable[..., Config]):
    asked = config(root)
    train(asked)
    run = Run(Path(asked.runs_dir) / folder_name(asked))
    root.rename(root.parent / "moved")
    assert f"{root}, where the images of {run.folder} should be" in refused(lambda: linear_eval(run, probe(asked)))
    before = contents(run.folder)
    add(root.parent / "other", "train", "ant", range(500, 516))
    add(root.parent / "other", "test", "ant", range(600, 604))
    message = refused(lambda: linear_eval(run, probe(asked, f"data.root={root.parent}/other")))
    assert "was trained on other images" in message and message.endswith("give data.root=<where they are>")
    assert contents(run.folder) == before
    linear_eval(run, probe(asked, f"data.root={root.parent}/moved"))
    assert "linear_cached/top1" in (run.result or {}) and run.config.data.root == str(root)


def test_a_relative_root_is_kept_absolute_and_is_no_part_of_the_id(
    root: Path, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(root.parent)
    relative, absolute = config("insects"), config(root)
    assert relative.data.root == str(root) == absolute.data.root
    assert identity(relative) == identity(absolute) == identity(config("elsewhere/insects"))
    monkeypatch.setenv("HOME", str(root.parent))
    assert config("'~/insects'").data.root == str(root)
    assert config("insects/../insects/.").data.name == "insects"
    assert probe(relative, "data.root=insects").data.root == str(root) and probe(relative).data.root is None


def test_the_record_is_of_all_data(tiny: Callable[..., Config]):
    asked = tiny()
    train(asked)
    record = read_mapping(Path(asked.runs_dir) / folder_name(asked) / "data.json")
    assert record and record["files"] is None and record["train_images"] == [1437, 3, 8, 8]
    assert record["classes"] == [*"0123456789"] and len(str(record["fingerprint"])) == 16


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3, "train_images": {}, "classes": null, "fingerprint": []}']
)
def test_a_damaged_record_is_no_traceback(root: Path, config: Callable[..., Config], text: str):
    asked = config(root)
    train(asked)
    record = Path(asked.runs_dir) / folder_name(asked) / "data.json"
    record.write_text(text)
    if len(text) > 2:
        assert "was trained on other images" in refused(lambda: check_images(Run(record.parent), {"fingerprint": "a"}))
    else:
        assert train(asked) >= 0
