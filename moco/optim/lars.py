"""LARS, layer-wise adaptive rate scaling."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from moco.errors import UserError
from moco.optim.grouped import GroupedOptimizer, gradients


class LARS(GroupedOptimizer):
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

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if layers := [p for p in params if p.ndim > 1]:
            self._move(layers, _layer_steps(layers, group), group["momentum"])
        if exempt := [p for p in params if p.ndim <= 1]:
            self._move(exempt, torch._foreach_mul(gradients(exempt), group["lr"]), group["momentum"])

    def _move(self, params: list[Tensor], steps: Iterable[Tensor], momentum: float) -> None:
        """v = momentum * v + step; w = w - v."""
        velocity = self.kept(params, "momentum_buffer")
        torch._foreach_mul_(velocity, momentum)
        torch._foreach_add_(velocity, list(steps))
        torch._foreach_sub_(params, velocity)


def _layer_steps(layers: list[Tensor], group: dict[str, Any]) -> Iterable[Tensor]:
    """lr * ratio * (gradient + weight_decay * w) for each layer."""
    updates = torch._foreach_add(gradients(layers), layers, alpha=group["weight_decay"])
    weight_norms = torch.stack(torch._foreach_norm(layers))  # [layers]
    update_norms = torch.stack(torch._foreach_norm(updates))  # [layers]
    ratios = group["trust_coefficient"] * weight_norms / (update_norms + group["eps"])
    # Chosen on the device, so that the host need not wait for it.
    ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, 1)
    return torch._foreach_mul(updates, list((group["lr"] * ratios).unbind()))
