"""Muon against singular values in float64, against AdamW, and against torch's own where that takes part."""

import copy
import math

import pytest
import torch

from moco.errors import UserError
from moco.optim import Muon
from moco.optim.muon import COEFFICIENTS, STEPS, orthogonalised


def by_singular_values(matrix):
    """U f(s) V', where f takes each singular value through the five polynomials: the closed form."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag_embed(s) @ v


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4), (2, 1)])
def test_steps_act_on_singular_values_alone(shape):
    torch.manual_seed(0)
    x = torch.randn(3, *shape, dtype=torch.float64)
    found = orthogonalised(x)
    for matrix, u in zip(x, found):
        torch.testing.assert_close(u, by_singular_values(matrix), rtol=1e-5, atol=1e-5)
        values = torch.linalg.svdvals(u)
        assert 0.6 < float(values.min()) and float(values.max()) < 1.3
    torch.testing.assert_close(orthogonalised(x.float()).double(), found, rtol=1e-3, atol=1e-3)


def test_one_step_by_hand():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    weight.grad = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    s = 1 / math.sqrt(2)  # both singular values of a multiple of the identity, divided by its Frobenius norm
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    step = 0.1 * 0.2 * math.sqrt(2) * s
    expected = [[0.95 - step, 1.9], [2.85, 3.8 - step]]
    torch.testing.assert_close(weight.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_momentum_and_a_changing_lr_follow_a_slow_loop():
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)  # a kernel, as a matrix [3, 8]
    optimizer = Muon([weight], lr=0.1, momentum=0.8, weight_decay=0.1)
    w, v = weight.detach().clone().flatten(1), torch.zeros(3, 8, dtype=torch.float64)
    for lr in (0.1, 0.05, 0.2):
        g = torch.randn_like(w)
        weight.grad = g.view_as(weight).clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        v = 0.8 * v + g
        w = w - lr * 0.1 * w - lr * 0.2 * math.sqrt(8) * by_singular_values(g + 0.8 * v)
        torch.testing.assert_close(weight.detach().flatten(1), w, rtol=1e-5, atol=1e-6)
        assert torch.equal(weight.grad.flatten(1), g)  # gradients are left as they came


def test_what_is_no_matrix_is_left_to_adamw():
    torch.manual_seed(0)
    ours = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5,), (), (1, 7, 3))]
    theirs = copy.deepcopy(ours)
    settings = dict(lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)
    pair = Muon(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for _ in range(5):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_matrices_move_as_by_torchs_own_within_its_bf16():
    torch.manual_seed(0)
    ours = torch.randn(16, 40, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    settings = dict(lr=0.02, momentum=0.95, weight_decay=0.1)
    pair = Muon([ours], **settings), torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    before = ours.detach().clone()
    for _ in range(3):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    ours, theirs = ours.detach(), theirs.detach()
    assert float((ours - theirs).norm() / (ours - before).norm()) < 0.03


def test_its_state_is_saved_and_loaded():
    torch.manual_seed(0)
    params = [torch.randn(4, 6, requires_grad=True), torch.randn(4, requires_grad=True)]
    optimizer = Muon(params, lr=0.1)
    grads = [[torch.randn_like(p) for p in params] for _ in range(4)]

    def step(optimizer, params, gradients):
        for p, g in zip(params, gradients):
            p.grad = g.clone()
        optimizer.step()

    for gradients in grads[:2]:
        step(optimizer, params, gradients)
    others = [p.detach().clone().requires_grad_() for p in params]
    loaded = Muon(others, lr=0.1)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradients in grads[2:]:
        step(optimizer, params, gradients)
        step(loaded, others, gradients)
    assert all(torch.equal(p, q) for p, q in zip(params, others))


def test_a_zero_gradient_moves_nothing_and_none_is_skipped():
    weight, other = torch.ones(3, 3, requires_grad=True), torch.ones(3, 3, requires_grad=True)
    weight.grad = torch.zeros(3, 3)
    Muon([weight, other], lr=0.1).step()
    assert torch.equal(weight.detach(), torch.ones(3, 3)) and torch.equal(other.detach(), torch.ones(3, 3))


@pytest.mark.parametrize(("bad", "named"), [({"betas": (0.9, 1.0)}, "betas"), ({"eps": 0.0}, "eps")])
def test_settings_out_of_range_are_refused(bad, named):
    with pytest.raises(UserError, match=f"optimizer.{named}"):
        Muon([torch.ones(2, requires_grad=True)], lr=0.1, **bad)
