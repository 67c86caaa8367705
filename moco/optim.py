"""LARS, and learning-rate schedules as functions of the step alone, so that a resumed run needs no state of theirs."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Factor = Callable[[int], float]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling, arXiv 1708.03888, algorithm 1, as SimCLR uses it.

    Each weight's step is scaled by trust_coefficient * |w| / (|g + weight_decay * w| + eps). Parameters of one dimension
    (biases, norms) take neither decay nor trust ratio (SimCLR, arXiv 2002.05709, B.9).

    Raises:
        ValueError: a learning rate that is not positive, or momentum outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
    ):
        if lr <= 0 or not 0 <= momentum < 1:
            raise ValueError(f"LARS needs lr > 0 and 0 <= momentum < 1, not lr={lr}, momentum={momentum}")
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update.add(p, alpha=group["weight_decay"])
                    norm, size = p.norm(), update.norm()
                    ratio = group["trust_coefficient"] * norm / (size + group["eps"])
                    update = update * torch.where((norm > 0) & (size > 0), ratio, torch.ones_like(ratio))
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].mul_(group["momentum"]).add_(update)
                p.add_(state["momentum"], alpha=-group["lr"])


def scaled_lr(lr: float, batch_size: int) -> float:
    """Linear scaling, arXiv 1706.02677: lr is given for a batch of 256."""
    return lr * batch_size / 256


def _warmed_up(epochs: int, steps_per_epoch: int, warmup_epochs: float, curve: Factor) -> Factor:
    """Linear warm-up, (s + 1) / warm-up steps at step s, then curve(steps since the warm-up).

    Raises:
        ValueError: the warm-up is negative or leaves no epoch after it.
    """
    if not 0 <= warmup_epochs < epochs:
        raise ValueError(f"schedule.warmup_epochs={warmup_epochs} must be at least 0 and less than epochs={epochs}")
    warmup = round(warmup_epochs * steps_per_epoch)
    return lambda step: (step + 1) / warmup if step < warmup else curve(step - warmup)


def constant(*, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0) -> Factor:
    """1 at every step after the warm-up."""
    return _warmed_up(epochs, steps_per_epoch, warmup_epochs, lambda step: 1.0)


def cosine(*, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0, final: float = 0.0) -> Factor:
    """Half a cosine from 1 to `final` (arXiv 1608.03983, eq. 5), step by step; the official MoCo notebook steps by epoch."""
    total = epochs * steps_per_epoch - round(warmup_epochs * steps_per_epoch)
    return _warmed_up(
        epochs,
        steps_per_epoch,
        warmup_epochs,
        lambda step: final + (1 - final) * (1 + math.cos(math.pi * step / total)) / 2,
    )


def step(
    *, epochs: int, steps_per_epoch: int, milestones: Sequence[float], gamma: float, warmup_epochs: float = 0
) -> Factor:
    """Times gamma at each of the milestones, in epochs since the start of training."""
    warmup = round(warmup_epochs * steps_per_epoch)
    at = [milestone * steps_per_epoch - warmup for milestone in milestones]
    return _warmed_up(epochs, steps_per_epoch, warmup_epochs, lambda step: gamma ** sum(step >= a for a in at))
