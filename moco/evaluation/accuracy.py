"""Top-k accuracy."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Accuracy(NamedTuple):
    """In percent; with fewer than five classes, top-5 counts all of them."""

    top1: float
    top5: float


def topk_accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> tuple[float, ...]:
    """For each k the percentage of rows whose label is among the k best scores.

    Args:
        scores: [N, C], higher is better; of equal scores the lower class comes first, and NaN is wrong.
        labels: int [N] in [0, C).
    """
    return shares(ranks(scores, labels), ks)


def at_chance(top1: float, labels: Tensor) -> bool:
    """Whether a top-1 accuracy in percent is what guessing gives: within two standard deviations of it, or below.

    Args:
        labels: of the images that it was taken on, int [N]. Where the largest class has more than 1.5 times its share this
            is not judged: to name that class alone then scores better than many a useful network.
    """
    counts = labels.unique(return_counts=True)[1]
    chance = 1 / len(counts)
    if len(counts) < 2 or int(counts.max()) > 1.5 * chance * len(labels):
        return False
    return top1 / 100 <= chance + 2 * math.sqrt(chance * (1 - chance) / len(labels))


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """For each row of scores [N, C], how many classes come before the label. int64 [N]"""
    labels = labels.long().unsqueeze(1)  # [N, 1]
    own = scores.gather(1, labels)  # [N, 1]
    after = torch.arange(scores.shape[1], device=scores.device) > labels  # [N, C]
    behind = (scores < own) | ((scores == own) & after)  # [N, C]
    return scores.shape[1] - 1 - behind.sum(1)


def shares(ranks: Tensor, ks: Sequence[int]) -> tuple[float, ...]:
    """For each k the percentage of ranks below k."""
    return tuple(100 * int((ranks < k).sum()) / len(ranks) for k in ks)
