"""Images on disk: the same pixels as in memory, whoever decodes them, and nothing that is not asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import SIZES, folder, picture
from PIL import Image
from torch import Tensor

from moco.data import Dataset, decode, load_image_folder, packed_images
from moco.data.decode import decode_jpeg, encode_jpeg, read_image, read_small
from moco.data.packed_images import PackedImages
from moco.data.pixels import AnyImages, ahead, fetch, one_by_one, sizes_of
from moco.errors import UserError


def on_disk(images: AnyImages | None) -> PackedImages:
    assert isinstance(images, PackedImages)
    return images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "photos", 8, 4)


@pytest.fixture
def raw(root: Path) -> Dataset:
    return load_image_folder(str(root), 16)


@pytest.fixture
def jpeg(root: Path) -> Dataset:
    return load_image_folder(str(root), 16, "jpeg")


INDICES = [slice(0, 5), slice(3, None), torch.tensor([7, 0, 23, 7]), torch.tensor([4])]


@pytest.mark.parametrize("rows", INDICES)
def test_raw_images_from_disk_are_those_in_memory_bit_for_bit(raw: Dataset, rows: slice | Tensor) -> None:
    here, there = raw.loaded(), raw
    for one, other in ((here.train_images, there.train_images), (here.train_images[2:], there.train_images[2:])):
        assert isinstance(one, Tensor)
        if isinstance(rows, Tensor) and int(rows.max()) >= len(one):
            continue
        pixels = fetch(other, rows)()
        assert torch.equal(pixels.x, one[rows]) and pixels.sizes is None and pixels.x.is_contiguous()
        assert sizes_of(other, rows) is None and other.shape == one.shape and other.device == one.device


def test_they_are_what_the_files_hold(raw: Dataset, root: Path) -> None:
    files = sorted((root / "train").glob("*/*"))
    for image, path in zip(one_by_one(raw.train_images, slice(None)), files, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), read_image(str(path), 16))


@pytest.mark.parametrize("rows", INDICES)
def test_jpeg_keeps_the_shape_and_is_padded_by_zeros(jpeg: Dataset, root: Path, rows: slice | Tensor) -> None:
    files = sorted((root / "train").glob("*/*"))
    x, sizes = fetch(jpeg.train_images, rows)()
    told = sizes_of(jpeg.train_images, rows)
    assert sizes is not None and told is not None and torch.equal(sizes, told)
    chosen = torch.arange(len(files))[rows].tolist()
    assert x.shape == (len(chosen), 3, *sizes.amax(0).tolist())
    for image, (height, width), row in zip(x, sizes.tolist(), chosen):
        expected = read_small(str(files[row]), 16)
        assert expected.shape == (height, width, 3)
        packed = decode_jpeg(encode_jpeg(expected))
        assert np.array_equal(image[:, :height, :width].permute(1, 2, 0).numpy(), packed)
        assert np.abs(packed.astype(int) - expected).mean() < 6  # in levels of 256: what the codec loses
        assert not image[:, height:].any() and not image[:, :, width:].any()


def test_the_shorter_side_has_the_size_and_of_long_images_the_middle_is_kept(tmp_path: Path) -> None:
    shapes = {(24, 36): (16, 24), (36, 24): (24, 16), (30, 30): (16, 16), (24, 80): (16, 32), (10, 12): (10, 12)}
    for (height, width), expected in shapes.items():
        picture(1, height, width).save(tmp_path / "1.png")
        assert read_small(str(tmp_path / "1.png"), 16).shape == (*expected, 3)
    wide = Image.new("RGB", (80, 24))
    wide.paste((255, 255, 255), (16, 0, 64, 24))
    wide.save(tmp_path / "1.png")
    assert read_small(str(tmp_path / "1.png"), 16).all()


def test_pillow_and_simplejpeg_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [encode_jpeg(np.asarray(picture(i, 17 + i, 30))) for i in range(20)]
    assert decode.turbo is not None
    fast = [decode_jpeg(photo) for photo in photos]
    monkeypatch.setattr(decode, "turbo", None)
    for photo, pixels in zip(photos, fast):
        with Image.open(io.BytesIO(photo)) as file:
            assert np.array_equal(np.asarray(file), pixels)
        assert np.array_equal(decode_jpeg(photo), pixels)


def test_an_index_reads_nothing(raw: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    images = on_disk(raw.train_images)
    monkeypatch.setattr(images.pack, "read_into", lambda *_: pytest.fail("it was read"))
    mask = torch.arange(len(images)) % 3 == 0
    some = images[mask][1:][torch.tensor([2, 0])]
    assert some.rows.tolist() == [9, 3] and len(some) == 2 and some.shape == (2, 3, 16, 16)
    assert len(raw.hold_out(0.25).test_images) == 6


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_held_out_images_and_moments_are_those_in_memory(request: pytest.FixtureRequest, kind: str) -> None:
    there: Dataset = request.getfixturevalue(kind)
    if kind == "raw":
        here = there.loaded()
        held, expected = there.hold_out(0.25), here.hold_out(0.25)
        for name, part in held.parts().items():
            other = expected.parts()[name]
            assert isinstance(other, Tensor)
            assert torch.equal(part if isinstance(part, Tensor) else fetch(part, slice(None))().x, other)
        assert held.moments() == expected.moments()
    else:
        decoded = torch.cat([x.reshape(3, -1) for x in one_by_one(there.train_images, slice(None))], 1).double() / 255
        mean, std = there.moments()
        assert mean == pytest.approx(decoded.mean(1).tolist(), abs=0.01)  # those of the pixels before they were JPEG
        assert std == pytest.approx(decoded.std(1).tolist(), abs=0.01)


def test_the_fingerprint_tells_images_labels_and_kinds_apart(root: Path, raw: Dataset, jpeg: Dataset) -> None:
    words = [raw.fingerprint(), jpeg.fingerprint(), load_image_folder(str(root), 17).fingerprint()]
    (root / "train" / "a" / "00.png").rename(root / "train" / "b" / "99.png")
    words += [load_image_folder(str(root), 16).fingerprint()]
    picture(3, *SIZES[0]).save(root / "test" / "a" / "00.png")
    words += [load_image_folder(str(root), 16).fingerprint()]
    assert len(set(words)) == len(words)
    again = load_image_folder(str(root), 16)
    assert again.fingerprint() == words[-1] != again.hold_out(0.25).fingerprint()


def test_threads_draw_no_random_number(jpeg: Dataset) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in range(3):
        fetch(jpeg.train_images, slice(None))()
    assert torch.equal(torch.get_rng_state(), before)


def test_more_steps_than_threads_are_on_their_way_and_come_in_order(raw: Dataset) -> None:
    coming = [fetch(raw.train_images, slice(i, i + 9)) for i in range(15)]
    here = raw.loaded().train_images
    assert isinstance(here, Tensor)
    for i in (3, 14, 0, *range(15)):
        assert torch.equal(coming[i]().x, here[i : i + 9])


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_an_image_that_has_changed_on_disk_ends_the_step_and_is_mended(
    request: pytest.FixtureRequest, kind: str, root: Path
) -> None:
    data: Dataset = request.getfixturevalue(kind)
    right = [image.clone() for image in one_by_one(data.train_images, slice(None))]
    fresh = load_image_folder(str(root), 16, kind)  # type: ignore[arg-type]
    images = on_disk(fresh.train_images)
    with open(images.pack.path, "r+b") as file:
        file.seek(int(images.pack.offsets[5]) + 40)
        file.write(b"\0\1\2\3")
    fetch(images, slice(0, 5))()
    with pytest.raises(
        UserError, match=r"^image 5 of .*-(raw|jpeg).pack cannot be read \(it has changed on disk\): start again"
    ):
        fetch(images, slice(0, 8))()
    mended = load_image_folder(str(root), 16, kind)  # type: ignore[arg-type]
    found = one_by_one(mended.train_images, slice(None))
    assert all(torch.equal(one, other) for one, other in zip(right, found, strict=True))


def test_pixels_go_where_the_images_are_sent(jpeg: Dataset) -> None:
    there = jpeg.to(torch.device("meta"))
    x, sizes = fetch(there.train_images, slice(0, 4))()
    assert sizes is not None and x.device.type == sizes.device.type == there.train_labels.device.type == "meta"


def test_as_many_batches_are_on_their_way_as_memory_has_room_for(
    jpeg: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = on_disk(jpeg.train_images)
    assert images.largest == 3 * 24 * 32 and ahead(images, 10, 4) == 4
    for batches, most in ((6, 4), (5, 4), (4, 3), (2, 1), (1, 1), (0.5, 1)):
        monkeypatch.setattr("moco.data.pixels.ROOM", int(batches * 10 * images.largest))
        assert ahead(images, 10, 4) == most, batches  # beside the one in use
    assert ahead(torch.zeros(5, 3, 1000, 1000), 10, 4) == 4


def test_cores_are_shared_by_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # torchrun's default, which is no share
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert packed_images.threads() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert packed_images.threads() == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert packed_images.threads() == 1  # as the launcher of a sweep tells it
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    assert packed_images.threads() == 16
