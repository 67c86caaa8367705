"""LARS, and schedules of the learning rate as pure functions of the step."""

from moco.optim.lars import LARS, constant, cosine, scaled_lr, step

__all__ = ["LARS", "constant", "cosine", "scaled_lr", "step"]
