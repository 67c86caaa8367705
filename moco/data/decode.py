"""An image file as pixels, and pixels as JPEG and back."""

import errno
import io
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

try:  # 1.6 times as fast as Pillow, with the same pixels: both use libjpeg-turbo, see benchmarks/loading.py
    from simplejpeg import decode_jpeg as turbo
except ImportError:
    turbo = None

QUALITY = 90  # of JPEG
LONGEST = 2  # the longer side at most so many times the shorter one, since images of a batch are padded to the longest
DECODER = 3  # of what stands below: raised when the same file gives other pixels from now on
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(Exception):
    """A file that gives no pixels, and why.

    Attributes:
        lasting: whether the file itself is the reason, and not the machine that reads it.
    """

    def __init__(self, why: str, lasting: bool = True):
        super().__init__(why)
        self.lasting = lasting


def read_image(source: str | BinaryIO, size: int | None) -> NDArray[np.uint8]:
    """The first image in a file, as people see it: turned as its EXIF orientation says, in RGB, uint8 [H, W, 3].

    Gray images of 12 or 16 bits keep their eight highest, and floating-point ones (TIFF) reach from 0, black, to 1, white. What
    lies under a transparent pixel is shown.

    Args:
        source: a path, or what Pillow reads from.
        size: the image is resized so that its shorter side has this length, and the centre is cut out; None keeps it.

    Raises:
        Unreadable: it is damaged, has too many pixels, or its values have no known white.
    """
    image = _upright(source)
    return np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))


def read_small(source: str | BinaryIO, size: int) -> NDArray[np.uint8]:
    """The same with its aspect ratio, the shorter side at most `size`, uint8 [H, W, 3]; small images stay as they are.

    Of an image that is more than LONGEST times as long as it is wide the middle is kept.

    Raises:
        Unreadable: as for read_image.
    """
    image = _upright(source)
    most = LONGEST * min(image.size)
    left, top = (max(0, side - most) // 2 for side in image.size)
    box = (left, top, left + min(image.width, most), top + min(image.height, most))
    scale = min(1.0, size / min(image.size))
    width, height = (max(1, round(scale * (end - start))) for start, end in (box[::2], box[1::2]))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """[H, W, 3] -> JPEG of quality 90 with halved colour channels, as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """What `encode_jpeg` gave -> [H, W, 3], by simplejpeg where it is installed and by Pillow elsewhere."""
    if turbo is not None:
        found: NDArray[np.uint8] = turbo(data, fastdct=False, fastupsample=False)
        return found
    with Image.open(io.BytesIO(data)) as file:
        return np.asarray(file)


def _upright(source: str | BinaryIO) -> Image.Image:
    """The first image of a file in RGB, turned as its EXIF orientation says."""
    try:
        with Image.open(source) as file:
            file.load()
            image = _in_8_bits(file)
            turn = TURNS.get(_orientation(file))
            return (image.transpose(turn) if turn is not None else image).convert("RGB")
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable("it has too many pixels") from error
    except Exception as error:  # Pillow raises whatever the damage leads to
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()).partition(" '/")[0][:120]
        # Pillow's own errors have no number; an offset that is damaged leads to EINVAL.
        machine = isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EINVAL)
        raise Unreadable(reason or type(error).__name__, lasting=not machine) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF that is damaged, beside an image that is not
        return 1


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The image itself, or in 8 bits where Pillow has it in more and would clip it."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels, tags = np.asarray(image).astype(np.uint32), getattr(image, "tag_v2", {})
        bits = (tags.get(258) or (16,))[0]  # a TIFF may have 12, which Pillow does not stretch
        if tags.get(262) == 0:  # a TIFF in which 0 is white; Pillow inverts 8 bits alone
            levels = (1 << bits) - 1 - levels
        return Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    if image.mode == "I":
        raise Unreadable("32-bit integers do not tell what is white; save it with 8 or 16 bits")
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 1:  # false for NaN, too
            raise Unreadable(f"floating-point values from {low:g} to {high:g}, not within 0 and 1")
        return Image.fromarray((values * 255).round().astype(np.uint8))
    return image
