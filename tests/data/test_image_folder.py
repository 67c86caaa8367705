"""Image folders: what they give, what the cache does, and one line for each thing that can be wrong with a folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import equal
from PIL import Image

from moco.data import Dataset, load_image_folder, packing
from moco.errors import UserError

CLASSES = ["ant", "bee", "cat"]


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


def loaded(root: Path, size: int | None = None) -> Dataset:
    """With the images as tensors."""
    return load_image_folder(str(root), size).loaded()


def refused(root: Path | str | None, size: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_image_folder(None if root is None else str(root), size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_image_folder_holds_the_files_in_order_of_class_and_name(folder: Path):
    found = loaded(folder)
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
    monkeypatch.setattr(packing, "read_image", lambda path, size: pytest.fail(f"{path} was decoded again"))
    assert equal(first, load_image_folder(str(folder), 4))
    with pytest.raises(pytest.fail.Exception):
        load_image_folder(str(folder), 5)  # another size is another cache


def test_a_changed_folder_is_decoded_anew(folder: Path):
    before = loaded(folder)
    Image.fromarray(pixels(1234)).save(folder / "train" / "bee" / "2.png")
    changed = loaded(folder)
    assert not torch.equal(before.train_images[6], changed.train_images[6])
    assert torch.equal(changed.train_images[6].permute(1, 2, 0), torch.from_numpy(pixels(1234)))
    (folder / "test" / "cat" / "1.JPEG").unlink()
    assert load_image_folder(str(folder), None).test_labels.tolist() == [0, 0, 1, 1, 2]


def test_a_pack_that_is_cut_short_is_no_obstacle(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    first = load_image_folder(str(tmp_path / "copy"), None)
    load_image_folder(str(folder), None)
    [cached] = (folder / ".moco").glob("*.pack")
    cached.write_bytes(cached.read_bytes()[:100])
    assert equal(first, load_image_folder(str(folder), None))
    cached.write_bytes(b"not a cache at all")
    assert equal(first, load_image_folder(str(folder), None))
    assert equal(first, load_image_folder(str(folder), None)) and cached.stat().st_size > 100  # mended


def test_val_serves_where_there_is_no_test(folder: Path):
    with_test = load_image_folder(str(folder), None)
    (folder / "test").rename(folder / "val")
    assert equal(load_image_folder(str(folder), None), with_test)


def test_size_cuts_the_centre_and_resizes(folder: Path):
    wide = pixels(7, 12, 20)
    Image.fromarray(wide).save(folder / "train" / "ant" / "0.png")
    found = loaded(folder, 6)
    assert found.train_images.shape[1:] == found.test_images.shape[1:] == (3, 6, 6)
    centre = Image.fromarray(wide[:, 4:16]).resize((6, 6), Image.Resampling.BILINEAR)
    ours = found.train_images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(ours[:, 1:5], np.asarray(centre)[:, 1:5])  # the outer columns look a little beyond the cut


def test_no_root():
    assert "needs data.root" in refused(None)


def test_no_such_folder(folder: Path, tmp_path: Path):
    assert "has no folder train/" in refused(tmp_path)
    (folder / "train").rename(folder / "training")
    assert "has no folder train/" in refused(folder) and "test/<class>/" in refused(folder)


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
    assert message.startswith(f"{path} is not a readable image") and message.endswith(
        "repair or remove it, or give data.skip_corrupt=true"
    )


def test_images_of_several_sizes(folder: Path):
    Image.fromarray(pixels(0, 10, 12)).save(folder / "train" / "cat" / "3.png")
    assert refused(folder) == "images of several sizes, (8, 8) to (10, 12): give one with data.size=32"


def test_train_and_test_of_different_sizes(folder: Path):
    for path in (folder / "test").glob("*/*"):
        Image.fromarray(pixels(0, 10, 10)).save(path)
    assert refused(folder).startswith("images of several sizes, (8, 8) to (10, 10)")
