"""Contrastive methods, one file per paper.

A method is an `nn.Module` with `encoder` (images [B, 3, H, W] -> features [B, D]), `head` (features -> [B, feature_dim]),
`views` (how many views of each image it needs) and `forward(x1, x2, index) -> scalar loss`.
"""

from moco.methods.barlow_twins import BarlowTwins
from moco.methods.moco import MoCo, Shuffled
from moco.methods.npid import NPID
from moco.methods.simclr import SimCLR
from moco.methods.weights import Weights

__all__ = ["BarlowTwins", "MoCo", "NPID", "Shuffled", "SimCLR", "Weights"]
