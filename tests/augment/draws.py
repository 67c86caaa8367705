"""Random images, and whether draws agree with a probability."""

import math

import torch


def random_images(n: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8)


def agrees_with_probability(hits: int, n: int, p: float) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(hits - n * p) < 4 * math.sqrt(n * p * (1 - p))
