"""The digits of scikit-learn."""

import pytest
import sklearn.datasets
import torch

from moco.data import load_digits


def test_digits_are_scikit_learns_with_every_fifth_for_test():
    found, raw = load_digits(8), sklearn.datasets.load_digits()
    gray = torch.from_numpy(raw.images * 255 / 16)  # [1797, 8, 8]
    test = torch.arange(1797) % 5 == 0
    for images, labels, part in (
        (found.train_images, found.train_labels, ~test),
        (found.test_images, found.test_labels, test),
    ):
        assert (
            images.shape == (int(part.sum()), 3, 8, 8) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        )
        assert torch.equal(labels, torch.from_numpy(raw.target)[part])
        for channel in images.unbind(1):
            assert (channel - gray[part]).abs().max() <= 0.5001
    assert found.classes == list("0123456789") and len(found.train_labels) + len(found.test_labels) == 1797
    assert torch.equal(found.train_images, load_digits(8).train_images)


def test_digits_in_other_sizes():
    assert load_digits(16).train_images.shape == (1437, 3, 16, 16)
    means = [float(load_digits(size).train_images.float().mean()) for size in (8, 16)]
    assert means[0] == pytest.approx(means[1], rel=0.02)
