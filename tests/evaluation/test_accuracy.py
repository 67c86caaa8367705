"""Top-k accuracy."""

import math

import torch

from moco.evaluation.accuracy import topk_accuracy


def test_topk_accuracy():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.4], [0.0, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    labels = torch.tensor([1, 1, 2, 0])  # ranks 0; 1 (of equals the lower comes first); 2; NaN is last
    assert topk_accuracy(scores, labels, (1, 2, 3)) == (25.0, 50.0, 100.0)
