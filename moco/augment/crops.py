"""Random crops, resized and flipped, of a whole batch by two matrix products."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def crop_boxes(area: Sequence[float], whole: Tensor) -> Tensor:
    """Boxes of n images, drawn as torchvision's RandomResizedCrop draws them.

    The area is uniform in `area`, the aspect ratio log-uniform in (3/4, 4/3). After ten tries that do not fit into the image
    a central crop is taken.

    Args:
        area: (least, largest) share of the image.
        whole: heights and widths of the images, float [2, n].

    Returns:
        (top, left, height, width) in whole pixels, float [n, 4].
    """
    n, device, tries = whole.shape[1], whole.device, 10
    target = torch.empty(n, tries, device=device).uniform_(*area).mul_(whole.prod(0).unsqueeze(1))
    ratio = torch.empty(n, tries, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp_()
    sides = torch.stack([target / ratio, target * ratio]).sqrt_().round_()  # heights and widths, [2, n, tries]
    fits = ((sides > 0) & (sides <= whole.unsqueeze(2))).all(0)  # [n, tries]
    first = fits.float().argmax(1, keepdim=True).expand(2, n, 1)
    found = fits.any(1)  # [n]
    # Where no try fits, torchvision takes the largest central crop of an allowed ratio: all of a square image.
    largest = torch.minimum(whole, (whole.flip(0) * 4 / 3).round_())  # [2, n]
    side = torch.where(found, sides.gather(2, first).squeeze(2), largest)  # [2, n]
    room = whole - side
    start = torch.where(found, torch.rand(2, n, device=device).mul_(room + 1).floor_(), (room / 2).floor_())  # [2, n]
    return torch.cat([start, side]).T


def central_boxes(sizes: Tensor, share: float) -> Tensor:
    """The central square of images of these sizes int [n, 2], its side `share` of the shorter one: boxes float [n, 4]."""
    side = (sizes.amin(1, keepdim=True) * share).round_()  # [n, 1]
    start = ((sizes - side) / 2).round_()  # to even, as torchvision's CenterCrop
    return torch.cat([start, side, side], 1)


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


def crop_resize(images: Tensor, boxes: Tensor, flip: Tensor | None, size: int) -> Tensor:
    """Crops each image to its box, resizes it to size x size and flips it where `flip` says so, bool [B].

    uint8 [B, 3, H, W] -> float32 [B, 3, size, size] in [0, 1]. What lies outside of the boxes [B, 4] is not seen.
    """
    top, left, height, width = boxes.unbind(1)
    rows = resize_weights(top, height, size, images.shape[-2]).div_(255)  # [B, size, H]
    if flip is not None:
        left, width = torch.where(flip, left + width, left), torch.where(flip, -width, width)
    columns = resize_weights(left, width, size, images.shape[-1])  # [B, size, W]
    b, c, h, w = images.shape
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)  # decoded ones are channels_last
    x = torch.bmm(pixels.view(b, c * h, w), columns.transpose(1, 2))  # [B, 3 H, size]
    return torch.matmul(rows.unsqueeze(1), x.view(b, c, h, size))
