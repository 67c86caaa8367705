"""Packs: right after any damage, one of each folder, and nothing decoded twice."""

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import equal
from PIL import Image

from moco.data import Dataset, load_image_folder, pack, packing, place
from moco.data.decode import read_image
from moco.errors import UserError

N = 30  # images in train/a


def save(path: Path, seed: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(N):
        save(tmp_path / "root" / "train" / "a" / f"{i:02d}.png", i)
    save(tmp_path / "root" / "test" / "a" / "0.png", 99)
    return tmp_path / "root"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []

    def read(path: str, size: int | None) -> object:
        names.append(Path(path).name)
        return read_image(path, size)

    monkeypatch.setattr(packing, "read_image", read)
    yield names


def load(root: Path) -> Dataset:
    return load_image_folder(str(root), None)


def cached(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache" / "moco").iterdir() if path.suffix != ".lock")


def refused(root: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(root)
    return str(caught.value).splitlines()


def test_any_bit_that_flips_is_noticed(root: Path, tmp_path: Path):
    right = load(root)
    [path] = cached(tmp_path)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for position in draw.integers(len(whole), size=150):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        assert equal(load(root), right)


def test_bad_files_are_named_ten_and_the_count_and_only_they_are_decoded_after_a_repair(root: Path, decoded: list[str]):
    for i in range(5, 17):
        (root / "train" / "a" / f"{i:02d}.png").write_bytes(b"no image")
    (root / "test" / "a" / "1.png").symlink_to("/nowhere")
    lines = refused(root)
    assert len(lines) == 11 and lines[-1] == f"and 3 more: 13 of {N + 2} files are not readable images"
    assert lines[0].startswith(f"{root}/test/a/1.png is not a readable image (a link that leads nowhere)")
    assert lines[1].startswith(f"{root}/train/a/05.png is not a readable image (cannot identify image file)")
    assert len(decoded) == N + 1
    decoded.clear()
    (root / "test" / "a" / "1.png").unlink()
    for i in range(5, 16):
        save(root / "train" / "a" / f"{i:02d}.png", 100 + i)
    assert len(refused(root)) == 1 and sorted(decoded) == [f"{i:02d}.png" for i in range(5, 17)]
    decoded.clear()
    save(root / "train" / "a" / "16.png", 116)
    found = load(root)
    assert decoded == ["16.png"]
    for i, image in enumerate(found.train_images):
        expected = read_image(str(root / "train" / "a" / f"{i:02d}.png"), None)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_bad_files_among_images_of_several_sizes_leave_no_wrong_pixels(root: Path):
    save(root / "train" / "a" / "03.png", 0, side=12)
    (root / "train" / "a" / "04.png").write_bytes(b"no image")
    assert len(refused(root)) == 1
    save(root / "train" / "a" / "03.png", 3)
    save(root / "train" / "a" / "04.png", 4)
    images = load(root).train_images
    for i in (3, 4):
        expected = read_image(str(root / "train" / "a" / f"{i:02d}.png"), None)
        assert np.array_equal(images[i].permute(1, 2, 0).numpy(), expected)


def test_what_is_decoded_before_ctrl_c_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]):
    recorded = packing.read_image

    def until(path: str, size: int | None) -> object:
        if path.endswith("20.png"):
            raise KeyboardInterrupt
        return recorded(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "read_image", until)
        with pytest.raises(KeyboardInterrupt):
            load(root)
    before = set(decoded)
    decoded.clear()
    assert len(load(root).train_images) == N
    assert len(before) >= 20 and not before & set(decoded) and "20.png" in decoded


def test_no_file_is_an_image(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "1.png").write_bytes(b"")
    assert len(refused(tmp_path)) == 2


def test_a_changed_folder_is_decoded_where_it_changed_and_kept_once(root: Path, tmp_path: Path, decoded: list[str]):
    load(root)
    decoded.clear()
    save(root / "train" / "a" / "00new.png", 7)
    (root / "train" / "a" / "20.png").unlink()
    found = load(root)
    assert decoded == ["00new.png"] and len(found.train_images) == N and len(cached(tmp_path)) == 1
    [pack] = cached(tmp_path)
    pack.unlink()
    assert equal(load(root), found)


def test_copies_of_folders_that_are_gone_are_removed(root: Path, tmp_path: Path):
    load(root)
    before = cached(tmp_path)
    left, fresh = (tmp_path / "cache" / "moco" / f".{name}.pt.1" for name in ("left", "fresh"))
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 2 * place.LEFT_BEHIND,) * 2)
    root.rename(tmp_path / "moved")
    found = load(tmp_path / "moved")
    after = cached(tmp_path)
    assert len(after) == 2 and fresh in after and not set(after) & set(before)
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    assert equal(load(tmp_path / "copy"), found) and len(cached(tmp_path)) == 3  # both are there


def test_another_decoder_is_another_cache(root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]):
    load(root)
    decoded.clear()
    monkeypatch.setattr(packing, "DECODER", packing.DECODER + 1)
    load(root)
    assert len(decoded) == N + 1
    decoded.clear()
    monkeypatch.setattr("PIL.__version__", "0.0")
    load(root)
    assert len(decoded) == N + 1


@pytest.mark.parametrize("value", ["", "relative", None])
def test_the_cache_is_in_the_home_folder_without_xdg_cache_home(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", value) if value is not None else monkeypatch.delenv("XDG_CACHE_HOME")
    load(root)
    assert len(list((tmp_path / "home" / ".cache" / "moco").glob("*.pt"))) == 1
    assert not (tmp_path / "relative").exists() and not (tmp_path / "moco").exists()


def test_who_has_no_home_has_no_cache(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    monkeypatch.chdir(tmp_path)
    assert len(load(root).train_images) == N
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_packing_holds_the_pixels_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Allocations by torch are invisible to tracemalloc, and those of numpy and Pillow are one image at a time."""
    save(tmp_path / "train" / "a" / "0.png", 0, side=256)
    for i in range(1, 40):
        shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "a" / f"{i}.png")
    save(tmp_path / "test" / "a" / "0.png", 0, side=256)
    allocated: list[int] = []
    empty: Callable[..., torch.Tensor] = torch.empty

    def counted(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        allocated.append(int(np.prod(shape)))
        return empty(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", counted)
    tracemalloc.start()
    data = load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pixels = 41 * 3 * 256 * 256
    assert allocated == [pixels] and peak < pixels / 2
    assert data.train_images.untyped_storage().data_ptr() == data.test_images.untyped_storage().data_ptr()


def test_images_that_no_memory_holds_are_refused_in_gigabytes(
    root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
):
    with pytest.raises(
        UserError, match=r"^31 images of 100000x100000 pixels take 930 GB, and this machine has .*data.size"
    ):
        load_image_folder(str(root), 100_000)
    assert not decoded
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    assert refused(root) == ["31 images of 8x8 pixels take 0 GB, and this machine has 0: give a smaller data.size"]


def test_nothing_but_links_that_lead_nowhere(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / "links" / split / "a").mkdir(parents=True)
        (tmp_path / "links" / split / "a" / "1.png").symlink_to("/nowhere")
    assert len(refused(tmp_path / "links")) == 2
