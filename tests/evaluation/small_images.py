"""A small backbone, and images that it can tell apart."""

import torch
from torch import nn


def backbone():
    """3x8x8 images -> 6 features, with BatchNorm and Dropout."""
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def to_float(images):
    return images.float() / 255


def images(n, seed=0):
    """Noise, brighter in the channel of the label. uint8 [n, 3, 8, 8] and int64 [n]"""
    labels = torch.arange(n) % 3
    x = torch.randint(0, 128, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    x[torch.arange(n), labels] += 127
    return x.to(torch.uint8), labels


class Views:
    """Views of images: make(images as floats, draws), where draws are normal numbers of the images' shape."""

    def __init__(self, make=lambda x, draws: x):
        self.make = make

    def draw(self, n, size, device, sizes=None):
        return torch.randn(n, 3, *size, device=device)

    def apply(self, images, draws):
        return self.make(to_float(images), draws)
