"""Gaussian blur, for a whole batch at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moco.augment.notes import Note, unnoted


def gaussian_blur(x: Tensor, sigma: Sequence[float], note: Note = unnoted) -> Tensor:
    """Blurs each square image [B, 3, size, size] with a standard deviation of its own, uniform in `sigma`, in pixels.

    The kernel is about a tenth of the side long (SimCLR, arXiv 2002.05709, appendix A). It is separable, so blurring is two
    products with a banded matrix [B, size, size], which includes the reflection at the border.
    """
    n, size = len(x), x.shape[-1]
    radius = max(1, round(0.1 * size) // 2)
    s = torch.empty(n, 1, device=x.device).uniform_(*sigma)
    note("sigma", s)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.softmax(-(offsets**2) / (2 * s**2), 1)  # [B, 2 radius + 1]
    source = (torch.arange(size, device=x.device).view(-1, 1) + offsets).abs()  # reflected at 0
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # [size, 2 radius + 1]
    band = (source.unsqueeze(-1) == torch.arange(size, device=x.device)).float()  # [size, 2 radius + 1, size]
    matrix = torch.einsum("bk,iks->bis", kernel, band).unsqueeze(1)  # [B, 1, size, size]
    return matrix @ x @ matrix.transpose(2, 3)
