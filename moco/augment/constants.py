"""Constants on a device."""

import functools

import torch
from torch import Tensor


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 [n] on the device, made only once: copying it there at every step would make the host wait for the device."""
    return torch.tensor(values, dtype=torch.float32, device=device)
