"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations. https://arxiv.org/abs/2002.05709"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.methods.split_batchnorm import split_batch_norm
from moco.models.heads import projection_head
from moco.ranks import gather, own, ranks


class SimCLR(nn.Module):
    """NT-Xent among the 2B views of a batch (eq. 1): the other view of an image is its positive, all others are negatives.

    Args:
        encoder: images [B, 3, H, W] -> features [B, encoder.num_features].
        feature_dim: dimensions of the space in which the loss is taken.
        temperature: divides the cosine similarities.
        splits: above 1, every BatchNorm becomes a SplitBatchNorm of that many groups of the whole batch, each with both views
            of its images. The authors take statistics over the whole batch (section 2.2), as with 1.
        head_layers, hidden_dim, head_norm, head_out_norm: of the projection head.

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
        temperature: float,
        splits: int = 1,
        head_layers: int = 2,
        hidden_dim: int | None = None,
        head_norm: bool = False,
        head_out_norm: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.splits = temperature, splits
        self.encoder = encoder
        in_dim = cast(int, encoder.num_features)
        self.head = projection_head(
            in_dim, feature_dim, layers=head_layers, hidden_dim=hidden_dim, norm=head_norm, out_norm=head_out_norm
        )
        if splits > 1:
            split_batch_norm(self, splits)

    def forward(self, x1: Tensor, x2: Tensor, index: Tensor) -> Tensor:
        """Two views [B, 3, H, W] each -> scalar loss, the mean over all 2B views. `index` [B] is not used.

        On several ranks B is this one's share, and the negatives are the views of all N images of the batch.
        """
        # Both views of a group's images lie together, since the groups of a SplitBatchNorm are consecutive.
        groups = max(1, self.splits // ranks())  # of this rank's share
        views = zip(x1.chunk(groups), x2.chunk(groups))
        z = self.head(self.encoder(torch.cat([x for group in views for x in group])))  # [2B, feature_dim]
        z = z.unflatten(0, (groups, 2, -1)).transpose(0, 1).flatten(0, 2)  # all first views, then all second
        z = F.normalize(z.float(), dim=1)
        everyone = torch.cat([gather(half) for half in z.chunk(2)])  # [2N, feature_dim]
        with torch.autocast(z.device.type, enabled=False):
            logits = z @ everyone.T / self.temperature  # [2B, 2N]
        n = len(everyone) // 2
        image = torch.arange(n, device=z.device)[own(n)]  # [B]
        view = torch.cat([image, image + n])  # [2B]: views i and i + N are of the same image
        itself = view[:, None] == torch.arange(2 * n, device=z.device)  # [2B, 2N]
        return F.cross_entropy(logits.masked_fill(itself, -torch.inf), (view + n) % (2 * n))
