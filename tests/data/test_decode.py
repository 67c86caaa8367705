"""Image files of all kinds as pixels."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from moco.data.decode import Unreadable, read_image

GRAY = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def png(path: Path, *chunks: tuple[bytes, bytes], width: int = 1, height: int = 1) -> Path:
    """A gray PNG written chunk by chunk, with others before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    whole = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0\x80" * height)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in whole
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def why_not(path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        read_image(str(path), None)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_gray_of_16_bits_keeps_its_eight_highest(tmp_path: Path, suffix: str):
    path = tmp_path / f"gray.{suffix}"
    Image.fromarray(GRAY).save(path)
    assert np.array_equal(read_image(str(path), None), np.repeat((GRAY >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_gray_of_16_bits_in_the_other_byte_order_and_with_white_at_zero(tmp_path: Path):
    expected = (GRAY >> 8).astype(np.uint8)
    path = tmp_path / "gray.tif"
    Image.fromarray(GRAY.astype(">u2")).save(path)
    assert np.array_equal(read_image(str(path), None)[..., 0], expected)
    Image.fromarray(GRAY).save(path, tiffinfo={262: 0})
    with Image.open(path) as file:
        assert file.mode == "I;16" and file.tag_v2[262] == 0
    assert np.array_equal(read_image(str(path), None)[..., 0], 255 - expected)


def test_gray_of_12_bits_keeps_its_eight_highest():
    """A TIFF of two pixels, white and black, as microscopes write them."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    assert len(head) == tags[273]
    assert read_image(io.BytesIO(head + b"\xff\xf0\x00"), None)[..., 0].tolist() == [[255, 0]]


def test_floating_point_reaches_from_0_to_1(tmp_path: Path):
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    path = tmp_path / "float.tif"
    Image.fromarray(values).save(path)
    assert np.array_equal(read_image(str(path), None)[..., 1], (values * 255).round().astype(np.uint8))


@pytest.mark.parametrize("values", [np.float32([[0.0, 255.0]]), np.float32([[-1.0, 1.0]]), np.float32([[np.nan, 1.0]])])
def test_floating_point_without_a_known_white_is_refused(tmp_path: Path, values: NDArray[np.float32]):
    path = tmp_path / "float.tif"
    Image.fromarray(values).save(path)
    assert why_not(path).startswith("floating-point values from ")


def test_integers_of_32_bits_are_refused(tmp_path: Path):
    path = tmp_path / "int.tif"
    Image.fromarray(np.int32([[0, 1], [70_000, 5]])).save(path)
    assert why_not(path).startswith("32-bit integers do not tell what is white")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_as_their_orientation_says(tmp_path: Path, suffix: str, orientation: int):
    path, exif = tmp_path / f"turned.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(path, exif=exif)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    assert expected.shape == ((6, 9, 3) if orientation < 5 else (9, 6, 3))
    assert np.array_equal(read_image(str(path), None), expected)


def test_damaged_exif_beside_a_sound_image_is_no_obstacle(tmp_path: Path):
    path = tmp_path / "image.webp"
    Image.fromarray(COLOURS).save(path, lossless=True, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(read_image(str(path), None), COLOURS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_as_pillow_converts_them(tmp_path: Path, mode: str):
    path = tmp_path / "image.tif"
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(path)
    with Image.open(path) as file:
        assert np.array_equal(read_image(str(path), None), np.asarray(file.convert("RGB")))


def test_of_several_frames_the_first_counts(tmp_path: Path):
    path, other = tmp_path / "moving.gif", Image.new("RGB", (9, 6))
    first = Image.fromarray(COLOURS).quantize(16)
    first.save(path, save_all=True, append_images=[other])
    assert np.array_equal(read_image(str(path), None), np.asarray(first.convert("RGB")))


def test_a_decompression_bomb_is_refused(tmp_path: Path):
    assert why_not(png(tmp_path / "bomb.png", width=60_000, height=60_000)) == "it has too many pixels"


def test_a_text_chunk_that_grows_without_end_is_refused(tmp_path: Path):
    text = b"comment\0\0" + zlib.compress(b"x" * 100_000_000)
    assert "too large" in why_not(png(tmp_path / "text.png", (b"zTXt", text)))
    assert read_image(
        str(png(tmp_path / "small.png", (b"zTXt", b"comment\0\0" + zlib.compress(b"x" * 100)))), None
    ).all()


def test_no_damage_leads_to_another_error(tmp_path: Path):
    """Some 1,500 images with a byte changed or an end missing: each gives pixels or says in one line why not."""
    draw, path = np.random.default_rng(0), tmp_path / "image"
    for form, saved in (("PNG", {}), ("GIF", {}), ("TIFF", {}), ("WEBP", {}), ("PPM", {}), ("BMP", {}), ("JPEG", {})):
        stream = io.BytesIO()
        Image.fromarray(COLOURS).save(stream, form, **saved)
        whole = stream.getvalue()
        for i in range(200):
            damaged = bytearray(whole[: draw.integers(len(whole))] if i % 4 == 0 else whole)
            if i % 4:
                damaged[draw.integers(min(len(whole), 120))] = draw.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_image(str(path), 4).shape == (4, 4, 3)
            except Unreadable as error:
                assert str(error) and "\n" not in str(error)
