"""SimCLR: the loss against a slow loop and a closed form."""

import math

import pytest
import torch
from references import flat, slow_nt_xent
from torch.nn import functional as F

from moco.methods import SimCLR


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_simclr_loss(temperature):
    x1, x2 = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    loss = flat(SimCLR, 5, temperature=temperature, head_layers=1)(x1, x2, None)
    loss.backward()
    assert loss.item() == pytest.approx(slow_nt_xent(x1, x2, temperature), rel=1e-5)
    assert x1.grad.isfinite().all() and x2.grad.isfinite().all()


def slow_many_views(views, temperature):
    """The mean over ordered pairs of views of an image, in Python floats."""
    views = [F.normalize(x.double(), dim=1).tolist() for x in views]

    def similarity(a, b):
        return math.exp(sum(p * q for p, q in zip(a, b)) / temperature)

    losses = []
    for v, own in enumerate(views):
        for i, anchor in enumerate(own):
            negatives = sum(similarity(anchor, w[j]) for w in views for j in range(len(w)) if j != i)
            for u, other in enumerate(views):
                if u != v:
                    positive = similarity(anchor, other[i])
                    losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize("splits", [1, 2])
def test_simclr_loss_of_many_views(views, splits):
    x = [torch.randn(6, 5, requires_grad=True) for _ in range(views)]
    method = flat(SimCLR, 5, temperature=0.5, head_layers=1, views=views, splits=splits)
    loss = method(x[0], x[1], None, *x[2:])
    loss.backward()
    assert loss.item() == pytest.approx(slow_many_views(x, 0.5), rel=1e-5)
    assert all(one.grad.isfinite().all() and one.grad.abs().sum() > 0 for one in x)


def test_simclr_loss_of_many_collapsed_views():
    x = [torch.ones(6, 5)] * 4
    loss = flat(SimCLR, 5, temperature=0.01, head_layers=1, views=4)(x[0], x[1], None, *x[2:])
    assert loss.item() == pytest.approx(math.log(1 + 4 * 5), rel=1e-5)  # one positive beside the views of five images


def test_simclr_loss_of_collapsed_features():
    x = torch.ones(6, 5)
    loss = flat(SimCLR, 5, temperature=0.01, head_layers=1)(x, x, None)
    assert loss.item() == pytest.approx(math.log(11), rel=1e-5)  # the 2B - 1 others, without itself
