"""Schedules of the learning rate as pure functions of the step, so that a resumed run needs no state of a scheduler."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]  # step -> factor of the base learning rate


def constant(*, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0) -> Schedule:
    """The base learning rate throughout, after the warm-up.

    Args:
        epochs: length of training.
        steps_per_epoch: optimizer steps in an epoch.
        warmup_epochs: length of the warm-up, less than `epochs`; it may end within an epoch. Over its W steps the factor
            rises linearly, (step + 1) / W: from 1 / W at step 0 to 1 at step W - 1 (arXiv 1706.02677, section 2.2).

    Returns:
        step -> factor of the base learning rate; steps count from 0 over the whole of training.
    """
    return _after_warmup(lambda step, warmup, total: 1.0, epochs, steps_per_epoch, warmup_epochs)


def cosine(*, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` over the steps after the warm-up (SGDR without restarts, arXiv 1608.03983).

    With T steps in all and W of warm-up, the factor is final + (1 - final) * (1 + cos(pi * (step - W) / (T - W))) / 2: it is
    1 at step W and would be `final` one step after the last. It falls at every step; the authors' MoCo notebook for CIFAR
    takes the value that is reached at the end of an epoch for the whole of it.

    Other arguments and the result as for `constant`.
    """

    def curve(step: int, warmup: int, total: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2

    return _after_warmup(curve, epochs, steps_per_epoch, warmup_epochs)


def step(
    *, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0, milestones: Sequence[float], gamma: float
) -> Schedule:
    """1, multiplied by `gamma` from each milestone on.

    Args:
        milestones: in epochs from the start of training, none within the warm-up. NPID divides by ten from epoch 120 of 200
            on, and again every 40: [120, 160] (arXiv 1805.01978). Those beyond the last epoch are never reached.

    Other arguments and the result as for `constant`.
    """
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
    total, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else curve(step, warmup, total)

    return factor


def scaled_lr(lr: float, batch_size: int) -> float:
    """A learning rate meant for 256 images per batch, scaled to `batch_size`: lr * batch_size / 256 (arXiv 1706.02677)."""
    return lr * batch_size / 256
