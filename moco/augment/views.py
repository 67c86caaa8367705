"""Views: random crops, colours and flips of images, made for a whole batch at once on the device of the images.

The parameters of each image are drawn from the distributions that torchvision's transforms for single images use
(RandomResizedCrop, ColorJitter with its random order, RandomGrayscale, GaussianBlur, RandomSolarize); the arithmetic is
batched tensor work, so it runs at the speed of the device. Random numbers come from torch's global generator, which the
training loop seeds at every step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moco.augment.blur import gaussian_blur
from moco.augment.colours import color_jitter, luma
from moco.augment.constants import constant
from moco.augment.crops import crop_boxes, crop_resize
from moco.augment.notes import Draw, Note, Notebook, unnoted

CPU_CHUNK = 128  # images at a time on a CPU: more would not fit into its caches, fewer would spend the time on calls


class Augment:
    """Random views of image batches; what papers differ in are arguments.

    Args:
        mean, std: of each channel, of pixels in [0, 1]; subtracted, and divided by.
        size: side of a view in pixels; None keeps that of the images, which are square then.
        eval_size: side of the images in evaluation; None keeps theirs. Objects look larger in a crop than in the whole image,
            so a network is most accurate on images larger than its views (FixRes, arXiv 1906.06423).
        crop: (least, largest) area of the crop as a share of the image.
        flip: probability of a horizontal flip.
        jitter: strengths (brightness, contrast, saturation, hue) of ColorJitter.
        jitter_p, gray, blur, solarize: probability of each.
        blur_sigma: (least, largest) standard deviation of the Gaussian in pixels.
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
        self.mean, self.std = tuple(mean), tuple(std)
        self.size, self.eval_size, self.crop, self.flip = size, eval_size, crop, flip
        self.jitter, self.jitter_p, self.gray = jitter, jitter_p, gray
        self.blur, self.blur_sigma, self.solarize = blur, blur_sigma, solarize

    def __call__(self, images: Tensor) -> Tensor:
        """One view: uint8 [B, 3, H, W] -> normalised float32 [B, 3, size, size], channels_last."""
        return self._views(images, unnoted)

    def drawn(self, images: Tensor) -> tuple[Tensor, list[Draw]]:
        """The view that __call__ would give, and what was drawn for each image."""
        notes = Notebook()
        return self._views(images, notes), notes.draws()

    def _views(self, images: Tensor, note: Note) -> Tensor:
        chunk = CPU_CHUNK if images.device.type == "cpu" else len(images)
        size = self.size or images.shape[-1]
        views = torch.empty(len(images), 3, size, size, device=images.device, memory_format=torch.channels_last)
        for part, view in zip(torch.split(images, chunk), torch.split(views, chunk)):
            view.copy_(self._view(part, size, note))
        return views

    def _view(self, images: Tensor, size: int, note: Note) -> Tensor:
        """One chunk of _views."""
        boxes = crop_boxes(len(images), self.crop, images.shape[-2:], images.device)
        for name, value in boxes._asdict().items():
            note(name, value)
        x = crop_resize(images, boxes, size, self.flip, note)
        if any(self.jitter) and self.jitter_p:
            x = color_jitter(x, self.jitter, self.jitter_p, note)
        if self.gray:
            x = torch.lerp(x, luma(x), chance(x, self.gray, "gray", note))
        if self.blur:
            x = torch.lerp(x, gaussian_blur(x, self.blur_sigma, note), chance(x, self.blur, "blur", note))
        if self.solarize:
            x = torch.lerp(x, torch.minimum(x, 1 - x), chance(x, self.solarize, "solarize", note))
        return self._normalize(x)

    def clean(self, images: Tensor) -> Tensor:
        """Whole images, for evaluation: uint8 [B, 3, H, W] -> normalised float32 [B, 3, H, W], channels_last.

        With `eval_size` the sides are of that size.
        """
        x = images.float().div_(255)
        if self.eval_size:
            x = F.interpolate(x, size=(self.eval_size, self.eval_size), mode="bilinear", antialias=True)
        return self._normalize(x).contiguous(memory_format=torch.channels_last)

    def _normalize(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] less the mean, divided by the deviation."""
        mean = constant(self.mean, x.device).view(1, -1, 1, 1)
        scale = 1 / constant(self.std, x.device).view(1, -1, 1, 1)
        return torch.sub(x, mean).mul_(scale)


def chance(x: Tensor, p: float, name: str, note: Note = unnoted) -> Tensor:
    """1 with probability p, otherwise 0, for each image of x [B, ...] -> float [B, 1, 1, 1], noted by this name.

    These are weights for torch.lerp, which is exact at 0 and 1; on a CPU torch.where takes four to thirty times as long.
    """
    chosen = (torch.rand(len(x), 1, 1, 1, device=x.device) < p).float()
    note(name, chosen)
    return chosen
