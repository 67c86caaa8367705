"""What a rank looks at in each step: a pure function of (seed, step), so it is known ahead and begun to load."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moco.data.pixels import AnyImages, Pixels, ahead, fetch, sizes_of
from moco.ranks import own, ranks
from moco.seeding import step_seed

AHEAD = 4  # steps whose images are on their way at most
CPU = torch.device("cpu")


class Batch(NamedTuple):
    """Images of a step.

    Attributes:
        rows: of the whole batch in the data set, int64 [N].
        sizes: height and width of each image of the whole batch, int64 [N, 2]; None where all have one size.
        images: this rank's share, uint8 [B, 3, H, W].
        orders: permutations of the whole batch, int64 [N] each.
        shuffled: this rank's share in each of the orders, [B, 3, H, W]; on a single rank there are none, since it has them all.
    """

    rows: Tensor
    sizes: Tensor | None
    images: Tensor
    orders: Sequence[Tensor]
    shuffled: Sequence[Tensor]


class _Coming(NamedTuple):
    """A batch whose images are on their way."""

    step: int
    rows: Tensor
    orders: Sequence[Tensor]
    images: Callable[[], Pixels]
    shuffled: Sequence[Callable[[], Pixels]]


class Batches:
    """The batches of a training on images [N, 3, H, W].

    Args:
        shuffles: how many permutations of each batch there are.
        device: where the indices are.
    """

    def __init__(self, images: AnyImages, seed: int, batch_size: int, steps: int, shuffles: int, device: torch.device):
        self.images, self.seed, self.batch_size, self.steps = images, seed, batch_size, steps
        self.shuffles, self.device = shuffles, device
        self.per_epoch = len(images) // batch_size
        loads = 1 if ranks() == 1 else 1 + shuffles
        self.ahead = ahead(images, loads * batch_size // ranks(), AHEAD)
        self._coming = deque[_Coming]()
        self._epoch: tuple[int, dict[torch.device, _Epoch]] | None = None

    def take(self, step: int) -> Batch:
        """The batch of that step; those that follow begin to load."""
        if self._coming and self._coming[0].step != step:
            self._coming.clear()
        while len(self._coming) <= self.ahead and (following := step + len(self._coming)) < max(self.steps, step + 1):
            self._coming.append(self._begin(following))
        coming = self._coming.popleft()
        return Batch(
            coming.rows,
            sizes_of(self.images, coming.rows),
            coming.images().x,
            coming.orders,
            [images().x for images in coming.shuffled],
        )

    def _begin(self, step: int) -> _Coming:
        """Begins to load a step's images."""
        epoch, i = divmod(step, self.per_epoch)
        # Images on disk are looked up by the CPU, those in memory on their device: neither waits for the other.
        place = self.device if isinstance(self.images, Tensor) else CPU
        indices = self._of_epoch(epoch)
        here, there = indices[self.device], indices[place]
        share = own(self.batch_size)
        rows = there.batches[i]
        shuffled = [fetch(self.images, rows[one[i][share]]) for one in there.permutations] if ranks() > 1 else []
        orders = [one[i] for one in here.permutations]
        return _Coming(step, here.batches[i], orders, fetch(self.images, rows[share]), shuffled)

    def _of_epoch(self, epoch: int) -> "dict[torch.device, _Epoch]":
        """An epoch's indices on the CPU and on the device: no step is to wait for a copy."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(len(self.images), self.seed, "order", epoch)
            steps = range(epoch * self.per_epoch, (epoch + 1) * self.per_epoch)
            on_cpu = _Epoch(
                order[: len(steps) * self.batch_size].view(len(steps), -1),
                [
                    torch.stack([permutation(self.batch_size, self.seed, f"shuffle {which}", step) for step in steps])
                    for which in range(self.shuffles)
                ],
            )
            moved = [one.to(self.device) for one in on_cpu.permutations]
            self._epoch = epoch, {CPU: on_cpu, self.device: _Epoch(on_cpu.batches.to(self.device), moved)}
        return self._epoch[1]


class _Epoch(NamedTuple):
    """Indices of an epoch's steps.

    Attributes:
        batches: rows in the data set, int64 [steps, N].
        permutations: of each batch, int64 [steps, N] each.
    """

    batches: Tensor
    permutations: Sequence[Tensor]


def permutation(n: int, seed: int, stream: str, step: int) -> Tensor:
    """That step's permutation of n things in a stream, int64 [n] on the CPU."""
    generator = torch.Generator().manual_seed(step_seed(seed, stream, step))
    return torch.randperm(n, generator=generator)
