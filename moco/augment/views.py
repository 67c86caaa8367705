"""Views: random crops, colours and flips of images, made for a whole batch at once on the device of the images.

The parameters of each image are drawn from the distributions that torchvision's transforms for single images use
(RandomResizedCrop, ColorJitter with its random order, RandomGrayscale, GaussianBlur, RandomSolarize); the arithmetic is
batched tensor work, so it runs at the speed of the device. Random numbers come from torch's global generator, which the
training loop seeds at every step. They are drawn for a whole batch, apart from the images, so that processes that share a
batch each compute their part of the same views.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moco.augment.blur import draw_blur, gaussian_blur
from moco.augment.colours import color_jitter, draw_jitter, luma
from moco.augment.constants import constant
from moco.augment.crops import central_boxes, crop_boxes, crop_resize
from moco.augment.draws import Draws
from moco.errors import UserError

CPU_CHUNK = 128  # images at a time on a CPU: more would not fit into its caches, fewer would spend the time on calls


class Augment:
    """Random views of image batches; what papers differ in are arguments.

    Args:
        mean, std: of each channel, of pixels in [0, 1]; subtracted, and divided by.
        size: side of a view in pixels; None keeps that of the images, which are square then.
        smaller: (pixels, until) of views that are smaller before that share of the training is over, in the order of time. They
            cost less while the network learns what is coarse (progressive resizing; arXiv 2104.00298, section 4).
        eval_size: side of the images in evaluation; None keeps theirs. Objects look larger in a crop than in the whole image,
            so a network is most accurate on images larger than its views (FixRes, arXiv 1906.06423).
        eval_crop: side of the central square that evaluation sees, as a share of the image's shorter side.
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
        smaller: Sequence[tuple[int, float]] | None = None,
        eval_size: int | None = None,
        eval_crop: float = 1.0,
        crop: Sequence[float] = (0.2, 1.0),
        flip: float = 0.5,
        jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
        jitter_p: float = 0.8,
        gray: float = 0.2,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize: float = 0.0,
    ):
        self.mean, self.std, self.smaller = tuple(mean), tuple(std), tuple(smaller or ())
        self.size, self.eval_size, self.eval_crop, self.crop, self.flip = size, eval_size, eval_crop, crop, flip
        self.jitter, self.jitter_p, self.gray = jitter, jitter_p, gray
        self.blur, self.blur_sigma, self.solarize = blur, blur_sigma, solarize

    def __call__(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """One view of each image, drawn now: `apply` of `draw`."""
        return self.apply(images, self.draw(len(images), images.shape[-2:], images.device, sizes))

    def draw(self, n: int, size: Sequence[int], device: torch.device, sizes: Tensor | None = None) -> Draws:
        """What is random in views of n images, from torch's global generator of the device.

        Args:
            size: (height, width) of the images.
            sizes: of each, int [n, 2], where they have several and are padded at the bottom and right to `size`. A box is drawn
                within its image's own.

        Raises:
            UserError: images of several sizes, and no size of the views is given.
        """
        if sizes is None:
            whole = constant(tuple(map(float, size)), device).view(2, 1).expand(2, n)
        elif self.size is None:
            raise UserError("images of several sizes have no size for their views: give augment.size, such as 224")
        else:
            whole = sizes.to(device, torch.float32, non_blocking=True).T
        return Draws.cat([self._draw(whole[:, start:stop]) for start, stop in _chunks(n, device)])

    def _draw(self, whole: Tensor) -> Draws:
        """One chunk of `draw`, for images of these heights and widths [2, n]. The order of the lines is that of the numbers."""
        n, device = whole.shape[1], whole.device
        return Draws(
            boxes=crop_boxes(self.crop, whole),
            flip=torch.rand(n, device=device) < self.flip,
            jitter=draw_jitter(n, self.jitter, self.jitter_p, device) if any(self.jitter) and self.jitter_p else None,
            gray=torch.rand(n, device=device) < self.gray if self.gray else None,
            blur=draw_blur(n, self.blur_sigma, self.blur, device) if self.blur else None,
            solarize=torch.rand(n, device=device) < self.solarize if self.solarize else None,
        )

    def apply(self, images: Tensor, draws: Draws, at: float = 1.0) -> Tensor:
        """The views that were drawn: uint8 [B, 3, H, W] -> normalised float32 [B, 3, size, size], channels_last.

        A view depends on its own image and draws alone, so the rows of a batch can be computed apart.

        Args:
            at: share of the training that is over, which `smaller` goes by.
        """
        size = next((pixels for pixels, until in self.smaller if at < until), self.size or images.shape[-1])
        views = torch.empty(len(images), 3, size, size, device=images.device, memory_format=torch.channels_last)
        for start, stop in _chunks(len(images), images.device):
            views[start:stop] = self._apply(images[start:stop], draws[start:stop], size)
        return views

    def _apply(self, images: Tensor, draws: Draws, size: int) -> Tensor:
        """One chunk of `apply`."""
        x = crop_resize(images, draws.boxes, draws.flip, size)
        if draws.jitter is not None:
            x = color_jitter(x, draws.jitter, hue=bool(self.jitter[3]))
        if draws.gray is not None:
            x = _where(draws.gray, luma(x), x)
        if draws.blur is not None:
            x = _where(draws.blur.applied, gaussian_blur(x, draws.blur.sigma), x)
        if draws.solarize is not None:
            x = _where(draws.solarize, torch.minimum(x, 1 - x), x)
        return self._normalize(x)

    def clean(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Images for evaluation: uint8 [B, 3, H, W] -> normalised float32, channels_last.

        With `eval_crop` below 1 these are the central squares, [B, 3, side, side], otherwise whole images. With `eval_size` the
        sides are of that size.

        Args:
            sizes: as for `draw`. Images of several sizes always give central squares.

        Raises:
            UserError: images of several sizes without an `eval_size`.
        """
        x = self._centre(images) if sizes is None else self._centres(images, sizes)
        return self._normalize(x).contiguous(memory_format=torch.channels_last)

    def _centre(self, images: Tensor) -> Tensor:
        """What evaluation sees of images of one size, in [0, 1]."""
        if self.eval_crop < 1:
            height, width = images.shape[-2:]
            side = round(self.eval_crop * min(height, width))
            top, left = round((height - side) / 2), round((width - side) / 2)  # to even, as torchvision's CenterCrop
            images = images[:, :, top : top + side, left : left + side]
        x = images.float().div_(255)
        if self.eval_size:
            x = F.interpolate(x, size=(self.eval_size, self.eval_size), mode="bilinear", antialias=True)
        return x

    def _centres(self, images: Tensor, sizes: Tensor) -> Tensor:
        """What evaluation sees of images of several sizes, in [0, 1]."""
        if self.eval_size is None:
            raise UserError("images of several sizes have none for evaluation: give augment.eval_size, such as 224")
        boxes = central_boxes(sizes.to(images.device, non_blocking=True), self.eval_crop)
        parts = _chunks(len(images), images.device)
        return torch.cat([crop_resize(images[a:b], boxes[a:b], None, self.eval_size) for a, b in parts])

    def _normalize(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] less the mean, divided by the deviation."""
        mean = constant(self.mean, x.device).view(1, -1, 1, 1)
        scale = 1 / constant(self.std, x.device).view(1, -1, 1, 1)
        return torch.sub(x, mean).mul_(scale)


def _chunks(n: int, device: torch.device) -> list[tuple[int, int]]:
    """Where n images are cut into pieces that are worked on at a time: (start, stop) of each, at least one."""
    chunk = CPU_CHUNK if device.type == "cpu" else max(n, 1)
    return [(start, min(start + chunk, n)) for start in range(0, max(n, 1), chunk)]


def _where(chosen: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    """Of each image [B, 3, H, W] the changed one where it is chosen [B], otherwise x.

    torch.lerp is exact at the weights 0 and 1; on a CPU torch.where takes four to thirty times as long.
    """
    return torch.lerp(x, changed, chosen.float().view(-1, 1, 1, 1))
