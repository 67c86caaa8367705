"""LARS against its formula in Python floats, and schedules against their values at the steps that matter."""

import copy
import math

import pytest
import torch

from moco.optim.lars import LARS, constant, cosine, scaled_lr, step

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


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -1e-6}, {"trust_coefficient": 0.0}, {"eps": -1.0}]
)
def test_lars_refuses_numbers_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}=.*SimCLR uses"):
        LARS([torch.ones(2, 2, requires_grad=True)], **(SETTINGS | wrong))


def test_constant():
    factor = constant(epochs=10, steps_per_epoch=97)
    assert [factor(s) for s in (0, 485, 969)] == [1.0, 1.0, 1.0]


def test_cosine_at_the_first_the_middle_and_the_last_step():
    factor = cosine(epochs=200, steps_per_epoch=97)
    total = 200 * 97
    assert factor(0) == 1.0
    assert factor(total // 2) == pytest.approx(0.5)
    assert factor(total // 4) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factor(total - 1) == pytest.approx(math.sin(math.pi / (2 * total)) ** 2)  # (1 - cos x) / 2 = sin^2(x / 2)
    assert factor(1) < factor(0)  # by step, not by epoch
    for s in range(0, total, 97):  # at the starts of epochs it is the notebook's per-epoch cosine
        assert factor(s) == pytest.approx(0.5 * (1 + math.cos(math.pi * (s // 97) / 200)))


def test_cosine_ends_at_final():
    factor = cosine(epochs=4, steps_per_epoch=5, final=0.1)
    assert [factor(0), factor(10), factor(20)] == pytest.approx([1.0, 0.55, 0.1])


@pytest.mark.parametrize("make", [constant, cosine, lambda **k: step(milestones=[5], gamma=0.1, **k)])
def test_warmup_rises_linearly_from_one_share_to_1(make):
    factor = make(epochs=10, steps_per_epoch=4, warmup_epochs=2)
    assert [factor(s) for s in range(9)] == pytest.approx([i / 8 for i in range(1, 9)] + [1.0])


def test_warmup_may_end_within_an_epoch():
    factor = constant(epochs=2, steps_per_epoch=10, warmup_epochs=0.5)
    assert [factor(s) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_spans_what_the_warmup_leaves():
    factor, short = cosine(epochs=10, steps_per_epoch=4, warmup_epochs=2), cosine(epochs=8, steps_per_epoch=4)
    assert [factor(8 + s) for s in range(33)] == pytest.approx([short(s) for s in range(33)])


def test_step_falls_at_each_milestone():
    factor = step(epochs=200, steps_per_epoch=97, milestones=[160, 120], gamma=0.1)
    at = {0: 1.0, 120 * 97 - 1: 1.0, 120 * 97: 0.1, 160 * 97 - 1: 0.1, 160 * 97: 0.01, 200 * 97 - 1: 0.01}
    assert [factor(s) for s in at] == pytest.approx(list(at.values()))


def test_milestones_count_from_the_start_of_training():
    factor = step(epochs=10, steps_per_epoch=4, warmup_epochs=2, milestones=[5], gamma=0.5)
    assert [factor(7), factor(19), factor(20)] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("make", [constant, cosine, lambda **k: step(milestones=[], gamma=0.1, **k)])
@pytest.mark.parametrize("warmup, remedy", [(-1, "give 0"), (5, "shorter warm-up or more epochs"), (7, "more epochs")])
def test_impossible_warmups_are_refused(make, warmup, remedy):
    with pytest.raises(ValueError, match=remedy):
        make(epochs=5, steps_per_epoch=3, warmup_epochs=warmup)


def test_impossible_curves_are_refused():
    sizes = dict(epochs=5, steps_per_epoch=3)
    with pytest.raises(ValueError, match="final=1.5 .* from 0 to 1"):
        cosine(**sizes, final=1.5)
    with pytest.raises(ValueError, match="gamma=0 must be positive"):
        step(**sizes, milestones=[2], gamma=0)
    with pytest.raises(ValueError, match="give later ones or a shorter warmup_epochs"):
        step(**sizes, milestones=[1], gamma=0.1, warmup_epochs=2)


def test_scaled_lr():
    assert scaled_lr(0.03, 256) == 0.03
    assert scaled_lr(0.03, 512) == pytest.approx(0.06)
