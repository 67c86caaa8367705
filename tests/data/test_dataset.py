"""What a data set can do."""

import numpy as np
import pytest
import torch
from equality import equal

from moco.data import Dataset


def labelled_set(labels: list[int], classes: int) -> Dataset:
    """Images that tell their index in the first channel."""
    images = torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
    return Dataset(images, torch.tensor(labels), images[:1], torch.tensor(labels[:1]), [str(c) for c in range(classes)])


def test_labelled_leaves_out_what_has_no_label():
    images, labels = labelled_set([0, -1, 1, -1, 1], 2).labelled()
    assert labels.tolist() == [0, 1, 1] and images[:, 0, 0, 0].tolist() == [0, 2, 4]
    whole = labelled_set([0, 1, 1], 2)
    assert whole.labelled()[0] is whole.train_images


def test_hold_out_is_stratified_disjoint_and_always_the_same():
    whole = labelled_set([i % 4 if i < 120 else -1 for i in range(140)], 4)
    torch.manual_seed(1)
    first = whole.hold_out(0.2)
    torch.manual_seed(2)
    again = whole.hold_out(0.2)
    assert equal(first, again)
    assert torch.bincount(first.test_labels).tolist() == [6] * 4  # a fifth of 30
    train, test = (set(images[:, 0, 0, 0].tolist()) for images in (first.train_images, first.test_images))
    assert not train & test and train | test == set(range(140))
    assert int((first.train_labels == -1).sum()) == 20  # what has no label stays for training
    indices = first.test_images[:, 0, 0, 0]
    assert torch.equal(whole.train_labels[indices.long()], first.test_labels)
    assert indices.tolist() != sorted(range(24))  # not just the first ones


def test_moments_are_those_of_all_pixels():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 6, 6), dtype=np.uint8))
    images[:, 1] //= 3
    mean, std = Dataset(images, torch.zeros(50).long(), images, torch.zeros(50).long(), ["x"]).moments()
    scaled = images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), abs=6e-5)
    assert std == pytest.approx(scaled.std((0, 2, 3)), abs=6e-5)


def test_moments_of_one_colour_can_be_divided_by():
    images = torch.full((4, 3, 2, 2), 51, dtype=torch.uint8)
    mean, std = Dataset(images, torch.zeros(4).long(), images, torch.zeros(4).long(), ["x"]).moments()
    assert mean == [0.2] * 3 and min(std) > 0


def test_to_keeps_everything():
    whole = labelled_set([0, 1, -1], 2)
    assert equal(whole.to(torch.device("cpu")), whole)
    assert whole.to(torch.device("meta")).test_labels.device.type == "meta"
