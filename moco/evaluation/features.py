"""Features of many images, and data with labels."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from moco.errors import UserError


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
    images: Tensor,
    preprocess: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 500,
) -> tuple[Tensor, ...]:
    """Features of all images, batch by batch, without gradients. The caller sets eval mode (moco.models.modes).

    Args:
        encode: preprocessed images [B, ...] -> features [B, D], or a tuple of such.
        images: uint8 [N, C, H, W], at least one.
        preprocess: uint8 batch -> what `encode` takes.

    Returns:
        For each tensor that `encode` returns: float32 [N, D] on its device.

    Raises:
        UserError: some are infinite or NaN, which no score should hide.
    """
    assert len(images) > 0
    storage: tuple[Tensor, ...] = ()
    for start in range(0, len(images), batch_size):
        encoded = encode(preprocess(images[start : start + batch_size]))
        encoded = (encoded,) if isinstance(encoded, Tensor) else encoded
        if not storage:
            storage = tuple(z.new_empty((len(images), z.shape[1]), dtype=torch.float32) for z in encoded)
        for whole, z in zip(storage, encoded):
            whole[start : start + len(z)] = z
    if not all(bool(whole.isfinite().all()) for whole in storage):
        raise UserError(
            "some features are infinite or NaN, so the network has diverged: train it with a lower optimizer.lr, or with "
            "precision=fp32"
        )
    return storage
