"""SimCLR: the loss against a slow loop and a closed form."""

import math

import pytest
import torch
from references import flat, slow_nt_xent

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


def test_simclr_loss_of_collapsed_features():
    x = torch.ones(6, 5)
    loss = flat(SimCLR, 5, temperature=0.01, head_layers=1)(x, x, None)
    assert loss.item() == pytest.approx(math.log(11), rel=1e-5)  # the 2B - 1 others, without itself
