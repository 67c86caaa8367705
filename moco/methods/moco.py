"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning. https://arxiv.org/abs/1911.05722"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.methods.split_batchnorm import split_batch_norm
from moco.models.heads import projection_head
from moco.ranks import gather, own, ranks


class Shuffled(NamedTuple):
    """Views in the order in which keys are computed.

    Attributes:
        order: of the whole batch, int64 [N].
        x: this rank's share of the views in that order, [B, 3, H, W].
    """

    order: Tensor
    x: Tensor


class MoCo(nn.Module):
    """A query network is trained against a slowly moving key network, with a queue of the last `m` keys as negatives.

    Args:
        encoder: images [B, 3, H, W] -> features [B, encoder.num_features].
        feature_dim: dimensions of queries and keys.
        m: length of the queue.
        temperature: divides the cosine similarities.
        momentum: decay of the key network's moving average (EMA) per step, the paper's m.
        momentum_end: where `momentum` moves along a cosine over `steps` steps (BYOL, arXiv 2006.07733, section 3).
        symmetric: adds the loss with the two views exchanged.
        splits: above 1, every BatchNorm, also those of the given encoder, becomes a SplitBatchNorm of that many groups,
            and keys are computed in shuffled order (section 3.3). 1 is plain BatchNorm. They are groups of the whole batch, on
            any number of ranks.
        head_layers, hidden_dim, head_norm: of the projection head.

    Only parameters take part in the EMA: the key network has BatchNorm statistics of its own, as in the authors' code.

    Raises:
        UserError: `splits` is above 1 and the encoder has a BatchNorm that cannot be split.
    """

    views = 2
    distributed = True
    queue: Tensor
    position: Tensor
    step: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        feature_dim: int,
        m: int,
        temperature: float,
        momentum: float,
        momentum_end: float | None = None,
        steps: int | None = None,
        symmetric: bool = False,
        splits: int = 8,
        head_layers: int = 1,
        hidden_dim: int | None = None,
        head_norm: bool = False,
    ) -> None:
        super().__init__()
        assert momentum_end is None or steps, "momentum_end needs the number of steps over which momentum moves there"
        self.m, self.temperature, self.symmetric, self.splits = m, temperature, symmetric, splits
        self.momentum, self.momentum_end, self.steps = momentum, momentum_end, steps
        self.encoder = encoder
        in_dim = cast(int, encoder.num_features)
        self.head = projection_head(in_dim, feature_dim, layers=head_layers, hidden_dim=hidden_dim, norm=head_norm)
        if splits > 1:
            split_batch_norm(self, splits)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(m, feature_dim), dim=1))
        self.register_buffer("position", torch.tensor(0))  # of the oldest key, which is overwritten next
        self.register_buffer("step", torch.tensor(0))

    @property
    def shuffles(self) -> tuple[int, ...]:
        """The views, 0 or 1, whose keys are computed in shuffled order."""
        return () if self.splits == 1 else (1, 0) if self.symmetric else (1,)

    def forward(self, x1: Tensor, x2: Tensor, index: Tensor, shuffled: Sequence[Shuffled] = ()) -> Tensor:
        """Two views [B, 3, H, W] each -> scalar loss. `index` [B] is not used.

        B must be a multiple of `splits`. The negatives are the queue as it was before this step. The symmetric loss is the
        sum of both directions, as in the authors' code.

        Args:
            x1, x2: of this rank's share of the batch.
            shuffled: for each of `shuffles` those views in another order; without them the batch, all of it here, is shuffled.
        """
        if not shuffled:
            shuffled = [shuffle((x1, x2)[view]) for view in self.shuffles]
        self.update_keys()
        queue = self.queue.clone()  # the backward pass needs it as it is now
        k = self.keys(x2, *shuffled[:1])  # [N, feature_dim], of all ranks
        loss = contrast(self.queries(x1), k[own(len(k))], queue, self.temperature)
        if self.symmetric:
            k1 = self.keys(x1, *shuffled[1:])
            loss = loss + contrast(self.queries(x2), k1[own(len(k1))], queue, self.temperature)
            k = torch.cat([k1, k])  # [2N, feature_dim]
        self.enqueue(k)
        return loss

    def queries(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> unit float32 queries [B, feature_dim]."""
        return F.normalize(self.head(self.encoder(x)).float(), dim=1)

    @torch.no_grad()
    def keys(self, x: Tensor, shuffled: Shuffled | None = None) -> Tensor:
        """Images [B, 3, H, W] -> unit float32 keys of all ranks' images in their order [N, feature_dim], without gradient.

        Args:
            shuffled: computed in this order. Then a key is not in the group of its query, and the statistics of a group do not
                give the positive away. The authors' code sends the images to other devices for that; here each rank makes the
                views of its share of the order itself.
        """
        x = shuffled.x if shuffled else x
        k = gather(F.normalize(self.key_head(self.key_encoder(x)).float(), dim=1))  # [N, feature_dim]
        return torch.empty_like(k).index_copy_(0, shuffled.order, k) if shuffled else k

    @torch.no_grad()
    def update_keys(self) -> None:
        """Key parameters <- momentum * key + (1 - momentum) * query (eq. 2), for encoder and head."""
        query: list[Tensor] = [*self.encoder.parameters(), *self.head.parameters()]
        key: list[Tensor] = [*self.key_encoder.parameters(), *self.key_head.parameters()]
        change = list(torch._foreach_sub(query, key))
        torch._foreach_mul_(change, self.ema_weight())
        torch._foreach_add_(key, change)
        self.step.add_(1)

    def ema_weight(self) -> float | Tensor:
        """1 - momentum of this step. With `momentum_end` it is a tensor, since reading `step` would wait for the device."""
        if self.momentum_end is None:
            return 1 - self.momentum
        assert self.steps
        progress = (self.step / self.steps).clamp(max=1)
        ramp = (torch.cos(math.pi * progress) + 1) / 2  # from 1 to 0
        return (1 - self.momentum_end) + (self.momentum_end - self.momentum) * ramp

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Keys [B, feature_dim] replace the oldest ones in the queue; of more than m keys the last m are taken."""
        keys = keys[-self.m :]
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % self.m  # [min(B, m)]
        self.queue.index_copy_(0, slots, keys)
        self.position.add_(len(keys)).remainder_(self.m)


def contrast(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE (eq. 1) of unit queries [B, C] with their keys [B, C] against the negatives [m, C], all of them float32."""
    with torch.autocast(q.device.type, enabled=False):
        positive = (q * k).sum(1, keepdim=True)  # [B, 1]
        negative = q @ queue.T  # [B, m]
        logits = torch.cat([positive, negative], dim=1) / temperature  # [B, 1+m]
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def shuffle(x: Tensor) -> Shuffled:
    """A batch [N, 3, H, W] that is not shared, in random order."""
    assert ranks() == 1
    order = torch.randperm(len(x), device=x.device)  # [N]
    return Shuffled(order, x.index_select(0, order))  # x[order] would lose channels_last
