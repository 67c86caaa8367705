"""LARS, layer-wise adaptive rate scaling."""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from moco.errors import UserError


class LARS(torch.optim.Optimizer):
    """SGD with momentum and a trust ratio for each layer (You et al., arXiv 1708.03888), as SimCLR uses it.

    With u = gradient + weight_decay * w, norms over the whole tensor:

        ratio = trust_coefficient * |w| / (|u| + eps)        (1 where either norm is 0)
        v = momentum * v + lr * ratio * u
        w = w - v

    For parameters of at most one dimension (biases, normalisation) u is the gradient and the ratio is 1. These are SimCLR's
    choices (arXiv 2002.05709, section 2.2 and its published code). The paper (algorithm 1) has |gradient| + weight_decay * |w|
    in place of |u| and exempts no parameter. lr is inside v, as in the paper, so a change of lr reaches the momentum gradually.

    Args:
        params: parameters or parameter groups.
        lr: base learning rate.
        momentum: in [0, 1).
        weight_decay: L2.
        trust_coefficient: above 0.
        eps: keeps a vanishing gradient from becoming a step of full length.

    Raises:
        UserError: trust_coefficient or eps is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
    ):
        if not 0 < trust_coefficient < math.inf:
            raise UserError(f"optimizer.trust_coefficient={trust_coefficient} should be positive: SimCLR uses 1e-3")
        if not 0 <= eps < math.inf:
            raise UserError(f"optimizer.eps={eps} should not be negative: the default is 1e-8")
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            layers = [p for p in with_grad if p.ndim > 1]
            if layers:
                self._update(layers, _layer_steps(layers, group), group["momentum"])
            exempt = [p for p in with_grad if p.ndim <= 1]
            if exempt:
                self._update(exempt, torch._foreach_mul(_gradients(exempt), group["lr"]), group["momentum"])
        return loss

    def _update(self, params: list[Tensor], steps: Iterable[Tensor], momentum: float) -> None:
        """v = momentum * v + step; w = w - v."""
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        velocity = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(velocity, momentum)
        torch._foreach_add_(velocity, list(steps))
        torch._foreach_sub_(params, velocity)


def _gradients(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _layer_steps(layers: list[Tensor], group: dict[str, Any]) -> Iterable[Tensor]:
    """lr * ratio * (gradient + weight_decay * w) for each layer."""
    updates = torch._foreach_add(_gradients(layers), layers, alpha=group["weight_decay"])
    weight_norms = torch.stack(torch._foreach_norm(layers))  # [layers]
    update_norms = torch.stack(torch._foreach_norm(updates))  # [layers]
    ratios = group["trust_coefficient"] * weight_norms / (update_norms + group["eps"])
    # Chosen on the device, so that the host need not wait for it.
    ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, 1)
    return torch._foreach_mul(updates, list((group["lr"] * ratios).unbind()))
