"""BatchNorm over groups of a batch: one device behaves as several, and several as one."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.errors import UserError
from moco.ranks import NO_END, rank, ranks


class SplitBatchNorm(_BatchNorm):
    """BatchNorm that normalises `splits` groups of a batch separately, as that many devices would.

    After the CIFAR-10 notebook of the authors' code, https://github.com/facebookresearch/moco. Here a group is a run of
    consecutive images, so that a rank's share of a batch has whole groups. The images of a batch come in random order, so it
    does not matter which form a group.

    Input [B, C] or [B, C, H, W] in either memory layout, which is kept; B must be a multiple of `splits`. The running
    statistics move by the mean of the groups' statistics. In evaluation mode this is plain BatchNorm, and its state dict
    is that of BatchNorm.

    Attributes:
        shared: the ranks that have one group among them, each with an equal share of its images; None: groups are whole here.
    """

    shared: "dist.ProcessGroup | None" = None

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
        if self.shared is not None:
            return self._over_ranks(x, self.shared)
        mean, var = self.running_mean.repeat(self.splits, 1), self.running_var.repeat(self.splits, 1)  # [S, C]
        y = self._at_once(x, mean, var) if x.is_cuda else self._one_by_one(x, mean, var)
        self.running_mean.copy_(mean.mean(0))
        self.running_var.copy_(var.mean(0))
        self.num_batches_tracked.add_(1)
        return y

    def _one_by_one(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """On a CPU: a group fits into the caches better than the batch does, and only the results are copied."""
        momentum = self.momentum or 0.0
        return torch.cat(
            [
                F.batch_norm(group, m, v, self.weight, self.bias, True, momentum, self.eps)
                for group, m, v in zip(x.chunk(self.splits), mean, var)
            ]
        )

    def _at_once(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """On a GPU: one kernel for all groups, whose channels are laid side by side.

        With the channels last both rearrangements are copies of runs of C numbers, after which batch_norm still finds its fast
        layout. On a CPU these copies would take longer than everything else.
        """
        # A norm without weights stays so.
        weight, bias = (None if p is None else p.repeat(self.splits) for p in (self.weight, self.bias))  # [S*C]
        y = torch.unflatten(x.movedim(1, -1), 0, (self.splits, -1)).movedim(0, -2).flatten(-2)  # [B/S, H, W, S*C]
        moments = mean.view(-1), var.view(-1)
        y = F.batch_norm(y.movedim(-1, 1), *moments, weight, bias, True, self.momentum or 0.0, self.eps)
        y = torch.unflatten(y.movedim(1, -1), -1, (self.splits, -1)).movedim(-2, 0).flatten(0, 1)  # [B, H, W, C]
        y = y.movedim(-1, 1)
        return y.contiguous() if x.is_contiguous() else y

    def _over_ranks(self, x: Tensor, shared: dist.ProcessGroup) -> Tensor:
        """Statistics over the images that the ranks of `shared` have."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        y, mean, var = _OverRanks.apply(x, self.weight, self.bias, self.eps, shared)
        n = x.numel() // x.shape[1] * shared.size()  # of each channel, on all of them
        with torch.no_grad():
            for running, value in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
                running.lerp_(value.to(running.dtype), self.momentum or 0.0)
            self.num_batches_tracked.add_(1)
        return cast(Tensor, y)


class _OverRanks(torch.autograd.Function):
    """Normalises x [B, C, ...] by statistics over the B of all ranks of a group; torch's SyncBatchNorm refuses CPUs.

    Gives the output in x's type, and mean and variance [C], which have no gradient. A gradient is that of the sum of all ranks'
    losses, as with moco.ranks.gather; those of weight and bias are this rank's part of it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(_wide(x), _all_but_channels(x), correction=0)  # [C], of this rank
        own = torch.stack([mean, var])
        found = [torch.empty_like(own) for _ in range(group.size())]
        dist.all_gather(found, own, group)
        means, variances = torch.stack(found).unbind(1)  # [ranks, C]; all ranks have as many images
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        deviation = (var + eps).rsqrt()
        y = (_wide(x) - _of_channels(mean, x)) * _of_channels(deviation if weight is None else deviation * weight, x)
        y = y if bias is None else y + _of_channels(bias, x)
        ctx.save_for_backward(x, weight, mean, deviation)
        ctx.group, ctx.has_bias = group, bias is not None
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, deviation = ctx.saved_tensors
        g = gradients[0].to(mean.dtype)
        normal = (_wide(x) - _of_channels(mean, x)) * _of_channels(deviation, x)  # x without weight and bias
        own = torch.stack([g.sum(_all_but_channels(x)), (g * normal).sum(_all_but_channels(x))])  # [2, C]
        whole = own.clone()
        dist.all_reduce(whole, group=ctx.group)
        whole /= x.numel() // x.shape[1] * ctx.group.size()
        scale = deviation if weight is None else deviation * weight
        dx = (g - _of_channels(whole[0], x) - normal * _of_channels(whole[1], x)) * _of_channels(scale, x)
        of_weight = None if weight is None else own[1].to(weight.dtype)
        return dx.to(x.dtype), of_weight, own[0] if ctx.has_bias else None, None, None


def _wide(x: Tensor) -> Tensor:
    """In at least float32, in which statistics are taken."""
    return x if x.dtype == torch.float64 else x.float()


def _all_but_channels(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    """[C] in a shape that broadcasts to x."""
    return values.view([1, -1] + [1] * (x.dim() - 2))


class SplitBatchNormAct(SplitBatchNorm):
    """The same for a norm that drops and activates too, as timm's BatchNormAct2d does."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Makes every BatchNorm inside `module` a SplitBatchNorm; what is one already stays as it is.

    They stay the same objects and only change their class. So a norm or a parameter that is used in two places still is, and
    one that does not train still does not.

    Raises:
        UserError: a BatchNorm does something else besides, or keeps no running statistics.
    """
    for bn in module.modules():
        if not isinstance(bn, _BatchNorm) or isinstance(bn, SplitBatchNorm):
            continue
        kind, before = _split_kind(bn), type(bn).__name__
        if kind is None:
            raise UserError(
                f"method.splits={splits} cannot split this model's {before}, which does more than "
                "BatchNorm: give method.splits=1, or another model"
            )
        if not bn.track_running_stats or bn.momentum is None:
            raise UserError(
                f"method.splits={splits} cannot split this model's {before}, which has no moving averages of mean and "
                "variance: give method.splits=1, or another model"
            )
        bn.__class__ = kind
        bn.splits = splits  # type: ignore[assignment]


def _split_kind(bn: _BatchNorm) -> type[SplitBatchNorm] | None:
    """What the norm is to become; None where that would not compute the same in evaluation."""
    if type(bn).forward is _BatchNorm.forward:
        return SplitBatchNorm
    # By its name and parts, since timm is not needed for anything else here.
    known = type(bn).__name__ == "BatchNormAct2d" and type(bn).__module__.startswith("timm.")
    return SplitBatchNormAct if known and {name for name, _ in bn.named_children()} == {"drop", "act"} else None


def share_batch_norm(module: nn.Module) -> None:
    """Lets the BatchNorms inside `module` see the groups of the whole batch, of which each rank has an equal share.

    Those of a SplitBatchNorm are groups of the whole batch; a plain BatchNorm has one. A rank then has whole groups, or several
    ranks share one. All ranks call this.

    Raises:
        UserError: as split_batch_norm does.
    """
    if ranks() == 1:
        return
    split_batch_norm(module, 1)
    norms = [bn for bn in module.modules() if isinstance(bn, SplitBatchNorm)]
    groups = {splits: _ranks_of_groups(splits) for splits in sorted({bn.splits for bn in norms})}
    for bn in norms:
        bn.shared, bn.splits = groups[bn.splits], max(1, bn.splits // ranks())


def _ranks_of_groups(splits: int) -> "dist.ProcessGroup | None":
    """The ranks that have a group together with this one; None where it has whole groups."""
    if splits >= ranks():
        return None
    if splits == 1:
        return dist.group.WORLD
    each = ranks() // splits
    groups = [dist.new_group([*range(first, first + each)], timeout=NO_END) for first in range(0, ranks(), each)]
    return cast(dist.ProcessGroup, groups[rank() // each])  # this rank is none of the others'
