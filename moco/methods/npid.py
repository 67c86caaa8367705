"""NPID: Unsupervised Feature Learning via Non-Parametric Instance Discrimination. https://arxiv.org/abs/1805.01978"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.errors import UserError
from moco.methods.split_batchnorm import split_batch_norm
from moco.models.heads import projection_head
from moco.ranks import gather, own, ranks


class NPID(nn.Module):
    """Each image is a class of its own, whose class weight is the image's row of a memory bank [num_images, feature_dim].

    Z, the constant of eq. 8, is estimated from the first batch and then kept: `log_z` is -inf until then.

    Args:
        encoder: images [B, 3, H, W] -> features [B, encoder.num_features].
        num_images: number of training images.
        feature_dim: dimensions of a row of the bank.
        m: negatives, drawn uniformly from the bank for noise-contrastive estimation (section 3.2); 0 takes the softmax over
            the whole bank instead (eq. 2).
        temperature: divides the cosine similarities.
        momentum: weight of the new feature in its row; zhirongw/lemniscate.pytorch names that of the old one so.
        splits: above 1, every BatchNorm becomes a SplitBatchNorm of that many groups of the whole batch.
        head_layers, hidden_dim, head_norm: of the projection head.

    Raises:
        UserError: `m` is more than `num_images`, or `splits` is above 1 and the encoder has a BatchNorm that cannot be split.
    """

    views = 1
    distributed = True
    bank: Tensor
    log_z: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        num_images: int,
        feature_dim: int,
        m: int,
        temperature: float,
        momentum: float,
        splits: int = 1,
        head_layers: int = 1,
        hidden_dim: int | None = None,
        head_norm: bool = False,
    ) -> None:
        super().__init__()
        if m > num_images:
            raise UserError(
                f"m={m} is more than the {num_images} training images: give at most {num_images}, or 0 for the softmax "
                "over all of them"
            )
        self.m, self.temperature, self.momentum = m, temperature, momentum
        self.encoder = encoder
        in_dim = cast(int, encoder.num_features)
        self.head = projection_head(in_dim, feature_dim, layers=head_layers, hidden_dim=hidden_dim, norm=head_norm)
        if splits > 1:
            split_batch_norm(self, splits)
        self.register_buffer("bank", F.normalize(torch.randn(num_images, feature_dim), dim=1))
        self.register_buffer("log_z", torch.tensor(-torch.inf))

    def forward(self, x1: Tensor, x2: Tensor | None, index: Tensor) -> Tensor:
        """Views [B, 3, H, W] of the images `index` [B], each at most once -> scalar loss. `x2` is not used.

        On several ranks B is this one's share; all of them hold the same bank.
        """
        f = F.normalize(self.head(self.encoder(x1)).float(), dim=1)  # [B, feature_dim]
        with torch.autocast(f.device.type, enabled=False):
            # One product with the whole bank costs less than copying 1 + m of its rows for every image. The bank is
            # cloned since it changes in place below, and the backward pass needs it as it was.
            scores = f @ self.bank.clone().T / self.temperature  # [B, num_images]
            loss = self.nce(scores.gather(1, self.sample(index))) if self.m else F.cross_entropy(scores, index)
            self.update(gather(f.detach()), gather(index))
        return loss

    def sample(self, index: Tensor) -> Tensor:
        """Rows of the bank for each image: its own, then m drawn uniformly with replacement. [B] -> [B, 1+m]"""
        n = (
            len(index) * ranks()
        )  # drawn for the images of all ranks, so that each image has the same on any number of them
        noise = torch.randint(len(self.bank), (n, self.m), device=index.device)[own(n)]  # [B, m]
        return torch.cat([index[:, None], noise], dim=1)  # [B, 1+m]

    def nce(self, scores: Tensor) -> Tensor:
        """Eq. 7 for scores f.v / temperature [B, 1+m], the image's own first, summed over the m negatives.

        With P = exp(score) / Z and the uniform noise Pn = 1 / num_images, P / (P + m Pn) is the sigmoid of
        log P - log(m Pn). In this form no exponential can overflow.
        """
        num_images = len(self.bank)
        total = gather(scores.detach().logsumexp((0, 1)).view(1)).logsumexp(0)  # over all ranks
        estimate = total - math.log(scores.numel() * ranks()) + math.log(num_images)
        self.log_z.copy_(torch.where(self.log_z.isinf(), estimate, self.log_z))
        log_odds = scores - self.log_z - math.log(self.m / num_images)  # [B, 1+m]
        data, noise = F.logsigmoid(log_odds[:, 0]), F.logsigmoid(-log_odds[:, 1:]).sum(1)  # [B], [B]
        return -(data + noise).mean()

    @torch.no_grad()
    def update(self, f: Tensor, index: Tensor) -> None:
        """Moves the rows `index` [B] of the bank towards the features f [B, feature_dim], and back to unit length."""
        rows = self.momentum * f + (1 - self.momentum) * self.bank[index]  # [B, feature_dim]
        self.bank.index_copy_(0, index, F.normalize(rows, dim=1))
