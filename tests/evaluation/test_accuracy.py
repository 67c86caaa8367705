"""Top-k accuracy."""

import math

import pytest
import torch

from moco.evaluation.accuracy import at_chance, topk_accuracy


def test_topk_accuracy():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.4], [0.0, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    labels = torch.tensor([1, 1, 2, 0])  # ranks 0; 1 (of equals the lower comes first); 2; NaN is last
    assert topk_accuracy(scores, labels, (1, 2, 3)) == (25.0, 50.0, 100.0)


@pytest.mark.parametrize(
    "top1, counts, guessed",
    [
        (10.0, [100] * 10, True),
        (0.0, [100] * 10, True),
        (11.8, [100] * 10, True),  # a standard deviation is 0.95
        (12.0, [100] * 10, False),
        (50.0, [50, 50], True),
        (61.0, [50, 50], False),
        (50.0, [80, 20], False),  # classes that are not balanced
        (100.0, [50], False),
    ],
)
def test_what_guessing_gives(top1: float, counts: list[int], guessed: bool):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert at_chance(top1, labels) is guessed
