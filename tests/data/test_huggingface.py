"""Hugging Face data sets from folders of every kind, without a network."""

import shutil
from pathlib import Path

import datasets
import pytest
import torch
from equality import equal
from photos import SIZES, picture

from moco.data import Dataset, load_huggingface, load_image_folder
from moco.data.there import check_data
from moco.errors import UserError

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def own_cache_of_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def split(n: int, first: int, kind: object) -> "datasets.Dataset":
    """n pictures of several sizes; labels of that kind go round."""
    photos = [picture(first + i, *SIZES[i % len(SIZES)]) for i in range(n)]
    labels = [i % len(NAMES) for i in range(n)]
    if isinstance(kind, datasets.Value) and kind.dtype == "string":
        labels = [NAMES[label] for label in labels]
    elif isinstance(kind, datasets.Value):
        labels = [10 * label for label in labels]
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset.from_dict({"image": photos, "label": labels}, features=features)


def splits(kind: object = None, test: str = "test") -> "datasets.DatasetDict":
    kind = kind or datasets.ClassLabel(names=NAMES)
    return datasets.DatasetDict({"train": split(12, 0, kind), test: split(6, 100, kind)})


def load(path: Path | str, **given: object) -> Dataset:
    return load_huggingface(str(path), **{"image": "image", "label": "label", "size": 16, **given})  # type: ignore[arg-type]


def refused(path: Path | str, **given: object) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_kinds_of_folders_give_the_pixels_of_an_image_folder(tmp_path: Path) -> None:
    whole = splits()
    whole.save_to_disk(tmp_path / "saved")
    for name, part in whole.items():
        (tmp_path / "parquet" / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(tmp_path / "parquet" / "data" / f"{name}-00000-of-00001.parquet")
        for i, row in enumerate(part):
            path = tmp_path / "files" / name / NAMES[row["label"]] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(path)
    expected = load_image_folder(str(tmp_path / "files"), 16).loaded()
    order = torch.arange(12).view(4, 3).T.reshape(-1), torch.arange(6).view(2, 3).T.reshape(-1)  # by class
    for kind in ("saved", "parquet"):
        found = load(tmp_path / kind).loaded()
        assert found.classes == NAMES and isinstance(found.train_images, torch.Tensor)
        assert torch.equal(found.train_images[order[0]], expected.train_images)
        assert torch.equal(found.train_labels[order[0]], expected.train_labels)
        assert torch.equal(found.test_images[order[1]], expected.test_images)
        assert [path.name for path in (tmp_path / kind / ".moco").glob("*.pack")] == ["16-raw.pack"]
    shutil.rmtree(tmp_path / "files" / ".moco")
    assert equal(load(tmp_path / "files"), expected)  # a folder of images, as `datasets` reads it


def test_a_second_reading_decodes_nothing_and_jpeg_keeps_its_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits(test="validation").save_to_disk(tmp_path / "saved")
    first = load(tmp_path / "saved", packed="jpeg")
    monkeypatch.setattr("moco.data.packing.read_small", lambda *_: pytest.fail("decoded again"))
    again = load(tmp_path / "saved", packed="jpeg")
    assert again.fingerprint() == first.fingerprint() and again.train_images.shape == (12, 3)
    assert len(again.test_images) == 6


@pytest.mark.parametrize("kind", ["string", "int64"])
def test_labels_that_are_words_or_numbers(tmp_path: Path, kind: str) -> None:
    splits(datasets.Value(kind)).save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved")
    assert found.classes == (NAMES if kind == "string" else ["0", "10", "20"])
    assert found.train_labels.tolist() == [0, 1, 2] * 4


def test_a_test_split_without_labels_is_not_evaluated_on(tmp_path: Path) -> None:
    whole = splits(test="validation")
    features = whole["train"].features
    whole["test"] = split(3, 200, features["label"]).map(lambda row: {"label": -1}, features=features)
    whole.save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved")
    assert len(found.test_images) == 6 and found.test_labels.min() == 0


def test_images_without_a_label_among_others_are_trained_on_alone(tmp_path: Path) -> None:
    for i, kind in enumerate((datasets.ClassLabel(names=NAMES), datasets.Value("string"))):
        whole = splits(kind)
        features = whole["train"].features
        whole["train"] = whole["train"].map(
            lambda row, i: {"label": None} if i == 4 else row, with_indices=True, features=features
        )
        whole.save_to_disk(tmp_path / str(i))
        found = load(tmp_path / str(i))
        assert found.train_labels.tolist() == [0, 1, 2, 0, -1, 2, 0, 1, 2, 0, 1, 2] and found.classes == NAMES
        assert len(found.labelled()[0]) == 11


def test_a_class_named_none_is_a_class_and_a_test_image_without_a_label_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = splits(datasets.Value("string")).map(lambda row: {"label": row["label"].replace("ant", "None")})
    features = whole["test"].features
    whole["test"] = whole["test"].map(
        lambda row, i: {"label": None} if i == 1 else row, with_indices=True, features=features
    )
    whole.save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved")
    assert found.classes == ["None", "bee", "cat"] and found.train_labels.tolist() == [0, 1, 2] * 4
    assert found.test_labels.tolist() == [0, 2, 0, 1, 2] and len(found.test_images) == 5
    assert "images of test that have no label are left out (1)" in capsys.readouterr().err


def test_a_row_without_an_image_is_named_and_other_columns_are_not_read(tmp_path: Path) -> None:
    """Also of a set that was saved in the form of torch's tensors."""
    whole = splits(datasets.Value("int64"))
    for name, part in whole.items():
        masks = [{"bytes": b"no image", "path": None}] * len(part)
        whole[name] = part.add_column("mask", masks).cast_column("mask", datasets.Image(decode=False))
    features = whole["train"].features
    whole["train"] = whole["train"].map(
        lambda row, i: {"image": None} if i == 4 else row, with_indices=True, features=features
    )
    whole = whole.cast_column("mask", datasets.Image()).with_format("torch")
    whole.save_to_disk(tmp_path / "saved")
    assert "image 4 of train is not a readable image (its row has none)" in refused(tmp_path / "saved")
    found = load(tmp_path / "saved", skip_corrupt=True)
    assert len(found.train_images) == 11 and found.classes == ["0", "10", "20"]


def test_each_column_of_images_has_a_pack_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits().map(lambda row: {"other": row["image"].rotate(90)}).save_to_disk(tmp_path / "saved")
    load(tmp_path / "saved")
    load(tmp_path / "saved", image="other")
    monkeypatch.setattr("moco.data.packing.read_image", lambda *_: pytest.fail("decoded again"))
    load(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved" / ".moco").glob("*.pack")}
    assert names == {"16-raw.pack", "other-16-raw.pack"}


def test_without_labels_and_without_a_test_split(tmp_path: Path) -> None:
    split(5, 0, datasets.Value("int64")).save_to_disk(tmp_path / "saved")
    found = load(tmp_path / "saved", label=None)
    assert not found.classes and found.train_labels.tolist() == [-1] * 5 and len(found.test_images) == 0


def test_an_image_that_cannot_be_read_is_named_by_its_row(tmp_path: Path) -> None:
    whole = splits()
    bad = whole["train"].cast_column("image", datasets.Image(decode=False))
    bad = bad.map(lambda row, i: {"image": {"bytes": b"no image", "path": None}} if i == 4 else row, with_indices=True)
    whole["train"] = bad.cast_column("image", datasets.Image())
    whole.save_to_disk(tmp_path / "saved")
    assert refused(tmp_path / "saved").startswith(f"{tmp_path}/saved: image 4 of train is not a readable image (cannot")
    assert len(load(tmp_path / "saved", skip_corrupt=True).train_images) == 11


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits().save_to_disk(tmp_path / "saved")
    assert refused(tmp_path / "saved", image="photo") == (
        f"data.image=photo is no column of images in {tmp_path}/saved (it has image)"
    )
    assert refused(tmp_path / "saved", label="y").endswith("(it has image, label): give another, or data.label=null")
    assert refused(tmp_path / "none") == f"data.path={tmp_path}/none is not a folder"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith(f"data.path={tmp_path}/empty cannot be loaded (")
    datasets.DatasetDict({"test": split(3, 0, datasets.Value("int64"))}).save_to_disk(tmp_path / "test")
    assert refused(tmp_path / "test") == f"data.path={tmp_path}/test has no split train (it has test)"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(tmp_path / "saved") == "data=huggingface needs datasets: pip install datasets"
    with pytest.raises(UserError, match="needs datasets"):
        check_data("moco.data.load_huggingface", None, None, 0.0, "a/b", False)
