"""Pixels of some images, on their way to the device: begun early, waited for late."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from moco.data.packed_images import PackedImages

T = TypeVar("T")

ROOM = 1 << 30  # bytes of images on their way

AnyImages: TypeAlias = Tensor | PackedImages  # uint8 [N, 3, H, W], or such images on disk


class Pixels(NamedTuple):
    """Images on the device.

    Attributes:
        x: uint8 [B, 3, H, W]; where they have several sizes, each is padded at the bottom and on the right.
        sizes: height and width of each, int64 [B, 2] on the device; None where all are H x W.
    """

    x: Tensor
    sizes: Tensor | None = None


def fetch(images: AnyImages, rows: Tensor | slice) -> Callable[[], Pixels]:
    """Begins to load these rows of the images; returns what waits for them.

    Args:
        rows: int64 [B], or a slice; for images on disk on the CPU, since to read them there would wait for the device.

    Raises:
        UserError: (by what waits) an image on disk cannot be read.
    """
    if isinstance(images, Tensor):
        return lambda: Pixels(images[rows])
    wait, sizes = images.fetch(rows)
    return lambda: Pixels(wait(), sizes)


def sizes_of(images: AnyImages, rows: Tensor | slice) -> Tensor | None:
    """Height and width of these rows from the index alone, int64 [B, 2] on the device; None where all have one size."""
    return None if isinstance(images, Tensor) else images.sizes_of(rows)


def ahead(images: AnyImages, n: int, most: int) -> int:
    """How many batches of n images may be on their way beside the one in use: `most`, where memory has room for them."""
    return most if isinstance(images, Tensor) else max(1, min(most, ROOM // max(1, n * images.largest) - 1))


def early(begun: Iterable[T], n: int) -> Iterator[T]:
    """Each of what is begun, once n more have been begun after it."""
    coming = deque[T]()
    for one in begun:
        coming.append(one)
        if len(coming) > n:
            yield coming.popleft()
    yield from coming


def one_by_one(images: AnyImages, rows: Tensor | slice) -> list[Tensor]:
    """These rows on the CPU, each in its own size, uint8 [3, H, W]."""
    x, sizes = fetch(images, rows)()
    if sizes is None:
        return [*x.cpu()]
    return [image[:, :height, :width] for image, (height, width) in zip(x.cpu(), sizes.tolist())]
