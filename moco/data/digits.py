"""The handwritten digits of scikit-learn: real images that need no download."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from moco.data.dataset import Dataset


def load_digits(size: int) -> Dataset:
    """The 1,797 gray 8x8 digits that scikit-learn ships, as images of size x size; every fifth is for testing."""
    # The file is read without importing scikit-learn, which would take two seconds.
    spec = importlib.util.find_spec("sklearn")
    assert spec and spec.origin
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    raw = torch.from_numpy(np.loadtxt(path, delimiter=","))  # [N, 65]: 64 pixels and the label
    images = raw[:, :64].reshape(-1, 1, 8, 8).float() * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    images = images.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()  # [N, 3, size, size]
    labels = raw[:, 64].long()  # [N]
    test = torch.arange(len(labels)) % 5 == 0
    return Dataset(images[~test], labels[~test], images[test], labels[test], [str(c) for c in range(10)])
