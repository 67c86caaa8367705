"""Gaussian blur, for a whole batch at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Blur(NamedTuple):
    """What is drawn for the blur of n views.

    Attributes:
        applied: which are blurred, bool [n].
        sigma: standard deviation in pixels of the view, float [n].
    """

    applied: Tensor
    sigma: Tensor


def draw_blur(n: int, sigma: Sequence[float], p: float, device: torch.device) -> Blur:
    """A standard deviation for each view, uniform in `sigma`, and whether it is blurred, with probability p."""
    drawn = torch.empty(n, device=device).uniform_(*sigma)
    return Blur(torch.rand(n, device=device) < p, drawn)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blurs each square image [B, 3, size, size] with its standard deviation [B], in pixels.

    The kernel is about a tenth of the side long (SimCLR, arXiv 2002.05709, appendix A). It is separable, so blurring is two
    products with a banded matrix [B, size, size], which includes the reflection at the border.
    """
    size = x.shape[-1]
    radius = max(1, round(0.1 * size) // 2)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.softmax(-(offsets**2) / (2 * sigma.unsqueeze(1) ** 2), 1)  # [B, 2 radius + 1]
    source = (torch.arange(size, device=x.device).view(-1, 1) + offsets).abs()  # reflected at 0
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # [size, 2 radius + 1]
    band = (source.unsqueeze(-1) == torch.arange(size, device=x.device)).float()  # [size, 2 radius + 1, size]
    matrix = torch.einsum("bk,iks->bis", kernel, band).unsqueeze(1)  # [B, 1, size, size]
    return matrix @ x @ matrix.transpose(2, 3)
