"""Photographs in small."""

import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2 import functional as TF


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    """Patches of scikit-learn's two photographs, at several scales, uint8 [28, 3, 32, 32]."""
    patches = []
    for photo in load_sample_images().images:
        image = torch.from_numpy(photo.copy()).permute(2, 0, 1)  # [3, 427, 640]
        for side in (60, 120, 200, 400):
            for left in range(0, 640 - side, 160):
                patches.append(TF.resized_crop(image, 20, left, side, side, [32, 32], antialias=True))
    return torch.stack(patches)
