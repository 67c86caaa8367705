"""LARS, and schedules of the learning rate as pure functions of the step.

A schedule knows nothing but the step, so a resumed run needs no scheduler state.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Schedule = Callable[[int], float]


class LARS(torch.optim.Optimizer):
    """SGD with momentum and a trust ratio for each layer (You et al., arXiv 1708.03888), as SimCLR uses it.

    With u = gradient + weight_decay * w, norms over the whole tensor:

        ratio = trust_coefficient * |w| / (|u| + eps)        (1 where either norm is 0)
        v = momentum * v + lr * ratio * u
        w = w - v

    Parameters of one dimension or none (biases, normalisation) take u = gradient and ratio = 1. Both are SimCLR's choices
    (arXiv 2002.05709, section 2.2 and its published code); the paper (algorithm 1) has |gradient| + weight_decay * |w|
    for |u| and exempts no parameter. lr is inside v, as in the paper, so a change of lr reaches the momentum gradually.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate, at least 0.
        momentum: in [0, 1).
        weight_decay: L2, at least 0.
        trust_coefficient: above 0.
        eps: keeps a vanishing gradient from becoming a step of full length.

    Raises:
        ValueError: a number outside these ranges.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
    ):
        for name, value in dict(lr=lr, weight_decay=weight_decay, eps=eps).items():
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"{name}={value} must not be negative: SimCLR uses lr 1.0, weight_decay 1e-6, eps 1e-8"
                )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1): SimCLR uses 0.9")
        if not 0 < trust_coefficient < math.inf:
            raise ValueError(f"trust_coefficient={trust_coefficient} must be positive: SimCLR uses 1e-3")
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure`, run first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            layers = [p for p in with_grad if p.ndim > 1]
            if layers:
                self._update(layers, _layer_steps(layers, group), group)
            exempt = [p for p in with_grad if p.ndim <= 1]
            if exempt:
                self._update(exempt, list(torch._foreach_mul([_grad(p) for p in exempt], group["lr"])), group)
        return loss

    def _update(self, params: list[Tensor], steps: list[Tensor], group: dict[str, Any]) -> None:
        """v = momentum * v + step; w = w - v."""
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        velocity = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, steps)
        torch._foreach_sub_(params, velocity)


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def _layer_steps(layers: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """lr * ratio * (gradient + weight_decay * w) for each layer."""
    updates = torch._foreach_add([_grad(p) for p in layers], layers, alpha=group["weight_decay"])
    weight_norms = torch.stack(torch._foreach_norm(layers))  # [layers]
    update_norms = torch.stack(torch._foreach_norm(updates))  # [layers]
    ratios = group["trust_coefficient"] * weight_norms / (update_norms + group["eps"])
    ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, 1)  # on the device: no waiting for it
    return list(torch._foreach_mul(updates, list((group["lr"] * ratios).unbind())))


def constant(*, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0) -> Schedule:
    """The base learning rate throughout, after the warm-up.

    Args:
        epochs: length of training.
        steps_per_epoch: optimizer steps in an epoch.
        warmup_epochs: length of the warm-up, which may end within an epoch. Over its W steps the factor rises
            linearly, (step + 1) / W: from 1 / W at step 0 to 1 at step W - 1 (arXiv 1706.02677, section 2.2).

    Returns:
        step -> factor of the base learning rate; steps count from 0 over the whole of training.

    Raises:
        ValueError: warmup_epochs is negative, or leaves no epoch after it.
    """
    return _after_warmup(lambda step, warmup, total: 1.0, epochs, steps_per_epoch, warmup_epochs)


def cosine(*, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` over the steps that follow the warm-up (SGDR without restarts, arXiv 1608.03983).

    With T steps in all and W of warm-up, the factor is final + (1 - final) * (1 + cos(pi * (step - W) / (T - W))) / 2:
    1 at step W, `final` one step after the last. It falls at every step; the official MoCo CIFAR notebook takes its
    value at the start of an epoch for all of that epoch.

    Arguments, result and errors as for `constant`; also ValueError for `final` outside [0, 1].
    """
    if not 0 <= final <= 1:
        raise ValueError(f"final={final} is a share of the base learning rate: give a number from 0 to 1")

    def curve(step: int, warmup: int, total: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2

    return _after_warmup(curve, epochs, steps_per_epoch, warmup_epochs)


def step(
    *, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0, milestones: Sequence[float], gamma: float
) -> Schedule:
    """1, times `gamma` from each milestone on.

    Args:
        milestones: in epochs from the start of training; NPID's "a tenth from epoch 120, every 40" of 200 epochs is
            [120, 160] (arXiv 1805.01978). Those beyond the last epoch are never reached.
        gamma: above 0.

    Other arguments, result and errors as for `constant`; also ValueError for a milestone within the warm-up or before,
    and for gamma not above 0.
    """
    if not gamma > 0:
        raise ValueError(f"gamma={gamma} must be positive: 0.1 divides the learning rate by ten at each milestone")
    if any(epoch < max(warmup_epochs, 0) for epoch in milestones):
        raise ValueError(
            f"milestones={list(milestones)} are epochs after the warm-up of {warmup_epochs}: give later ones or a "
            "shorter warmup_epochs"
        )
    starts = [round(epoch * steps_per_epoch) for epoch in milestones]
    return _after_warmup(
        lambda step, warmup, total: gamma ** sum(step >= start for start in starts),
        epochs,
        steps_per_epoch,
        warmup_epochs,
    )


def _after_warmup(
    curve: Callable[[int, int, int], float], epochs: int, steps_per_epoch: int, warmup_epochs: float
) -> Schedule:
    """The warm-up, then `curve` of (step, steps of warm-up, steps in all)."""
    if warmup_epochs < 0:
        raise ValueError(f"warmup_epochs={warmup_epochs} must not be negative: give 0 for no warm-up")
    if warmup_epochs >= epochs:
        raise ValueError(
            f"warmup_epochs={warmup_epochs} leaves nothing of epochs={epochs}: give a shorter warm-up or more epochs"
        )
    total, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else curve(step, warmup, total)

    return factor


def scaled_lr(lr: float, batch_size: int) -> float:
    """`lr`, meant for 256 images in a batch, scaled to `batch_size`: lr * batch_size / 256 (arXiv 1706.02677)."""
    return lr * batch_size / 256
