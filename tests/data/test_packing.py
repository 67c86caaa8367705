"""Packs: right after any damage, one of each folder, and nothing decoded twice."""

import os
import re
import shutil
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import equal
from PIL import Image

from moco.data import Dataset, load_image_folder, packing, place, source
from moco.data.decode import Unreadable, read_image
from moco.data.packed_images import PackedImages
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


def packs(folder: Path) -> list[Path]:
    """What lies there but locks."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def pixels(root: Path) -> torch.Tensor:
    """The training images."""
    found = load(root).train_images
    assert isinstance(found, PackedImages)
    return found.loaded()


def refused(root: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(root)
    return str(caught.value).splitlines()


def test_any_bit_that_flips_is_noticed_and_mended_by_the_next_start(root: Path, tmp_path: Path, decoded: list[str]):
    load(root)
    shutil.copytree(root, tmp_path / "copy")
    right = load(tmp_path / "copy").loaded()
    [path] = packs(root / ".moco")
    whole, draw, said = path.read_bytes(), np.random.default_rng(0), 0
    for position in draw.integers(len(whole), size=100):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        decoded.clear()
        try:
            found = load(root).loaded()
        except UserError as error:
            said += 1
            assert "start again, and what is damaged is packed anew" in str(error)
            found = load(root).loaded()
            assert len(decoded) == 1
        assert equal(found, right)
    assert 30 < said < 90  # the others were in the index


def test_bad_files_are_named_ten_and_the_count_and_only_they_are_decoded_after_a_repair(root: Path, decoded: list[str]):
    for i in range(5, 17):
        (root / "train" / "a" / f"{i:02d}.png").write_bytes(b"no image")
    (root / "test" / "a" / "1.png").symlink_to("/nowhere")
    lines = refused(root)
    listed = root / ".moco" / "whole-raw.bad.txt"
    assert len(lines) == 11 and lines[-1] == (
        f"and 3 more: 13 of {N + 2} files are not readable images, all named in {listed}"
    )
    assert len(listed.read_text().splitlines()) == 13
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
    found = pixels(root)
    assert decoded == ["16.png"] and not listed.exists()
    for i, image in enumerate(found):
        expected = read_image(str(root / "train" / "a" / f"{i:02d}.png"), None)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_bad_files_among_images_of_several_sizes_leave_no_wrong_pixels(root: Path):
    save(root / "train" / "a" / "03.png", 0, side=12)
    (root / "train" / "a" / "04.png").write_bytes(b"no image")
    assert len(refused(root)) == 1
    save(root / "train" / "a" / "03.png", 3)
    save(root / "train" / "a" / "04.png", 4)
    images = pixels(root)
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
    assert len(pixels(root)) == N
    assert len(before) >= 20 and not before & set(decoded) and "20.png" in decoded


def test_no_file_is_an_image(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "1.png").write_bytes(b"")
    assert len(refused(tmp_path)) == 2


def test_a_changed_folder_is_decoded_where_it_changed_and_kept_once(root: Path, decoded: list[str]):
    before = load(root)
    decoded.clear()
    save(root / "train" / "a" / "00new.png", 7)
    (root / "train" / "a" / "20.png").unlink()
    found = load(root)
    assert decoded == ["00new.png"] and len(found.train_images) == N
    [path] = packs(root / ".moco")
    assert before.loaded().train_images.shape[0] == N  # who reads it meanwhile has the images that were there
    with pytest.raises(UserError, match="was packed anew by another process: start again"):
        before.moments()
    path.unlink()
    assert equal(load(root), found)


def test_who_reads_a_pack_keeps_its_images_however_often_the_folder_changes(root: Path):
    save(root / "test" / "a" / "1.png", 98)
    before = load(root).test_images
    assert isinstance(before, PackedImages)
    mapped = before.loaded()
    wanted = mapped.clone()
    assert torch.equal(before.fetch(slice(None))[0](), wanted)  # checked now
    (root / "test" / "a" / "1.png").unlink()
    load(root)
    save(root / "test" / "a" / "2.png", 97)
    load(root)
    assert torch.equal(mapped, wanted) and torch.equal(before.fetch(slice(None))[0](), wanted)


def test_what_the_machine_could_not_read_once_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
):
    read = packing.read_image
    with monkeypatch.context() as patch:

        def busy(path: str, size: int | None) -> object:
            if path.endswith("07.png"):
                raise Unreadable("Too many open files", lasting=False)
            return read(path, size)

        patch.setattr(packing, "read_image", busy)
        assert len(load_image_folder(str(root), None, skip_corrupt=True).train_images) == N - 1
    decoded.clear()
    assert len(load_image_folder(str(root), None, skip_corrupt=True).train_images) == N and decoded == ["07.png"]
    with pytest.raises(Unreadable) as caught:
        read_image(str(root / "none.png"), None)
    assert not caught.value.lasting


def test_a_class_before_the_others_decodes_only_its_own_images(root: Path, decoded: list[str]):
    load(root)
    decoded.clear()
    for split in ("train", "test"):
        save(root / split / "0" / "first.png", 5)
    found = load(root)
    assert decoded == ["first.png"] * 2 and found.classes == ["0", "a"]
    assert found.train_labels.tolist() == [0] + [1] * N


def test_a_copied_or_moved_folder_brings_its_pack_along(root: Path, tmp_path: Path, decoded: list[str]):
    found = load(root)
    decoded.clear()
    shutil.copytree(root, tmp_path / "copy")
    root.rename(tmp_path / "moved")
    assert equal(load(tmp_path / "copy"), found) and equal(load(tmp_path / "moved"), found) and not decoded


def test_packs_of_folders_that_are_gone_are_removed_from_the_users_cache(root: Path, tmp_path: Path):
    (root / ".moco").write_text("")  # no folder
    found, cache = load(root), tmp_path / "cache" / "moco"
    before = packs(cache)
    left, fresh, old = (cache / name for name in (".left.part", ".fresh.part", "old.pt"))
    for path in (left, fresh, old):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 2 * place.LEFT_BEHIND,) * 2)
    root.rename(tmp_path / "moved")
    assert equal(load(tmp_path / "moved"), found)
    after = packs(cache)
    assert len(after) == 2 and fresh in after and not set(after) & set(before)
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    assert equal(load(tmp_path / "copy"), found) and len(packs(cache)) == 3  # both are there


def test_a_given_cache_is_taken_and_never_tidied(root: Path, tmp_path: Path):
    given = tmp_path / "given"
    found = load_image_folder(str(root), None, cache=str(given))
    root.rename(tmp_path / "moved")
    assert equal(load_image_folder(str(tmp_path / "moved"), None, cache=str(given)), found)
    assert len(packs(given)) == 2 and not (tmp_path / "moved" / ".moco").exists()


def test_a_given_cache_that_cannot_be_written_is_refused(root: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^data.cache={tmp_path}/file cannot be written \(.*\): give another folder$"):
        load_image_folder(str(root), None, cache=str(tmp_path / "file"))


def test_another_decoder_is_another_cache(root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]):
    load(root)
    decoded.clear()
    monkeypatch.setattr(source, "DECODER", source.DECODER + 1)
    load(root)
    assert len(decoded) == N + 1
    decoded.clear()
    monkeypatch.setattr("PIL.__version__", "0.0")
    load(root)
    assert len(decoded) == N + 1


@pytest.mark.parametrize("value", ["", "relative", None])
def test_the_cache_is_in_the_home_folder_without_xdg_cache_home(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str | None
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", value) if value is not None else monkeypatch.delenv("XDG_CACHE_HOME")
    (root / ".moco").write_text("")
    load(root)
    cache = tmp_path / "home" / ".cache" / "moco"
    assert len(packs(cache)) == 1 and not (tmp_path / "relative").exists() and not (tmp_path / "moco").exists()
    assert capsys.readouterr().err.startswith(
        f"{root}/.moco cannot be written (File exists): images are packed in {cache} ("
    )


def test_where_nothing_can_be_written_images_are_packed_for_one_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (root / ".moco").write_text("")
    assert len(pixels(root)) == len(pixels(root)) == N and len(decoded) == 2 * (N + 1)
    assert not [*(tmp_path / "temporary").iterdir()]


def test_packing_and_loading_hold_no_copy_of_the_pixels(tmp_path: Path):
    """Those of numpy and Pillow are a few images at a time, and the file's own pages are the tensor."""
    save(tmp_path / "train" / "a" / "0.png", 0, side=64)
    for i in range(1, 400):
        shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "a" / f"{i}.png")
    save(tmp_path / "test" / "a" / "0.png", 0, side=64)
    tracemalloc.start()
    data = load(tmp_path).loaded()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 401 * 3 * 64 * 64 / 2
    assert isinstance(data.train_images, torch.Tensor) and isinstance(data.test_images, torch.Tensor)
    assert data.train_images.untyped_storage().data_ptr() == data.test_images.untyped_storage().data_ptr()


def test_images_for_which_the_disk_has_no_room_are_refused_in_gigabytes(root: Path, decoded: list[str]):
    with pytest.raises(UserError) as caught:
        load_image_folder(str(root), 100_000)
    assert re.fullmatch(
        rf"31 images of 100000x100000 pixels take 930 GB, and {root}/.moco has room for [\d,]+: give a smaller data.size or "
        r"data.cache=<folder with room>; data.packed=jpeg takes about \d+ GB",
        str(caught.value),
    )
    assert not decoded


def test_nothing_but_links_that_lead_nowhere(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / "links" / split / "a").mkdir(parents=True)
        (tmp_path / "links" / split / "a" / "1.png").symlink_to("/nowhere")
    assert len(refused(tmp_path / "links")) == 2
