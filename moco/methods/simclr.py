"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations. https://arxiv.org/abs/2002.05709"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.methods.split_batchnorm import split_batch_norm
from moco.models.heads import projection_head
from moco.ranks import gather, own, ranks


class SimCLR(nn.Module):
    """NT-Xent among the views of a batch (eq. 1): the other view of an image is its positive, those of others are negatives.

    With V views of each image the mean is over all ordered pairs of views of an image, and each pair has the V (B - 1) views of
    the other images as its negatives (multi-crop in Poly-View Contrastive Learning, arXiv 2403.05490, which found more views of
    fewer images to be better at equal work). With two views that is eq. 1.

    Args:
        encoder: images [B, 3, H, W] -> features [B, encoder.num_features].
        feature_dim: dimensions of the space in which the loss is taken.
        temperature: divides the cosine similarities.
        splits: above 1, every BatchNorm becomes a SplitBatchNorm of that many groups of the whole batch, each with both views
            of its images. The authors take statistics over the whole batch (section 2.2), as with 1.
        views: of each image, two or more.
        head_layers, hidden_dim, head_norm, head_out_norm: of the projection head.

    Raises:
        UserError: `splits` is above 1 and the encoder has a BatchNorm that cannot be split.
    """

    distributed = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        temperature: float,
        splits: int = 1,
        views: int = 2,
        head_layers: int = 2,
        hidden_dim: int | None = None,
        head_norm: bool = False,
        head_out_norm: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.splits, self.views = temperature, splits, views
        self.encoder = encoder
        in_dim = cast(int, encoder.num_features)
        self.head = projection_head(
            in_dim, feature_dim, layers=head_layers, hidden_dim=hidden_dim, norm=head_norm, out_norm=head_out_norm
        )
        if splits > 1:
            split_batch_norm(self, splits)

    def forward(self, x1: Tensor, x2: Tensor, index: Tensor, *more: Tensor) -> Tensor:
        """V views [B, 3, H, W] each -> scalar loss, the mean over all V B views. `index` [B] is not used.

        On several ranks B is this one's share, and the negatives are the views of all N images of the batch.
        """
        # All views of a group's images lie together, since the groups of a SplitBatchNorm are consecutive.
        groups = max(1, self.splits // ranks())  # of this rank's share
        parts = zip(*(x.chunk(groups) for x in (x1, x2, *more)))
        z = self.head(self.encoder(torch.cat([x for group in parts for x in group])))  # [V B, feature_dim]
        z = (
            z.unflatten(0, (groups, self.views, -1)).transpose(0, 1).flatten(0, 2)
        )  # all first views, then all second, ...
        z = F.normalize(z.float(), dim=1)
        everyone = torch.cat([gather(one) for one in z.chunk(self.views)])  # [V N, feature_dim]
        with torch.autocast(z.device.type, enabled=False):
            logits = z @ everyone.T / self.temperature  # [V B, V N]
        n = len(everyone) // self.views
        image = torch.arange(n, device=z.device)[own(n)]  # [B]
        view = torch.cat([image + n * v for v in range(self.views)])  # [V B]: i, i + N, ... are views of one image
        columns = torch.arange(self.views * n, device=z.device)
        if self.views == 2:
            itself = view[:, None] == columns
            return F.cross_entropy(logits.masked_fill(itself, -torch.inf), (view + n) % (2 * n))
        same = image.repeat(self.views)[:, None] == columns % n  # [V B, V N]
        negative = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)  # [V B, 1]
        others = torch.stack([(view + n * v) % (self.views * n) for v in range(1, self.views)], 1)  # [V B, V - 1]
        positive = logits.gather(1, others)
        return (torch.logaddexp(positive, negative) - positive).mean()
