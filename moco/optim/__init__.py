"""LARS, and schedules of the learning rate."""

from moco.optim.lars import LARS
from moco.optim.schedules import constant, cosine, scaled_lr, step

__all__ = ["LARS", "constant", "cosine", "scaled_lr", "step"]
