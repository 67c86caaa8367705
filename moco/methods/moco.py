"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning. https://arxiv.org/abs/1911.05722"""

import copy
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.models.heads import projection_head


class SplitBatchNorm(_BatchNorm):
    """BatchNorm that normalises `splits` groups of a batch apart, as that many devices would.

    Input [B, C] or [B, C, H, W] in either memory layout, which is kept. Running statistics move by the mean of the
    groups' statistics. In evaluation it is BatchNorm, and its state dict is BatchNorm's. B must be a multiple of
    `splits`. After the CIFAR-10 notebook of the authors' code, https://github.com/facebookresearch/moco: there and on a GPU
    every `splits`-th image is of one group, on a CPU so many in a row, which is the same to a batch in random order.
    """

    def __init__(self, num_features: int, splits: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.splits = splits

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None and len(x) % self.splits == 0
        mean, var = self.running_mean.repeat(self.splits, 1), self.running_var.repeat(self.splits, 1)  # [S, C]
        y = self._at_once(x, mean, var) if x.is_cuda else self._one_by_one(x, mean, var)
        self.running_mean.copy_(mean.mean(0))
        self.running_var.copy_(var.mean(0))
        self.num_batches_tracked.add_(1)
        return y

    def _one_by_one(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """On a CPU: a group fits the caches better than the batch, and nothing is moved but the outcome."""
        momentum = self.momentum or 0.0
        return torch.cat(
            [
                F.batch_norm(group, m, v, self.weight, self.bias, True, momentum, self.eps)
                for group, m, v in zip(x.chunk(self.splits), mean, var)
            ]
        )

    def _at_once(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """On a GPU: one kernel for all groups, as channels.

        With the channels last, both moves are views of a contiguous batch, and for channels_last plain copies of runs of C
        numbers, after which batch_norm still finds its fast layout. On a CPU these copies take longer than the rest.
        """
        weight, bias = self.weight.repeat(self.splits), self.bias.repeat(self.splits)  # [S*C]
        y = x.movedim(1, -1).unflatten(0, (-1, self.splits)).movedim(1, -2).flatten(-2)  # [B/S, H, W, S*C]
        moments = mean.view(-1), var.view(-1)
        y = F.batch_norm(y.movedim(-1, 1), *moments, weight, bias, True, self.momentum or 0.0, self.eps)
        y = y.movedim(1, -1).unflatten(-1, (self.splits, -1)).movedim(-2, 1).flatten(0, 1)  # [B, H, W, C]
        return y.movedim(-1, 1)


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Puts a SplitBatchNorm in place of every BatchNorm inside `module`, with its parameters and buffers.

    Raises ValueError for a BatchNorm that does more than that, as some of timm's apply the activation too.
    """
    for parent in list(module.modules()):
        for name, bn in parent.named_children():
            if isinstance(bn, _BatchNorm):
                if type(bn).forward is not _BatchNorm.forward:
                    raise ValueError(
                        f"splits={splits} cannot split this model's {type(bn).__name__}, which does more than BatchNorm: "
                        "choose splits=1, or another model"
                    )
                assert bn.affine and bn.track_running_stats
                split = SplitBatchNorm(bn.num_features, splits, bn.eps, bn.momentum).to(bn.weight.device)
                split.load_state_dict(bn.state_dict())
                setattr(parent, name, split)


def contrast(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE (eq. 1) of unit queries [B, C] with their keys [B, C] against negatives [m, C], all of them float32."""
    with torch.autocast(q.device.type, enabled=False):
        positive = (q * k).sum(1, keepdim=True)  # [B, 1]
        negative = q @ queue.T  # [B, m]
        logits = torch.cat([positive, negative], dim=1) / temperature  # [B, 1+m]
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


class MoCo(nn.Module):
    """A query network against a slowly moving key network, with a queue of the last `m` keys for negatives.

    `momentum` is the key network's EMA decay a step, the paper's m; with `momentum_end` it goes there along a cosine
    over `steps` steps (BYOL, arXiv 2006.07733, sec. 3). The EMA takes in parameters alone: the key network's
    BatchNorm statistics are its own, as in the authors' code. `symmetric` adds the loss of the views exchanged.
    With `splits` > 1 every BatchNorm, in the given encoder too, becomes a SplitBatchNorm of so many groups, and keys
    are computed in shuffled order (sec. 3.3); splits=1 is plain BatchNorm. Raises ValueError for `temperature` not
    positive, `m` or `splits` below 1, `momentum` outside [0, 1], `momentum_end` without `steps`.
    """

    views = 2
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
        _check(m, temperature, momentum, momentum_end, steps, splits)
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
        self.register_buffer("position", torch.tensor(0))  # of the oldest key, the next to be overwritten
        self.register_buffer("step", torch.tensor(0))

    def forward(self, x1: Tensor, x2: Tensor, index: Tensor) -> Tensor:
        """Two views [B, 3, H, W] each -> scalar loss. `index` [B] is not used.

        The loss is taken against the queue as it stood before this step, in both directions if symmetric (then their
        sum, as in the authors' code). Raises ValueError if B is not a multiple of `splits`.
        """
        if len(x1) % self.splits:
            raise ValueError(
                f"a batch of {len(x1)} cannot be split into splits={self.splits} equal groups: "
                f"choose a batch_size that is a multiple of {self.splits}, or splits=1 for plain BatchNorm"
            )
        self.update_keys()
        queue = self.queue.clone()  # the backward pass needs it as it is now
        k = self.keys(x2)
        loss = contrast(self.queries(x1), k, queue, self.temperature)
        if self.symmetric:
            k1 = self.keys(x1)
            loss = loss + contrast(self.queries(x2), k1, queue, self.temperature)
            k = torch.cat([k1, k])  # [2B, feature_dim]
        self.enqueue(k)
        return loss

    def queries(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> unit float32 queries [B, feature_dim]."""
        return F.normalize(self.head(self.encoder(x)).float(), dim=1)

    @torch.no_grad()
    def keys(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> unit float32 keys [B, feature_dim], without gradient."""
        if self.splits == 1:
            return F.normalize(self.key_head(self.key_encoder(x)).float(), dim=1)
        # Shuffled, a key's group is not its query's, so that statistics shared by a group give no positive away.
        order = torch.randperm(len(x), device=x.device)  # [B]
        shuffled = x.index_select(0, order)  # x[order] would lose channels_last
        k = F.normalize(self.key_head(self.key_encoder(shuffled)).float(), dim=1)  # [B, feature_dim]
        return torch.empty_like(k).index_copy_(0, order, k)

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
        """1 - momentum of this step; with a ramp it is a tensor, since to read `step` would wait for the device."""
        if self.momentum_end is None:
            return 1 - self.momentum
        assert self.steps
        progress = (self.step / self.steps).clamp(max=1)
        ramp = (torch.cos(math.pi * progress) + 1) / 2  # from 1 to 0
        return (1 - self.momentum_end) + (self.momentum_end - self.momentum) * ramp

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Keys [B, feature_dim] take the place of the oldest; of more than m keys the last m go in."""
        keys = keys[-self.m :]
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % self.m  # [min(B, m)]
        self.queue.index_copy_(0, slots, keys)
        self.position.add_(len(keys)).remainder_(self.m)


def _check(
    m: int, temperature: float, momentum: float, momentum_end: float | None, steps: int | None, splits: int
) -> None:
    if m < 1:
        raise ValueError(f"m={m} must be at least 1, the length of the queue: MoCo uses 4096 on CIFAR-10")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive: MoCo uses 0.07 to 0.2")
    for name, value in {"momentum": momentum, "momentum_end": momentum_end}.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must lie in [0, 1]: MoCo uses 0.99 on CIFAR-10 and 0.999 on ImageNet")
    if momentum_end is not None and not (steps and steps > 0):
        raise ValueError(
            f"momentum_end={momentum_end} needs steps, over how many steps of training momentum goes there"
        )
    if splits < 1:
        raise ValueError(f"splits={splits} must be at least 1: 1 is plain BatchNorm, 8 imitates eight devices")
