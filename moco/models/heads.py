"""Projection heads: from the features of a backbone to the space in which a contrastive loss is taken."""

from torch import nn


def projection_head(
    in_dim: int, out_dim: int, *, layers: int = 1, hidden_dim: int | None = None, norm: bool = False
) -> nn.Module:
    """A linear head (MoCo, arXiv 1911.05722) or one with a hidden layer and ReLU (SimCLR, arXiv 2002.05709, sec. 4.2).

    Features [B, in_dim] -> [B, out_dim], not normalised. `hidden_dim` is `in_dim` where None; `norm` puts BatchNorm
    behind the hidden layer. Raises ValueError for other numbers of layers, and for settings of a hidden layer
    that is not there.
    """
    if layers == 1:
        if norm or hidden_dim is not None:
            raise ValueError("a head of one layer has no hidden layer: leave hidden_dim and norm out, or set layers=2")
        return nn.Linear(in_dim, out_dim)
    if layers != 2:
        raise ValueError(f"layers={layers} of a projection head: choose 1 (linear) or 2 (one hidden layer)")
    hidden_dim = hidden_dim or in_dim
    # BatchNorm takes the mean away again, so a bias before it would have no effect.
    hidden: list[nn.Module] = [nn.Linear(in_dim, hidden_dim, bias=not norm)]
    if norm:
        hidden.append(nn.BatchNorm1d(hidden_dim))
    return nn.Sequential(*hidden, nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim))
