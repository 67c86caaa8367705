"""The memory layout of a network, evaluation mode for a while, and what draws at random in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

M = TypeVar("M", bound=nn.Module)


def channels_last(model: M) -> M:
    """The model itself, its convolutions now in channels_last, the faster layout on CPUs and on tensor cores."""
    return model.to(memory_format=torch.channels_last)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode; afterwards each of its modules has its earlier training flag again."""
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in flags:
            m.training = training


def random_part(network: nn.Module) -> str | None:
    """The name and kind of a part that draws at random in training: dropout, or timm's DropPath; None where there is none."""
    for name, module in network.named_modules():
        if (isinstance(module, _DropoutNd) and module.p) or getattr(module, "drop_prob", 0):
            return f"{name} ({type(module).__name__})"
    return None
