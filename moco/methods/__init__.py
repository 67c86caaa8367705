"""Contrastive methods, one paper per file.

A method is an `nn.Module` with `encoder` (images [B, 3, H, W] -> features [B, D]), `head` (-> [B, feature_dim]),
`views` (how many views of an image it looks at) and `forward(x1, x2, index) -> scalar loss`.
"""

from moco.methods.moco import MoCo
from moco.methods.npid import NPID
from moco.methods.simclr import SimCLR

__all__ = ["MoCo", "NPID", "SimCLR"]
