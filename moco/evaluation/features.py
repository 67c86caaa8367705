"""Features of many images, and data with labels."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from moco.data.pixels import AnyImages, Pixels, ahead, early, fetch
from moco.errors import UserError
from moco.ranks import collect, own

AHEAD = 2  # batches whose images are on their way at most


class Labelled(NamedTuple):
    """Images or features with their labels.

    Attributes:
        x: images uint8 [N, C, H, W], or features [N, D].
        labels: int [N] in [0, num_classes).
    """

    x: Tensor
    labels: Tensor


@torch.no_grad()
def features(
    encode: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    images: AnyImages,
    preprocess: Callable[..., Tensor],
    *,
    batch_size: int = 500,
) -> tuple[Tensor, ...]:
    """Features of all images, batch by batch, without gradients. The caller sets eval mode (moco.models.modes).

    Of several ranks each encodes a share of the batches, and all get the features of all images.

    Args:
        encode: preprocessed images [B, ...] -> features [B, D], or a tuple of such.
        images: uint8 [N, C, H, W], at least one.
        preprocess: uint8 batch, and the sizes of its images where they have several -> what `encode` takes.

    Returns:
        For each tensor that `encode` returns: float32 [N, D] on its device.

    Raises:
        UserError: some are infinite or NaN, which no score should hide.
    """
    assert len(images) > 0
    share = own(len(images), batch_size)
    rows = share.stop - share.start
    storage: tuple[Tensor, ...] = ()
    for start, batch in _batches(images, share if rows else slice(0, 1), batch_size):  # one image tells the shapes
        encoded = encode(preprocess(batch.x) if batch.sizes is None else preprocess(batch.x, batch.sizes))
        encoded = (encoded,) if isinstance(encoded, Tensor) else encoded
        if not storage:
            storage = tuple(z.new_empty((rows, z.shape[1]), dtype=torch.float32) for z in encoded)
        for whole, z in zip(storage, encoded):
            place = whole[start - share.start :][: len(z)]
            place.copy_(z[: len(place)])
    storage = tuple(collect(part, len(images), batch_size) for part in storage)
    if not all(bool(whole.isfinite().all()) for whole in storage):
        raise UserError(
            "some features are infinite or NaN, so the network has diverged: train it with a lower optimizer.lr, or with "
            "precision=fp32"
        )
    return storage


def _batches(images: AnyImages, share: slice, size: int) -> Iterator[tuple[int, Pixels]]:
    """The batches of a share of the images, with their first rows; those that follow begin to load."""
    starts = range(share.start, share.stop, size)
    begun = ((start, fetch(images, slice(start, min(start + size, share.stop)))) for start in starts)
    for start, load in early(begun, ahead(images, size, AHEAD)):
        yield start, load()
