"""LARS against its formula in Python floats."""

import copy
import math

import pytest
import torch

from moco.errors import UserError
from moco.optim import LARS

SETTINGS = dict(lr=0.5, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02, eps=1e-8)


def norm(values):
    return math.sqrt(sum(v * v for v in values))


def slow_lars(w, v, grad, is_layer, lr, momentum, weight_decay, trust_coefficient, eps):
    """One step for one parameter, a flat list of floats."""
    u, ratio = grad, 1.0
    if is_layer:
        u = [g + weight_decay * x for g, x in zip(grad, w)]
        if norm(w) > 0 and norm(u) > 0:
            ratio = trust_coefficient * norm(w) / (norm(u) + eps)
    v = [momentum * old + lr * ratio * new for old, new in zip(v, u)]
    return [x - y for x, y in zip(w, v)], v


def parameters(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    return params, [[torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(3)]


def test_lars_one_step_by_hand():
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    weight.grad = torch.tensor([[0.6 - 0.3, 0.8 - 0.4]], dtype=torch.float64)
    bias.grad = torch.tensor([0.5, -0.5], dtype=torch.float64)
    LARS([weight, bias], lr=2.0, momentum=0.9, weight_decay=0.1, trust_coefficient=0.01, eps=0.0).step()
    # u = gradient + 0.1 w = (0.6, 0.8) of norm 1; |w| = 5; ratio = 0.01 * 5 / 1; w - 2 * 0.05 u
    torch.testing.assert_close(weight.detach(), torch.tensor([[2.94, 3.92]], dtype=torch.float64))
    # the bias: no decay, no ratio
    torch.testing.assert_close(bias.detach(), torch.tensor([0.0, 3.0], dtype=torch.float64))


def test_lars_follows_the_slow_loop_through_a_change_of_lr():
    shapes = ((4, 3), (5,), (2, 3, 3, 3), ())
    params, grads = parameters(*shapes)
    optimizer = LARS(params, **SETTINGS)
    slow = [(p.detach().flatten().tolist(), [0.0] * p.numel()) for p in params]
    for t, step_grads in enumerate(grads):
        settings = SETTINGS | {"lr": SETTINGS["lr"] / (t + 1)}
        optimizer.param_groups[0]["lr"] = settings["lr"]
        for p, g in zip(params, step_grads):
            p.grad = g.clone()
        optimizer.step()
        slow = [slow_lars(*wv, g.flatten().tolist(), g.ndim > 1, **settings) for wv, g in zip(slow, step_grads)]
        for p, (w, _), g in zip(params, slow, step_grads):
            torch.testing.assert_close(p.detach().flatten(), torch.tensor(w, dtype=torch.float64), rtol=1e-12, atol=0)
            assert torch.equal(p.grad, g)  # gradients are left as they came


def test_lars_takes_ratio_1_where_a_norm_is_0():
    zero, still = torch.zeros(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    zero.grad, still.grad = torch.full((2, 2), 0.5), torch.zeros(2, 2)
    LARS([zero, still], lr=1.0, weight_decay=0.0).step()
    assert torch.equal(zero.detach(), torch.full((2, 2), -0.5))
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_lars_leaves_out_parameters_without_gradient_and_groups_keep_their_own_lr():
    params, (grads, *_) = parameters((3, 2), (3, 2), (3, 2))
    before = [p.detach().clone() for p in params]
    params[0].grad, params[1].grad = grads[0].clone(), grads[0].clone()
    with torch.no_grad():
        params[1].copy_(params[0])
    LARS([{"params": params[:1]}, {"params": params[1:], "lr": 0.05}], **SETTINGS).step()
    assert torch.equal(params[2].detach(), before[2])
    torch.testing.assert_close((params[1].detach() - before[0]) * 10, params[0].detach() - before[0])


def test_lars_goes_on_from_its_state_dict():
    params, grads = parameters((3, 2), (4,))
    optimizer = LARS(params, **SETTINGS)

    def update(optimizer, params, grads):
        for p, g in zip(params, grads):
            p.grad = g.clone()
        optimizer.step()

    update(optimizer, params, grads[0])
    copies = [p.detach().clone().requires_grad_() for p in params]
    resumed = LARS(copies, lr=9.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    update(optimizer, params, grads[1])
    update(resumed, copies, grads[1])
    assert all(torch.equal(p, q) for p, q in zip(params, copies))


def test_lars_returns_the_loss_of_its_closure():
    w = torch.ones(2, 2, requires_grad=True)
    optimizer = LARS([w], lr=1.0)

    def closure():
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert w[0, 0] < 1


@pytest.mark.parametrize("wrong", [{"trust_coefficient": 0.0}, {"trust_coefficient": math.inf}, {"eps": -1.0}])
def test_lars_refuses_numbers_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"^optimizer.{name}=.* should "):
        LARS([torch.ones(2, 2, requires_grad=True)], **(SETTINGS | wrong))
