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
        weight, bias = self.weight.repeat(self.splits), self.bias.repeat(self.splits)  # [S*C]
        y = torch.unflatten(x.movedim(1, -1), 0, (-1, self.splits)).movedim(1, -2).flatten(-2)  # [B/S, H, W, S*C]
        moments = mean.view(-1), var.view(-1)
        y = F.batch_norm(y.movedim(-1, 1), *moments, weight, bias, True, self.momentum or 0.0, self.eps)
        y = torch.unflatten(y.movedim(1, -1), -1, (self.splits, -1)).movedim(-2, 1).flatten(0, 1)  # [B, H, W, C]
        return y.movedim(-1, 1)


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Replaces every BatchNorm inside `module` by a SplitBatchNorm with the same parameters and buffers.

    Raises:
        UserError: a BatchNorm does more than that, as some of timm's apply the activation too.
    """
    for parent in list(module.modules()):
        for name, bn in parent.named_children():
            if not isinstance(bn, _BatchNorm):
                continue
            if type(bn).forward is not _BatchNorm.forward:
                raise UserError(
                    f"method.splits={splits} cannot split this model's {type(bn).__name__}, which does more than "
                    "BatchNorm: give method.splits=1, or another model"
                )
            assert bn.affine and bn.track_running_stats
            split = SplitBatchNorm(bn.num_features, splits, bn.eps, bn.momentum).to(bn.weight.device)
            split.load_state_dict(bn.state_dict())
            setattr(parent, name, split)
