"""Muon: momentum whose steps are orthogonal matrices."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from moco.errors import UserError
from moco.optim.grouped import GroupedOptimizer, gradients

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # a, b, c of Jordan's quintic, which bring singular values near 1 within five steps
STEPS = 5
RMS = 0.2  # of AdamW's usual update


class Muon(GroupedOptimizer):
    """Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) for weights; AdamW for biases, scales and single rows.

    A convolution's kernel [out, in, h, w] is a matrix [out, in * h * w]. For such a matrix w with gradient g

        v = momentum * v + g;  u = orthogonalised(g + momentum * v)
        w = w - lr * weight_decay * w - lr * 0.2 * sqrt(max(rows, columns)) * u

    where the last factor makes an update as large as AdamW's (Moonlight, arXiv 2502.16982, section 2.2), so that one lr and one
    decay serve for both. torch.optim.Muon takes matrices alone.

    Args:
        params: parameters or parameter groups.
        lr: learning rate of all parameters.
        momentum: of the matrices, in [0, 1).
        weight_decay: decoupled, of all parameters, as torch.optim.AdamW has it.
        betas, eps: of AdamW.

    Raises:
        UserError: betas or eps is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(
                f"optimizer.betas={betas} should be two numbers of at least 0 and below 1: AdamW's are 0.9, 0.999"
            )
        if not 0 < eps < math.inf:
            raise UserError(f"optimizer.eps={eps} should be positive: the default is 1e-8")
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, betas=tuple(betas), eps=eps))

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if params and group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        if matrices := [p for p in params if _is_matrix(p)]:
            self._orthogonal_step(matrices, group)
        if vectors := [p for p in params if not _is_matrix(p)]:
            self._adam_step(vectors, group)

    def _orthogonal_step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        grads = gradients(params)
        velocity = self.kept(params, "momentum_buffer")
        torch._foreach_mul_(velocity, momentum)
        torch._foreach_add_(velocity, grads)
        updates = torch._foreach_add(grads, velocity, alpha=momentum)
        alike: dict[torch.Size, list[int]] = {}  # what has one shape is multiplied at once
        for i, p in enumerate(params):
            alike.setdefault(p.shape, []).append(i)
        for rows in alike.values():
            u = orthogonalised(torch.stack([updates[i].flatten(1) for i in rows]))
            u *= -group["lr"] * RMS * math.sqrt(max(u.shape[1:]))
            torch._foreach_add_([params[i] for i in rows], [one.view_as(params[i]) for i, one in zip(rows, u)])

    def _adam_step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), eps = group["betas"], group["eps"]
        grads = gradients(params)
        mean, square = self.kept(params, "exp_avg"), self.kept(params, "exp_avg_sq")
        steps = [self.state[p].setdefault("step", torch.zeros(())) for p in params]  # on the CPU, so that no step waits
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(mean, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(square)
        torch._foreach_div_(roots, [math.sqrt(1 - beta2 ** float(step)) for step in steps])
        torch._foreach_add_(roots, eps)
        sizes = [-group["lr"] / (1 - beta1 ** float(step)) for step in steps]
        torch._foreach_addcdiv_(params, mean, roots, sizes)


def _is_matrix(p: Tensor) -> bool:
    """Whether it has several rows: tokens and position embeddings [1, ...] of transformers do not."""
    return p.ndim > 1 and len(p) > 1


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each of the matrices [N, R, C] with its singular values brought near 1 (0.7 to 1.2), by five Newton-Schulz steps.

    They begin with X divided by its Frobenius norm; each multiplies X from the left by P = a I + b S + c S² with S = X Xᵀ. All
    P are polynomials of the first S, so they commute, and the next S is P² S: the steps multiply matrices of the shorter side
    alone, and X once, in the end.
    """
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    s, whole = x @ x.mT, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    a, b, c = COEFFICIENTS
    identity = whole
    for step in range(STEPS):
        p = a * identity + b * s + c * (s @ s)
        whole = p @ whole
        if step < STEPS - 1:
            s = p @ p @ s
    x = torch.matmul(whole, x)
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT
