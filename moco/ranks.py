"""What the processes of one run, its ranks, share: rows of a batch, features, decisions. Free where there is one process.

Rank r of W holds the r-th of W consecutive shares of a batch. moco.training.distributed lets the ranks join.
"""

import datetime
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

NO_END = datetime.timedelta(days=30)  # of a collective: one rank may decode or save for long while the others wait

# torch before 2.14 has it under the other name, which newer ones warn of.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def ranks() -> int:
    """How many processes work on the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def own(n: int, unit: int = 1) -> slice:
    """This rank's share of n rows: consecutive, and of equal length where n is a multiple of the number of ranks.

    Args:
        unit: rows that stay together.
    """
    return share(n, rank(), unit)


def share(n: int, rank: int, unit: int = 1) -> slice:
    """The rows of n that a rank holds."""
    units = -(-n // unit)
    return slice(min(n, unit * (units * rank // ranks())), min(n, unit * (units * (rank + 1) // ranks())))


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks in their order, [B, ...] -> [W B, ...]; with gradient, where x has one.

    The gradient of a row is the sum of what all ranks' losses give it. So a loss that is the mean over own rows, with gradients
    averaged over the ranks afterwards (DistributedDataParallel), gives the gradient of the mean over all rows.
    """
    return x if ranks() == 1 else cast(Tensor, _Gather.apply(x))


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        whole = x.new_empty((ranks() * x.shape[0], *x.shape[1:]))
        _all_gather(whole, x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0].contiguous().clone())[own(len(gradients[0]))]


def total(x: Tensor) -> Tensor:
    """x itself, now the sum over all ranks."""
    if ranks() > 1:
        dist.all_reduce(x)
    return x


def average(tensors: list[Tensor]) -> None:
    """Each of the tensors becomes its mean over all ranks, those of floating point in one message; counts stay."""
    floating = [x for x in tensors if x.is_floating_point()]
    if ranks() == 1 or not floating:
        return
    flat = total(torch.cat([x.detach().double().flatten() for x in floating])) / ranks()
    for x, mean in zip(floating, torch.split(flat, [x.numel() for x in floating])):
        x.detach().copy_(mean.view_as(x))


def collect(x: Tensor, n: int, unit: int = 1) -> Tensor:
    """Rows that the ranks made of `own(n, unit)`, put together on all of them: [own, ...] -> [n, ...]. Without gradient."""
    if ranks() == 1:
        return x
    whole = x.new_empty((n, *x.shape[1:]))
    whole[own(n, unit)] = x
    for source in range(ranks()):
        if len(part := whole[share(n, source, unit)]):
            dist.broadcast(part, source)
    return whole


def broadcast(value: T) -> T:
    """Rank 0's value, on all ranks; anything that can be pickled."""
    if ranks() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def everyone(value: T) -> list[T]:
    """The values of all ranks in their order."""
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, value)
    return found


def largest(*values: int) -> list[int]:
    """Of each of the numbers the largest on any rank; on the CPU, so that no device is waited for."""
    if ranks() == 1:
        return [*values]
    numbers = torch.tensor(values)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers.tolist()
