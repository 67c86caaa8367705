"""What a network costs: its parameters and its multiply-adds."""

from typing import NamedTuple

import torch
from torch import nn

from moco.models.modes import eval_mode


class Cost(NamedTuple):
    parameters: int
    multiply_adds: int


def count(network: nn.Module, image_size: int | tuple[int, int], channels: int = 3) -> Cost:
    """Parameters, and multiply-adds of the forward pass of one image in eval mode; the network is left as it was.

    Multiply-adds are those of convolutions and matrix products, half of the operations that torch's FLOP counter reports.

    Args:
        network: takes images [1, channels, H, W].
        image_size: (H, W), or the side of a square.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads triton, which takes its time

    parameters = list(network.parameters())
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    x = torch.zeros(1, channels, height, width)
    if parameters:
        x = x.to(parameters[0])
    with eval_mode(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return Cost(sum(p.numel() for p in parameters), counter.get_total_flops() // 2)
