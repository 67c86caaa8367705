"""Whether two data sets hold the same."""

import torch

from moco.data import Dataset


def equal(one: Dataset, other: Dataset) -> bool:
    ours, theirs = one.loaded().parts(), other.loaded().parts()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    return same and one.classes == other.classes
