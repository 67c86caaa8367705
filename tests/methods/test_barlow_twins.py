"""Barlow Twins: the loss against a slow loop and closed forms."""

import pytest
import torch
from references import Flat, flat, slow_barlow_twins
from torch import nn

from moco.methods import BarlowTwins


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def loss_of(x1, x2, **settings):
    return flat(BarlowTwins, x1.shape[1], head_layers=1, **settings)(x1, x2, None)


@pytest.mark.parametrize("off_diagonal", [0.0051, 1.0])
def test_barlow_twins_loss(off_diagonal):
    x1 = (3 * torch.randn(9, 5) + 2).requires_grad_()
    x2 = (x1.detach() + torch.randn(9, 5)).requires_grad_()
    loss = loss_of(x1, x2, off_diagonal=off_diagonal)
    loss.backward()
    assert loss.item() == pytest.approx(slow_barlow_twins(x1, x2, off_diagonal), rel=1e-5)
    assert x1.grad.isfinite().all() and x2.grad.abs().max() > 0
    scaled = loss_of(x1, x2, off_diagonal=off_diagonal, loss_scale=0.1)
    assert scaled.item() == pytest.approx(0.1 * loss.item())


def test_outputs_that_agree_and_are_independent_cost_nothing():
    hadamard = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # columns of mean 0, orthogonal
    assert loss_of(100 * hadamard, 100 * hadamard + 7).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(100 * hadamard, -100 * hadamard).item() == pytest.approx(4 * 3, rel=1e-5)  # c is -1 three times


def test_collapsed_outputs_cost_one_for_each_dimension():
    x = torch.ones(6, 5)
    assert loss_of(x, x).item() == pytest.approx(5)  # every correlation is 0


def test_outputs_that_repeat_each_other_cost_their_redundancy():
    column = 100 * torch.randn(8, 1)
    x = column.expand(8, 4)
    assert loss_of(x, x, off_diagonal=0.5).item() == pytest.approx(0.5 * 4 * 3, rel=1e-5)  # every correlation is 1


def test_the_head_has_two_hidden_layers_with_norms():
    head = BarlowTwins(Flat(12), feature_dim=4, hidden_dim=6).head
    assert [type(part) for part in head] == 2 * [nn.Linear, nn.BatchNorm1d, nn.ReLU] + [nn.Linear]
    assert [(part.in_features, part.out_features) for part in head if isinstance(part, nn.Linear)] == [
        (12, 6),
        (6, 6),
        (6, 4),
    ]
    assert all(part.bias is None for part in list(head)[:-1] if isinstance(part, nn.Linear))


def test_each_view_is_normalised_on_its_own():
    """A BatchNorm that saw both views at once would move the statistics once per step."""
    model = BarlowTwins(Flat(12), feature_dim=4, hidden_dim=6)
    x = torch.randn(2, 8, 3, 2, 2)
    model(x[0], x[1], None)
    assert model.head[1].num_batches_tracked == 2
