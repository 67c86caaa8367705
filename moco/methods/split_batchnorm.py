"""BatchNorm over groups of a batch, which lets one device behave as several."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.errors import UserError


class SplitBatchNorm(_BatchNorm):
    """BatchNorm that normalises `splits` groups of a batch separately, as that many devices would.

    After the CIFAR-10 notebook of the authors' code, https://github.com/facebookresearch/moco. There and here on a GPU,
    group g holds the images g, g + splits, g + 2 * splits, ...; on a CPU each group is a run of consecutive images. The
    images of a batch come in random order, so the two are equivalent.

    Input [B, C] or [B, C, H, W] in either memory layout, which is kept; B must be a multiple of `splits`. The running
    statistics move by the mean of the groups' statistics. In evaluation mode this is plain BatchNorm, and its state dict
    is that of BatchNorm.
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

        With the channels last, both rearrangements are views of a contiguous batch. For a channels_last batch they are
        plain copies of runs of C numbers, after which batch_norm still finds its fast layout. On a CPU these copies would
        take longer than everything else.
        """
        # A norm without weights stays so.
        weight, bias = (None if p is None else p.repeat(self.splits) for p in (self.weight, self.bias))  # [S*C]
        y = torch.unflatten(x.movedim(1, -1), 0, (-1, self.splits)).movedim(1, -2).flatten(-2)  # [B/S, H, W, S*C]
        moments = mean.view(-1), var.view(-1)
        y = F.batch_norm(y.movedim(-1, 1), *moments, weight, bias, True, self.momentum or 0.0, self.eps)
        y = torch.unflatten(y.movedim(1, -1), -1, (self.splits, -1)).movedim(-2, 1).flatten(0, 1)  # [B, H, W, C]
        return y.movedim(-1, 1)


class SplitBatchNormAct(SplitBatchNorm):
    """The same for a norm that drops and activates too, as timm's BatchNormAct2d does."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Makes every BatchNorm inside `module` a SplitBatchNorm.

    They stay the same objects and only change their class. So a norm or a parameter that is used in two places still is, and
    one that does not train still does not.

    Raises:
        UserError: a BatchNorm does something else besides, or keeps no running statistics.
    """
    for bn in module.modules():
        if not isinstance(bn, _BatchNorm):
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
