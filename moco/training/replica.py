"""A method on one of several ranks: gradients are averaged over all of them, statistics of BatchNorm where they are needed."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from moco.errors import UserError
from moco.methods.split_batchnorm import share_batch_norm
from moco.models.modes import random_part
from moco.ranks import average, ranks


def replicated(method: nn.Module, name: str, device: torch.device) -> Callable[..., Tensor]:
    """What computes the loss of this rank's share of a batch; the method itself where there is one rank.

    Queues and banks are updated alike on all ranks, so they are not sent around at each step.

    Raises:
        UserError: the method does not count over the images of all ranks, has a BatchNorm that cannot, or draws at random,
            which each rank would do for its own images alone.
    """
    if ranks() == 1:
        return method
    if not getattr(method, "distributed", False):
        raise UserError(
            f"method={name} does not say that it counts over the images of {ranks()} processes, so it would train on another "
            "question: start one process, or see docs/extend.md"
        )
    if part := random_part(method):
        raise UserError(
            f"the model's {part} draws at random in training, which {ranks()} processes would do in another way than one: "
            "start one process, or give a model without dropout"
        )
    share_batch_norm(method)
    sync = "forward_sync_buffers"  # torch before 2.14 has it under another name, which newer ones warn of
    never = {sync if sync in inspect.signature(DistributedDataParallel).parameters else "broadcast_buffers": False}
    options: dict[str, Any] = {"gradient_as_bucket_view": True, **never}
    return DistributedDataParallel(method, [device] if device.type == "cuda" else None, **options)


def settle(method: object) -> None:
    """Running statistics of BatchNorm become those over the groups of all ranks.

    They move by the mean of what the groups have, so the mean over ranks may be taken seldom: before an evaluation and a save.
    """
    if ranks() > 1:
        modules: Iterable[nn.Module] = cast(nn.Module, method).modules()
        norms = [bn for bn in modules if isinstance(bn, _BatchNorm)]
        average([x for bn in norms for x in (bn.running_mean, bn.running_var) if x is not None])
