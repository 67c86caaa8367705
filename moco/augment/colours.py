"""Gray and ColorJitter, for a whole batch at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moco.augment.constants import constant

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, by which PIL and torchvision convert to gray


def luma(x: Tensor) -> Tensor:
    """Gray value, [B, 3, H, W] -> [B, 1, H, W]."""
    r, g, b = torch.split(x, 1, 1)
    return (LUMA[0] * r).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


class Jitter(NamedTuple):
    """What is drawn for the ColorJitter of n views.

    Attributes:
        applied: which are jittered, bool [n].
        factors: of brightness, contrast and saturation, and the turn of the hue as a share of the circle, float [n, 4]; those
            that change nothing where it is not applied.
        order: of brightness 0, contrast 1 and saturation 2, int [n, 3].
        hue_turn: how many of these three come before the hue, int [n].
    """

    applied: Tensor
    factors: Tensor
    order: Tensor
    hue_turn: Tensor


def draw_jitter(n: int, strength: Sequence[float], p: float, device: torch.device) -> Jitter:
    """Factors and order of each view as torchvision's ColorJitter draws them.

    Args:
        strength: (brightness, contrast, saturation, hue).
        p: probability that a view is jittered at all.
    """
    applied = torch.rand(n, device=device) < p
    ranges = [(max(0.0, 1 - s), 1 + s) for s in strength[:3]] + [(-strength[3], strength[3])]
    low, span = constant(tuple(a for a, _ in ranges), device), constant(tuple(b - a for a, b in ranges), device)
    neutral = constant((1.0, 1.0, 1.0, 0.0), device)
    factors = torch.where(applied.unsqueeze(1), torch.rand(n, 4, device=device).mul_(span).add_(low), neutral)
    order = torch.rand(n, 3, device=device).argsort(1)
    return Jitter(applied, factors, order, torch.randint(4, (n,), device=device))


def color_jitter(x: Tensor, jitter: Jitter, hue: bool = True) -> Tensor:
    """torchvision's ColorJitter on pixels [B, 3, H, W] in [0, 1]; each image has its own factors and order of the four.

    Brightness, contrast and saturation each mix the image with a base (black, its mean gray, its gray) by a factor and then
    clamp. So one mix handles all images, each with its own of the three. The hue, which costs the most, is turned once for
    all images: first come the mixes that precede an image's hue, then hue, then the mixes that follow it, with factor 1
    where it is not the turn of a mix.

    Args:
        hue: whether any is turned.
    """
    factors, order, hue_turn = jitter.factors, jitter.order, jitter.hue_turn.unsqueeze(1)
    n, turn = len(x), torch.arange(3, device=x.device)
    own_turn = torch.cat([turn < hue_turn, turn >= hue_turn], 1)  # [n, 6]: three before hue and three after it
    mixes = torch.where(own_turn, factors.gather(1, order).repeat(1, 2), 1)  # [n, 6]
    weights = torch.stack(mix_weights(order.repeat(1, 2), mixes)).view(3, n, 6, 1, 1, 1).unbind(2)
    x = x.clone()
    for own, gray, mean in weights[:3]:
        x = mix_(x, own, gray, mean)
    if hue:
        x = turn_hue(x, factors[:, 3].view(-1, 1, 1, 1))
    for own, gray, mean in weights[3:]:
        x = mix_(x, own, gray, mean)
    return x


def mix_weights(operation: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights (own, gray, mean) of mix_ for brightness (0), contrast (1) or saturation (2), in the shape of both."""
    return factor, (1 - factor) * (operation == 2), (1 - factor) * (operation == 1)


def mix_(x: Tensor, own: Tensor, gray: Tensor, mean: Tensor) -> Tensor:
    """Replaces x [B, 3, H, W] by the clamped sum of itself, its gray and its mean gray with these weights [B, 1, 1, 1]."""
    base = luma(x)
    level = base.mean((2, 3), keepdim=True).mul_(mean)
    return x.mul_(own).add_(base.mul_(gray).add_(level)).clamp_(0, 1)


def turn_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of pixels [B, 3, H, W] by shift [B, 1, 1, 1], in full turns; value and saturation (HSV) stay."""
    r, g, b = x.unbind(1)
    value, minimum = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    chroma = value - minimum
    inverse = chroma.clamp(min=1e-8).mul_(6).reciprocal_()
    # In turns counted from magenta, so never negative: first where blue is largest, then green, then red. The masks are
    # floats for lerp_, since torch.where is slow on a CPU.
    hue = (r - g).mul_(inverse).add_(5 / 6)
    hue = hue.lerp_((b - r).mul_(inverse).add_(1 / 2), torch.eq(value, g, out=torch.empty_like(value)))
    hue = hue.lerp_((g - b).mul_(inverse).add_(1 / 6), torch.eq(value, r, out=torch.empty_like(value)))
    # The colour wheel: each channel is a trapezoid of the hue, low for a third of a turn and high for half a turn.
    turn = (constant((5 / 3, 4 / 3, 1.0), x.device).view(1, 3, 1, 1) + shift).frac_()
    away = (hue.unsqueeze(1) + turn).frac_().sub_(1 / 3).abs_()
    return value.unsqueeze(1) - torch.rsub(away, 2, alpha=6).clamp_(0, 1).mul_(chroma.unsqueeze(1))
