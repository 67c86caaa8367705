"""Views: two random crops, colours and flips of each image, made for a whole batch at once on the images' device.

Every step draws its parameters per image from the distributions that torchvision's per-image transforms use
(RandomResizedCrop, ColorJitter with its random order, RandomGrayscale, GaussianBlur, RandomSolarize); the arithmetic is
batched tensor work, so that it runs at the speed of the device. Random numbers come from torch's global generator, which
the training loop seeds anew for every step.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what PIL and torchvision turn to gray with
CPU_CHUNK = 128  # images at a time on a CPU: more would leave its caches, fewer would spend the time on calls


class Augment:
    """Random views of image batches; the parameters of every paper are arguments.

    Args:
        size: side of a view in pixels; None keeps the images' own.
        eval_size: side of the images in evaluation. Objects look larger in a crop than in the whole image, so a network does
            best on images larger than its views (FixRes, arXiv 1906.06423).
        crop: (least, largest) area of the crop as a share of the image; (1, 1) with `pad` 0 keeps the image whole.
        flip: probability of a horizontal flip.
        jitter: strengths (brightness, contrast, saturation, hue) of ColorJitter.
        jitter_p, gray, blur, solarize: probabilities of each.
        blur_sigma: range of the Gaussian's standard deviation in pixels.
        mean, std: per channel, of pixels in [0, 1]; what `normalize` subtracts and divides by.

    Raises:
        ValueError: a probability outside [0, 1] or a range that is empty.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        size: int | None = None,
        eval_size: int | None = None,
        crop: Sequence[float] = (0.2, 1.0),
        flip: float = 0.5,
        jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
        jitter_p: float = 0.8,
        gray: float = 0.2,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize: float = 0.0,
    ):
        for name, p in dict(flip=flip, jitter_p=jitter_p, gray=gray, blur=blur, solarize=solarize).items():
            if not 0 <= p <= 1:
                raise ValueError(f"augment.{name}={p} is a probability: give a number from 0 to 1")
        if not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError(f"augment.crop={list(crop)} must be [least, largest] share of the image, 0 < least <= 1")
        if not 0 < blur_sigma[0] <= blur_sigma[1]:
            raise ValueError(f"augment.blur_sigma={list(blur_sigma)} must be [least, largest] in pixels, above 0")
        if any(j < 0 for j in jitter) or jitter[3] > 0.5:
            raise ValueError(f"augment.jitter={list(jitter)} must be four strengths of at least 0, hue at most 0.5")
        self.size, self.eval_size, self.crop, self.flip = size, eval_size, tuple(crop), flip
        self.jitter, self.jitter_p, self.gray = tuple(jitter), jitter_p, gray
        self.blur, self.blur_sigma, self.solarize = blur, tuple(blur_sigma), solarize
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor) -> Tensor:
        """One view: uint8 [B, 3, H, W] -> normalised float32 [B, 3, size, size], channels_last."""
        chunk = CPU_CHUNK if images.device.type == "cpu" else len(images)
        size = self.size or images.shape[-1]
        views = torch.empty(len(images), 3, size, size, device=images.device, memory_format=torch.channels_last)
        for part, view in zip(images.split(chunk), views.split(chunk)):
            view.copy_(self._view(part, size))
        return views

    def _view(self, images: Tensor, size: int) -> Tensor:
        boxes = crop_boxes(len(images), self.crop, images.shape[-2:], images.device)
        x = crop_resize(images, boxes, size, self.flip)
        if any(self.jitter) and self.jitter_p:
            x = color_jitter(x, self.jitter, self.jitter_p)
        if self.gray:
            x = torch.lerp(x, luma(x), chance(x, self.gray))
        if self.blur:
            x = torch.lerp(x, gaussian_blur(x, self.blur_sigma), chance(x, self.blur))
        if self.solarize:
            x = torch.lerp(x, torch.minimum(x, 1 - x), chance(x, self.solarize))
        return self._normalize(x)

    def clean(self, images: Tensor) -> Tensor:
        """The whole image, for evaluation: uint8 [B, 3, H, W] -> normalised float32 [B, 3, H, W], channels_last."""
        x = images.float().div_(255)
        if self.eval_size:
            x = F.interpolate(x, size=(self.eval_size, self.eval_size), mode="bilinear", antialias=True)
        return self._normalize(x).contiguous(memory_format=torch.channels_last)

    def _normalize(self, x: Tensor) -> Tensor:
        mean = constant(self.mean, x.device).view(1, -1, 1, 1)
        scale = 1 / constant(self.std, x.device).view(1, -1, 1, 1)
        return torch.sub(x, mean).mul_(scale)


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 [n] on the device, made once: to copy it there at every step would make the host wait for the device."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def chance(x: Tensor, p: float) -> Tensor:
    """1 with probability p, else 0, for each image of x [B, ...] -> float [B, 1, 1, 1].

    As weights of torch.lerp, which is exact at 0 and 1: on a CPU torch.where takes four to thirty times as long.
    """
    return (torch.rand(len(x), 1, 1, 1, device=x.device) < p).float()


def luma(x: Tensor) -> Tensor:
    """Gray value, [B, 3, H, W] -> [B, 1, H, W]."""
    r, g, b = x.split(1, 1)
    return (LUMA[0] * r).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def crop_boxes(n: int, area: Sequence[float], shape: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """Boxes (top, left, height, width), each float [n], of torchvision's RandomResizedCrop.

    Area uniform in `area`, aspect ratio log-uniform in (3/4, 4/3), ten tries, then a central crop; sides are whole pixels.
    """
    height, width = shape
    tries = 10
    target = torch.empty(n, tries, device=device).uniform_(*area).mul_(height * width)
    ratio = torch.empty(n, tries, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp_()
    sides = torch.stack([target / ratio, target * ratio]).sqrt_().round_()  # heights and widths, [2, n, tries]
    whole = constant((float(height), float(width)), device).view(2, 1)
    fits = ((sides > 0) & (sides <= whole.unsqueeze(2))).all(0)
    first = fits.float().argmax(1, keepdim=True).expand(2, n, 1)
    found = fits.any(1)
    # Where no try fits, torchvision takes the largest central crop of an allowed ratio: the whole of a square image.
    largest = min(height, round(width / (3 / 4))), min(width, round(height * 4 / 3))
    side = torch.where(
        found, sides.gather(2, first).squeeze(2), constant(tuple(map(float, largest)), device).view(2, 1)
    )
    room = whole - side
    start = torch.where(found, torch.rand(2, n, device=device).mul_(room + 1).floor_(), (room / 2).floor_())
    return *start, *side


def resize_weights(start: Tensor, length: Tensor, size: int, source: int) -> Tensor:
    """Bilinear, antialiased resampling of [start, start + length) to `size` pixels, as a matrix [B, size, source].

    The triangle filter of PIL and of torchvision with antialias=True: it widens when shrinking, and looks at the crop
    alone, so that nothing leaks in from outside the box. A negative length reads the pixels before `start` backwards.
    """
    scale = (length / size).view(-1, 1, 1)
    out = torch.arange(size, device=start.device).view(1, -1, 1) + 0.5
    pixel = torch.arange(source, device=start.device).view(1, 1, -1) + 0.5
    begin, end = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    inside = (pixel > torch.minimum(begin, end)) & (pixel < torch.maximum(begin, end))
    weight = (begin + out * scale - pixel).div_(scale.abs().clamp(min=1)).abs_()
    weight = torch.rsub(weight, 1).clamp_(min=0).mul_(inside)
    return weight.div_(weight.sum(-1, keepdim=True))


def crop_resize(images: Tensor, boxes: tuple[Tensor, ...], size: int, flip: float) -> Tensor:
    """Crops each image by `boxes` (top, left, height, width, each [B]), resizes it to size x size and flips some.

    uint8 [B, 3, H, W] -> float32 [B, 3, size, size]
    """
    top, left, height, width = boxes
    flipped = torch.rand(len(images), device=images.device) < flip
    rows = resize_weights(top, height, size, images.shape[-2]).div_(255)  # [B, size, H]
    left, width = torch.where(flipped, left + width, left), torch.where(flipped, -width, width)
    columns = resize_weights(left, width, size, images.shape[-1])  # [B, size, W]
    b, c, h, w = images.shape
    x = torch.bmm(images.float().view(b, c * h, w), columns.transpose(1, 2))  # [B, 3 H, size]
    return torch.matmul(rows.unsqueeze(1), x.view(b, c, h, size))


def color_jitter(x: Tensor, strength: Sequence[float], p: float) -> Tensor:
    """torchvision's ColorJitter with its random order of the four, each image its own, on pixels in [0, 1].

    Brightness, contrast and saturation each mix the image with a base (black, its mean gray, its gray) by a factor and
    clamp, so one mix serves all images, whichever of the three is theirs. Hue, the dear one, is turned once: the mixes
    that an image has before its hue come first, then hue, then the others, with factor 1 where it is not a mix's turn.
    """
    n, device = len(x), x.device
    applied = torch.rand(n, 1, device=device) < p
    ranges = [(max(0.0, 1 - s), 1 + s) for s in strength[:3]] + [(-strength[3], strength[3])]
    low, span = constant(tuple(a for a, _ in ranges), device), constant(tuple(b - a for a, b in ranges), device)
    neutral = constant((1.0, 1.0, 1.0, 0.0), device)
    factors = torch.where(applied, torch.rand(n, 4, device=device).mul_(span).add_(low), neutral)
    order = torch.rand(n, 3, device=device).argsort(1)  # of brightness 0, contrast 1, saturation 2
    hue_turn = torch.randint(4, (n, 1), device=device)  # how many of them come before hue
    turn = torch.arange(3, device=device)
    own_turn = torch.cat([turn < hue_turn, turn >= hue_turn], 1)  # [n, 6]: three before hue and three after it
    mixes = torch.where(own_turn, factors.gather(1, order).repeat(1, 2), 1)
    weights = torch.stack(mix_weights(order.repeat(1, 2), mixes)).view(3, n, 6, 1, 1, 1).unbind(2)
    x = x.clone()
    for own, gray, mean in weights[:3]:
        x = mix_(x, own, gray, mean)
    if strength[3]:
        x = turn_hue(x, factors[:, 3].view(-1, 1, 1, 1))
    for own, gray, mean in weights[3:]:
        x = mix_(x, own, gray, mean)
    return x


def mix_weights(operation: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of mix_ for brightness (0), contrast (1) or saturation (2), of the shape of both."""
    return factor, (1 - factor) * (operation == 2), (1 - factor) * (operation == 1)


def mix_(x: Tensor, own: Tensor, gray: Tensor, mean: Tensor) -> Tensor:
    """Makes x [B, 3, H, W] the sum of itself, its gray and its mean gray by these weights [B, 1, 1, 1], clamped."""
    base = luma(x)
    level = base.mean((2, 3), keepdim=True).mul_(mean)
    return x.mul_(own).add_(base.mul_(gray).add_(level)).clamp_(0, 1)


def turn_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of pixels [B, 3, H, W] by shift [B, 1, 1, 1] of a full turn, value and saturation (HSV) kept."""
    r, g, b = x.unbind(1)
    value, minimum = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    chroma = value - minimum
    inverse = chroma.clamp(min=1e-8).mul_(6).reciprocal_()
    # In turns from magenta, so never negative: where blue is largest, green, red. Masks are floats, see `chance`
    hue = (r - g).mul_(inverse).add_(5 / 6)
    hue = hue.lerp_((b - r).mul_(inverse).add_(1 / 2), torch.eq(value, g, out=torch.empty_like(value)))
    hue = hue.lerp_((g - b).mul_(inverse).add_(1 / 6), torch.eq(value, r, out=torch.empty_like(value)))
    # The colour wheel, each channel a trapezoid of the hue: low for a third of a turn, high for half of one
    turn = (constant((5 / 3, 4 / 3, 1.0), x.device).view(1, 3, 1, 1) + shift).frac_()
    away = (hue.unsqueeze(1) + turn).frac_().sub_(1 / 3).abs_()
    return value.unsqueeze(1) - torch.rsub(away, 2, alpha=6).clamp_(0, 1).mul_(chroma.unsqueeze(1))


def gaussian_blur(x: Tensor, sigma: Sequence[float]) -> Tensor:
    """Blurs each image with its own sigma: a kernel of about a tenth of the side (SimCLR, arXiv 2002.05709, appendix A).

    Separable, so two products with a banded matrix [B, size, size] that holds the reflected border.
    """
    n, size = len(x), x.shape[-1]
    radius = max(1, round(0.1 * size) // 2)
    s = torch.empty(n, 1, device=x.device).uniform_(*sigma)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.softmax(-(offsets**2) / (2 * s**2), 1)  # [B, 2 radius + 1]
    source = (torch.arange(size, device=x.device).view(-1, 1) + offsets).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # [size, 2 radius + 1]
    band = (source.unsqueeze(-1) == torch.arange(size, device=x.device)).float()  # [size, 2 radius + 1, size]
    matrix = torch.einsum("bk,iks->bis", kernel, band).unsqueeze(1)  # [B, 1, size, size]
    return matrix @ x @ matrix.transpose(2, 3)
