"""Projection heads: from the features of a backbone to the space in which a contrastive loss is taken."""

from torch import nn


def projection_head(
    in_dim: int, out_dim: int, *, layers: int = 1, hidden_dim: int | None = None, norm: bool = False
) -> nn.Module:
    """Features [B, in_dim] -> [B, out_dim], not normalised.

    Args:
        layers: 1 is linear (MoCo, arXiv 1911.05722); 2 has a hidden layer with ReLU (SimCLR, arXiv 2002.05709, section 4.2);
            3 has two of them (Barlow Twins, arXiv 2103.03230, section 2.2).
        hidden_dim: width of the hidden layers; None takes `in_dim`.
        norm: BatchNorm after each hidden layer.
    """
    if layers == 1:
        return nn.Linear(in_dim, out_dim)
    width = hidden_dim or in_dim
    hidden: list[nn.Module] = []
    for before in [in_dim, *[width] * (layers - 2)]:
        # BatchNorm subtracts the mean, so a bias before it would have no effect.
        hidden.append(nn.Linear(before, width, bias=not norm))
        if norm:
            hidden.append(nn.BatchNorm1d(width))
        hidden.append(nn.ReLU(inplace=True))
    return nn.Sequential(*hidden, nn.Linear(width, out_dim))
