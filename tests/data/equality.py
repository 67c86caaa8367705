"""Whether two data sets hold the same."""

import torch

from moco.data import Dataset

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def equal(one: Dataset, other: Dataset) -> bool:
    return one.classes == other.classes and all(torch.equal(getattr(one, n), getattr(other, n)) for n in TENSORS)
