"""LARS, Muon, and schedules of the learning rate."""

from moco.optim.lars import LARS
from moco.optim.muon import Muon
from moco.optim.schedules import constant, cosine, scaled_lr, step

__all__ = ["LARS", "Muon", "constant", "cosine", "scaled_lr", "step"]
