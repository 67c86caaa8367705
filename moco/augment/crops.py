"""Random crops, resized and flipped, of a whole batch by two matrix products."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moco.augment.constants import constant
from moco.augment.notes import Note, unnoted


class Boxes(NamedTuple):
    """A crop of each image in pixels, each float [B]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def crop_boxes(n: int, area: Sequence[float], shape: Sequence[int], device: torch.device) -> Boxes:
    """Boxes of n images, drawn as torchvision's RandomResizedCrop draws them; all numbers are whole pixels.

    The area is uniform in `area`, the aspect ratio log-uniform in (3/4, 4/3). After ten tries that do not fit into the image
    a central crop is taken.

    Args:
        area: (least, largest) share of the image.
        shape: (height, width) of the images.
    """
    height, width = shape
    tries = 10
    target = torch.empty(n, tries, device=device).uniform_(*area).mul_(height * width)
    ratio = torch.empty(n, tries, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp_()
    sides = torch.stack([target / ratio, target * ratio]).sqrt_().round_()  # heights and widths, [2, n, tries]
    whole = constant((float(height), float(width)), device).view(2, 1)
    fits = ((sides > 0) & (sides <= whole.unsqueeze(2))).all(0)  # [n, tries]
    first = fits.float().argmax(1, keepdim=True).expand(2, n, 1)
    found = fits.any(1)  # [n]
    # Where no try fits, torchvision takes the largest central crop of an allowed ratio: all of a square image.
    largest = float(min(height, round(width / (3 / 4)))), float(min(width, round(height * 4 / 3)))
    side = torch.where(found, sides.gather(2, first).squeeze(2), constant(largest, device).view(2, 1))  # [2, n]
    room = whole - side
    start = torch.where(found, torch.rand(2, n, device=device).mul_(room + 1).floor_(), (room / 2).floor_())  # [2, n]
    return Boxes(start[0], start[1], side[0], side[1])


def resize_weights(start: Tensor, length: Tensor, size: int, source: int) -> Tensor:
    """Bilinear, antialiased resampling of [start, start + length), each [B], to `size` pixels, as matrices [B, size, source].

    This is the triangle filter of PIL, and of torchvision with antialias=True. It widens when the crop shrinks, and it sees
    only the crop, so nothing leaks in from outside the box. A negative length reads the pixels before `start` backwards.
    """
    scale = (length / size).view(-1, 1, 1)
    out = torch.arange(size, device=start.device).view(1, -1, 1) + 0.5
    pixel = torch.arange(source, device=start.device).view(1, 1, -1) + 0.5
    begin, end = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    inside = (pixel > torch.minimum(begin, end)) & (pixel < torch.maximum(begin, end))
    weight = (begin + out * scale - pixel).div_(scale.abs().clamp(min=1)).abs_()
    weight = torch.rsub(weight, 1).clamp_(min=0).mul_(inside)
    return weight.div_(weight.sum(-1, keepdim=True))


def crop_resize(images: Tensor, boxes: Boxes, size: int, flip: float, note: Note = unnoted) -> Tensor:
    """Crops each image to its box, resizes it to size x size and flips it with probability `flip`.

    uint8 [B, 3, H, W] -> float32 [B, 3, size, size] in [0, 1]
    """
    top, left, height, width = boxes
    flipped = torch.rand(len(images), device=images.device) < flip
    note("flip", flipped)
    rows = resize_weights(top, height, size, images.shape[-2]).div_(255)  # [B, size, H]
    left, width = torch.where(flipped, left + width, left), torch.where(flipped, -width, width)
    columns = resize_weights(left, width, size, images.shape[-1])  # [B, size, W]
    b, c, h, w = images.shape
    x = torch.bmm(images.float().view(b, c * h, w), columns.transpose(1, 2))  # [B, 3 H, size]
    return torch.matmul(rows.unsqueeze(1), x.view(b, c, h, size))
