"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction. https://arxiv.org/abs/2103.03230"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.methods.split_batchnorm import split_batch_norm
from moco.models.heads import projection_head
from moco.ranks import gather


class BarlowTwins(nn.Module):
    """The correlations between the dimensions of two views' outputs are drawn towards the identity: no negatives.

    Args:
        encoder: images [B, 3, H, W] -> features [B, encoder.num_features].
        feature_dim: dimensions of the outputs.
        off_diagonal: weight of the correlations of unlike dimensions, the paper's lambda.
        loss_scale: of the whole loss, which is a sum over feature_dim ** 2 numbers.
        splits: above 1, every BatchNorm becomes a SplitBatchNorm of that many groups of the whole batch. The correlations
            are over the whole batch at any value.
        head_layers, hidden_dim, head_norm: of the projection head.

    Raises:
        UserError: `splits` is above 1 and the encoder has a BatchNorm that cannot be split.
    """

    views = 2
    distributed = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        off_diagonal: float = 0.0051,
        loss_scale: float = 1.0,
        splits: int = 1,
        head_layers: int = 3,
        hidden_dim: int | None = None,
        head_norm: bool = True,
    ) -> None:
        super().__init__()
        self.off_diagonal, self.loss_scale = off_diagonal, loss_scale
        self.encoder = encoder
        in_dim = cast(int, encoder.num_features)
        self.head = projection_head(in_dim, feature_dim, layers=head_layers, hidden_dim=hidden_dim, norm=head_norm)
        if splits > 1:
            split_batch_norm(self, splits)

    def forward(self, x1: Tensor, x2: Tensor, index: Tensor) -> Tensor:
        """Two views [B, 3, H, W] each -> scalar loss (eq. 1). `index` [B] is not used.

        Each view passes on its own, so that a BatchNorm sees one view at a time, as in the authors' code.
        """
        z1, z2 = (gather(self.head(self.encoder(x)).float()) for x in (x1, x2))  # [B, feature_dim], of all ranks
        with torch.autocast(z1.device.type, enabled=False):
            c = standardised(z1).T @ standardised(z2) / len(z1)  # [feature_dim, feature_dim], eq. 2
            on = (c.diagonal() - 1).square().sum()
            off = c.square().sum() - c.diagonal().square().sum()
            return self.loss_scale * (on + self.off_diagonal * off)


def standardised(z: Tensor) -> Tensor:
    """Each dimension of z [B, D] with mean 0 and variance 1 over the batch; one that does not vary is 0."""
    return F.batch_norm(z, None, None, training=True)
