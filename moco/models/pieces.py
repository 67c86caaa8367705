"""A network that takes a few images of a batch at a time, so that only their activations are in memory.

The features of all images are there for the loss, and each piece is computed once more in the backward pass (activation
checkpointing, arXiv 1604.06174). For a loss over all pairs of a batch that comes to GradCache (arXiv 2101.06983).
"""

import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from moco.errors import UserError
from moco.models.modes import random_part

if TYPE_CHECKING:
    Mixed = nn.Module
else:
    Mixed = object


def take_in_pieces(network: nn.Module, images: int, *, batch: int, group: int) -> None:
    """Lets a network take a batch in pieces while it trains: with the same features, gradients and running statistics.

    Its class changes, and neither its parts nor their names.

    Args:
        network: x [V * batch, ...] -> [V * batch, D], where the V views of `images` images lie together. Its BatchNorms are
            SplitBatchNorms, so that they make of a piece the groups that they make of these images in the batch.
        images: of a piece; the last one may have fewer.
        batch: images of a step on this device. Where a piece holds them all nothing changes.
        group: images over which a BatchNorm takes statistics.

    Raises:
        UserError: the network has a BatchNorm, and a piece is not whole groups; or it draws at random (dropout), which would
            be other numbers.
    """
    if images >= batch:
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm) and images % group:
            raise UserError(
                f"micro_batch={images} is not a multiple of {group}, the images over which BatchNorm takes statistics "
                "(batch_size / method.splits): give one, more method.splits, or a model without BatchNorm"
            )
    if part := random_part(network):
        raise UserError(
            f"micro_batch={images} would change what the model's {part} draws at random: leave it out, or give a model "
            "without dropout"
        )
    network.piece = images, batch  # type: ignore[assignment]
    network.__class__ = type(f"{type(network).__name__}InPieces", (_InPieces, type(network)), {})


class _InPieces(Mixed):
    """Calls the network for one piece after another."""

    piece: tuple[int, int]  # images of a piece and of the batch

    def __call__(self, x: Tensor) -> Tensor:
        images, batch = self.piece
        rows, network = len(x) * images // batch, super().__call__
        if not self.training or rows >= len(x):
            return cast(Tensor, network(x))
        norms = _Norms(self)
        features = []
        for piece in torch.split(x, rows):
            if torch.is_grad_enabled():
                contexts = functools.partial(_contexts, norms, len(piece), len(x))
                h = checkpoint(network, piece, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
            else:
                with _PieceOf(norms, len(piece), len(x)):
                    h = network(piece)
            features.append(h)
        norms.move()
        return torch.cat(features)


class _Norms:
    """The BatchNorms of a network, and the running statistics that they will have after the last piece."""

    def __init__(self, network: nn.Module):
        self.norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.splits = [cast(int, norm.splits) for norm in self.norms]
        buffers = [(norm.running_mean, norm.running_var) for norm in self.norms]
        self.moments = [cast(Tensor, moment) for pair in buffers for moment in pair]
        self.counts = [cast(Tensor, norm.num_batches_tracked) for norm in self.norms]
        self.next_moments = [torch.zeros_like(moment) for moment in self.moments]
        self.next_counts = self.counts

    def move(self) -> None:
        _copy(self.moments, self.next_moments)
        _copy(self.counts, self.next_counts)


class _PieceOf(AbstractContextManager[None]):
    """Norms make the groups of so many rows of a whole; afterwards they have the running statistics of before.

    Args:
        again: the rows are computed for the backward pass, and what becomes of the statistics is known.
    """

    def __init__(self, norms: _Norms, rows: int, whole: int, again: bool = False):
        self.norms, self.rows, self.whole, self.again = norms, rows, whole, again

    def __enter__(self) -> None:
        self.moments, self.counts = ([x.clone() for x in part] for part in (self.norms.moments, self.norms.counts))
        for norm, splits in zip(self.norms.norms, self.norms.splits):
            norm.splits = splits * self.rows // self.whole  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        for norm, splits in zip(self.norms.norms, self.norms.splits):
            norm.splits = splits  # type: ignore[assignment]
        if not self.again and self.norms.moments:
            with torch.no_grad():
                torch._foreach_add_(self.norms.next_moments, self.norms.moments, alpha=self.rows / self.whole)
            self.norms.next_counts = [count.clone() for count in self.norms.counts]
        _copy(self.norms.moments, self.moments)
        _copy(self.norms.counts, self.counts)


def _contexts(norms: _Norms, rows: int, whole: int) -> tuple[_PieceOf, _PieceOf]:
    """Of the forward pass, and of the same computed again."""
    return _PieceOf(norms, rows, whole), _PieceOf(norms, rows, whole, again=True)


@torch.no_grad()
def _copy(tensors: list[Tensor], values: list[Tensor]) -> None:
    if tensors:
        torch._foreach_copy_(tensors, values)
