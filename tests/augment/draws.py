"""Random images, and whether draws agree with a probability or with torchvision."""

import math

import torch
from scipy import stats
from torchvision import transforms


def random_images(n: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8)


def agrees_with_probability(hits: int, n: int, p: float) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(hits - n * p) < 4 * math.sqrt(n * p * (1 - p))


def boxes_are_torchvisions(boxes: torch.Tensor, area: tuple[float, float], height: int, width: int) -> bool:
    """Whether boxes [n, 4] of images of one size have the distributions of RandomResizedCrop's, in sides, places and areas."""
    image, get = torch.zeros(1, height, width), transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([get(image, list(area), [3 / 4, 4 / 3]) for _ in range(len(boxes))])
    return all(
        stats.ks_2samp(what(*boxes.double().T).numpy(), what(*theirs.double().T).numpy()).pvalue > 1e-3
        for what in (
            lambda top, left, h, w: h * w,
            lambda top, left, h, w: w / h,
            lambda top, left, h, w: top,
            lambda top, left, h, w: left,
            lambda top, left, h, w: top + h,
            lambda top, left, h, w: left + w,
        )
    )
