"""Data sets: what they hold, what the cache does, and one line for each thing that can be wrong with a folder."""

import io
import pickle
import shutil
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from moco.data import dataset as data
from moco.data.dataset import Dataset, load_image_folder, load_torchvision
from moco.data.dataset import load_digits as digits

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
CLASSES = ["ant", "bee", "cat"]


def equal(one: Dataset, other: Dataset) -> bool:
    return one.classes == other.classes and all(torch.equal(getattr(one, n), getattr(other, n)) for n in TENSORS)


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """root/train with 4 and root/test with 2 images of 8x8 in each of three classes; some of them JPEG, one gray."""
    root = tmp_path / "insects"
    for split, n in (("train", 4), ("test", 2)):
        for c, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                suffix = "JPEG" if i == 1 else "png"
                Image.fromarray(pixels(10 * c + i)).save(root / split / name / f"{i}.{suffix}")
    Image.fromarray(pixels(99)[..., 0]).save(root / "train" / "ant" / "0.png")
    (root / "train" / "ant" / "notes.txt").write_text("not an image, and not taken for one")
    return root


def refused(root: Path | str | None, size: int | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        load_image_folder(None if root is None else str(root), size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Digits


def test_digits_are_scikit_learns_with_every_fifth_for_test():
    found, raw = digits(8), load_digits()
    gray = torch.from_numpy(raw.images * 255 / 16)  # [1797, 8, 8]
    test = torch.arange(1797) % 5 == 0
    for images, labels, part in (
        (found.train_images, found.train_labels, ~test),
        (found.test_images, found.test_labels, test),
    ):
        assert (
            images.shape == (int(part.sum()), 3, 8, 8) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        )
        assert torch.equal(labels, torch.from_numpy(raw.target)[part])
        for channel in images.unbind(1):
            assert (channel - gray[part]).abs().max() <= 0.5001
    assert found.classes == list("0123456789") and len(found.train_labels) + len(found.test_labels) == 1797
    assert equal(found, digits(8))


def test_digits_in_other_sizes():
    assert digits(16).train_images.shape == (1437, 3, 16, 16)
    means = [float(digits(size).train_images.float().mean()) for size in (8, 16)]
    assert means[0] == pytest.approx(means[1], rel=0.02)


# What a data set can do


def labelled_set(labels: list[int], classes: int) -> Dataset:
    """Images that tell their index in the first channel."""
    images = torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
    return Dataset(images, torch.tensor(labels), images[:1], torch.tensor(labels[:1]), [str(c) for c in range(classes)])


def test_labelled_leaves_out_what_has_no_label():
    images, labels = labelled_set([0, -1, 1, -1, 1], 2).labelled()
    assert labels.tolist() == [0, 1, 1] and images[:, 0, 0, 0].tolist() == [0, 2, 4]
    whole = labelled_set([0, 1, 1], 2)
    assert whole.labelled()[0] is whole.train_images


def test_hold_out_is_stratified_disjoint_and_always_the_same():
    whole = labelled_set([i % 4 if i < 120 else -1 for i in range(140)], 4)
    torch.manual_seed(1)
    first = whole.hold_out(0.2)
    torch.manual_seed(2)
    again = whole.hold_out(0.2)
    assert equal(first, again)
    assert torch.bincount(first.test_labels).tolist() == [6] * 4  # a fifth of 30
    train, test = (set(images[:, 0, 0, 0].tolist()) for images in (first.train_images, first.test_images))
    assert not train & test and train | test == set(range(140))
    assert int((first.train_labels == -1).sum()) == 20  # what has no label stays for training
    indices = first.test_images[:, 0, 0, 0]
    assert torch.equal(whole.train_labels[indices.long()], first.test_labels)
    assert indices.tolist() != sorted(range(24))  # not just the first ones


def test_moments_are_those_of_all_pixels():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 6, 6), dtype=np.uint8))
    images[:, 1] //= 3
    mean, std = Dataset(images, torch.zeros(50).long(), images, torch.zeros(50).long(), ["x"]).moments()
    scaled = images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), abs=6e-5)
    assert std == pytest.approx(scaled.std((0, 2, 3)), abs=6e-5)


def test_moments_of_one_colour_can_be_divided_by():
    images = torch.full((4, 3, 2, 2), 51, dtype=torch.uint8)
    mean, std = Dataset(images, torch.zeros(4).long(), images, torch.zeros(4).long(), ["x"]).moments()
    assert mean == [0.2] * 3 and min(std) > 0


def test_to_keeps_everything():
    whole = labelled_set([0, 1, -1], 2)
    assert equal(whole.to(torch.device("cpu")), whole)
    assert whole.to(torch.device("meta")).test_labels.device.type == "meta"


# Image folders


def test_image_folder_holds_the_files_in_order_of_class_and_name(folder: Path):
    found = load_image_folder(str(folder), None)
    assert found.classes == CLASSES
    assert found.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and found.test_labels.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert found.train_images.shape == (12, 3, 8, 8) and found.train_images.dtype == torch.uint8
    files = [p for name in CLASSES for p in sorted((folder / "train" / name).iterdir()) if p.suffix != ".txt"]
    for image, path in zip(found.train_images, files):
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_a_second_reading_comes_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = load_image_folder(str(folder), 4)
    monkeypatch.setattr(data, "_read_image", lambda path, size: pytest.fail(f"{path} was decoded again"))
    assert equal(first, load_image_folder(str(folder), 4))
    with pytest.raises(pytest.fail.Exception):
        load_image_folder(str(folder), 5)  # another size is another cache


def test_a_changed_folder_is_decoded_anew(folder: Path):
    before = load_image_folder(str(folder), None)
    Image.fromarray(pixels(1234)).save(folder / "train" / "bee" / "2.png")
    changed = load_image_folder(str(folder), None)
    assert not torch.equal(before.train_images[6], changed.train_images[6])
    assert torch.equal(changed.train_images[6].permute(1, 2, 0), torch.from_numpy(pixels(1234)))
    (folder / "test" / "cat" / "1.JPEG").unlink()
    assert load_image_folder(str(folder), None).test_labels.tolist() == [0, 0, 1, 1, 2]


def test_a_damaged_or_unwritable_cache_is_no_obstacle(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = load_image_folder(str(folder), None)
    [cached] = (tmp_path / "cache" / "moco").iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    assert equal(first, load_image_folder(str(folder), None))
    cached.write_bytes(b"not a cache at all")
    assert equal(first, load_image_folder(str(folder), None))
    assert equal(first, load_image_folder(str(folder), None)) and cached.stat().st_size > 100  # mended
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert equal(first, load_image_folder(str(folder), None))


def test_val_serves_where_there_is_no_test(folder: Path):
    with_test = load_image_folder(str(folder), None)
    (folder / "test").rename(folder / "val")
    assert equal(load_image_folder(str(folder), None), with_test)


def test_size_cuts_the_centre_and_resizes(folder: Path):
    wide = pixels(7, 12, 20)
    Image.fromarray(wide).save(folder / "train" / "ant" / "0.png")
    found = load_image_folder(str(folder), 6)
    assert found.train_images.shape[1:] == found.test_images.shape[1:] == (3, 6, 6)
    centre = Image.fromarray(wide[:, 4:16]).resize((6, 6), Image.Resampling.BILINEAR)
    ours = found.train_images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(ours[:, 1:5], np.asarray(centre)[:, 1:5])  # the outer columns look a little beyond the cut


def test_no_root():
    assert "needs data.root" in refused(None)


def test_no_such_folder(folder: Path, tmp_path: Path):
    assert "has no folder train/" in refused(tmp_path)
    (folder / "test").rename(folder / "evaluation")
    assert "has no folder val/" in refused(folder) and "test/<class>/" in refused(folder)


def test_train_and_test_have_the_same_classes(folder: Path):
    (folder / "test" / "dog").mkdir()
    assert f"{folder / 'train'} has no class folder dog/" in refused(folder)
    (folder / "test" / "dog").rmdir()
    (folder / "test" / ".thumbnails").mkdir()
    assert load_image_folder(str(folder), None).classes == CLASSES
    shutil.rmtree(folder / "test" / "bee")
    assert f"{folder / 'test'} has no class folder bee/" in refused(folder)


def test_no_classes(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert f"{tmp_path / 'train'} has no class folder <class>/" in refused(tmp_path)


def test_a_class_without_images_names_what_it_holds(folder: Path):
    for path in (folder / "train" / "bee").iterdir():
        path.unlink()
    assert f"{folder / 'train' / 'bee'} has no image (it is empty)" in refused(folder)
    (folder / "train" / "bee" / "README.md").write_text("")
    assert f"{folder / 'train' / 'bee'} has no image (it holds README.md)" in refused(folder)


@pytest.mark.parametrize("content", ["empty", "text", "cut short"])
def test_an_unreadable_image_is_named(folder: Path, content: str):
    path = folder / "test" / "cat" / "0.png"
    path.write_bytes({"empty": b"", "text": b"no image", "cut short": path.read_bytes()[:120]}[content])
    message = refused(folder)
    assert message.startswith(f"{path} is not a readable image") and message.endswith("repair or remove it")


def test_images_of_several_sizes(folder: Path):
    Image.fromarray(pixels(0, 10, 12)).save(folder / "train" / "cat" / "3.png")
    assert refused(folder) == "images of several sizes, (8, 8) to (10, 12): give one with data.size=32"


def test_train_and_test_of_different_sizes(folder: Path):
    for path in (folder / "test").glob("*/*"):
        Image.fromarray(pixels(0, 10, 10)).save(path)
    assert refused(folder).startswith("images of several sizes, (8, 8) to (10, 10)")


# torchvision's data sets


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "STL10"])
def test_without_network_or_archive_one_line_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    with pytest.raises(ValueError) as caught:
        load_torchvision(name, str(tmp_path / "none"))
    message = str(caught.value)
    archive = {
        "CIFAR10": "cifar-10-python.tar.gz",
        "CIFAR100": "cifar-100-python.tar.gz",
        "STL10": "stl10_binary.tar.gz",
    }
    assert message.startswith(f"{name} is not in {tmp_path / 'none'} and cannot be downloaded") and "\n" not in message
    assert f"put {archive[name]} there" in message and "data=digits" in message


def cifar_archive(root: Path) -> dict[str, np.ndarray]:
    """cifar-10-python.tar.gz as its authors pack it, of 4 images a batch, under root; the rows of all its batches."""
    rows = {}
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:

        def add(name: str, content: dict) -> None:
            packed = pickle.dumps(content)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(packed)
            archive.addfile(info, io.BytesIO(packed))

        for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
            rows[name] = np.random.default_rng(i).integers(0, 256, (4, 3072), dtype=np.uint8)
            add(name, {"data": rows[name], "labels": [i, 9 - i, 0, 1]})
        add("batches.meta", {"label_names": list("abcdefghij")})
    return rows


def test_cifar_comes_out_of_its_archive_as_it_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = cifar_archive(tmp_path / "data")
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda path, md5, **_: True)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *a, **k: pytest.fail("it was there"))
    found = load_torchvision("CIFAR10", str(tmp_path / "data"))
    train = np.concatenate([rows[f"data_batch_{n}"] for n in range(1, 6)]).reshape(20, 3, 32, 32)
    assert torch.equal(found.train_images, torch.from_numpy(train)) and found.train_images.is_contiguous()
    assert torch.equal(found.test_images, torch.from_numpy(rows["test_batch"].reshape(4, 3, 32, 32)))
    assert found.train_labels.tolist()[:8] == [0, 9, 0, 1, 1, 8, 0, 1] and found.test_labels.tolist() == [5, 4, 0, 1]
    assert found.train_labels.dtype == torch.int64 and found.classes == list("abcdefghij")


def test_stl10_trains_on_what_has_no_label_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, generator = tmp_path / "stl10_binary", np.random.default_rng(0)
    base.mkdir()
    images = {"train": 3, "unlabeled": 5, "test": 2}
    raw = {split: generator.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for split, n in images.items()}
    for split, values in raw.items():  # in columns: torchvision turns them back
        np.transpose(values, (0, 1, 3, 2)).tofile(base / f"{split}_X.bin")
    np.array([1, 10, 2], np.uint8).tofile(base / "train_y.bin")
    np.array([3, 4], np.uint8).tofile(base / "test_y.bin")
    (base / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr("torchvision.datasets.stl10.check_integrity", lambda path, md5=None: True)
    found = load_torchvision("STL10", str(tmp_path))
    assert torch.equal(found.train_images, torch.from_numpy(np.concatenate([raw["train"], raw["unlabeled"]])))
    assert found.train_labels.tolist() == [0, 9, 1] + [-1] * 5 and found.test_labels.tolist() == [2, 3]
    assert found.labelled()[1].tolist() == [0, 9, 1] and found.classes == list("abcdefghij")
