"""NPID: noise-contrastive estimation against the formula of the paper, the bank, and what is sampled."""

import pytest
import torch
import torch.nn.functional as F
from references import flat_npid, slow_npid

from moco.errors import UserError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_npid_loss_and_bank():
    model, index, z = flat_npid(5, 30, m=9, momentum=0.3), torch.tensor([7, 0, 29, 12]), None
    for step in range(3):
        bank, x = model.bank.clone(), torch.randn(4, 5)
        torch.manual_seed(step)
        rows = model.sample(index)
        if z is None:  # from the first batch only: mean(exp) * num_images
            scores = torch.stack([bank[rows[i]].double() @ F.normalize(x[i].double(), dim=0) for i in range(4)]) / 0.1
            z = scores.exp().mean().item() * 30
        torch.manual_seed(step)
        loss = model(x, None, index)
        assert loss.item() == pytest.approx(slow_npid(x, bank, rows, 9, 0.1, z), rel=1e-5)
        assert model.log_z.exp().item() == pytest.approx(z, rel=1e-5)
        for i, row in enumerate(index.tolist()):
            bank[row] = F.normalize(0.3 * F.normalize(x[i], dim=0) + 0.7 * bank[row], dim=0)
        assert torch.allclose(model.bank, bank, atol=1e-6)  # and no other row


def test_npid_softmax_over_the_whole_bank():
    model, index, x = flat_npid(5, 30, m=0), torch.tensor([3, 28]), torch.randn(2, 5)
    scores = F.normalize(x.double(), dim=1) @ model.bank.clone().double().T / 0.1
    expected = -(scores[[0, 1], index].exp() / scores.exp().sum(1)).log().mean()
    assert model(x, None, index).item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.log_z == -torch.inf


@pytest.mark.parametrize("m", [0, 9])
def test_npid_is_finite_at_a_low_temperature(m):
    model = flat_npid(5, 30, m, temperature=0.005)  # exp(1 / 0.005) is more than a float32 holds
    for _ in range(2):
        x, index = torch.randn(4, 5, requires_grad=True), torch.arange(4)
        model.bank[index] = F.normalize(x.detach(), dim=1)
        loss = model(x, None, index)
        loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all()


def test_npid_samples_uniformly():
    model, index = flat_npid(2, 10, m=9), torch.arange(10).repeat(200)
    rows = model.sample(index)
    assert rows.shape == (2000, 10) and torch.equal(rows[:, 0], index)
    counts = rows[:, 1:].flatten().bincount(minlength=10)
    assert len(counts) == 10 and (counts - 1800).abs().max() < 5 * 1800**0.5


def test_npid_refuses_more_negatives_than_images():
    assert flat_npid(4, 10, m=10).m == 10
    with pytest.raises(UserError, match="^m=11 is more than the 10 training images: give at most 10, or 0"):
        flat_npid(4, 10, m=11)
