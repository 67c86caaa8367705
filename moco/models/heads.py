"""Projection heads: from the features of a backbone to the space in which a contrastive loss is taken."""

from torch import nn


def projection_head(
    in_dim: int,
    out_dim: int,
    *,
    layers: int = 1,
    hidden_dim: int | None = None,
    norm: bool = False,
    out_norm: bool = False,
) -> nn.Module:
    """Features [B, in_dim] -> [B, out_dim], not normalised.

    Args:
        layers: 1 is linear (MoCo, arXiv 1911.05722); 2 has a hidden layer with ReLU (SimCLR, arXiv 2002.05709, section 4.2);
            3 has two of them (Barlow Twins, arXiv 2103.03230, section 2.2).
        hidden_dim: width of the hidden layers; None takes `in_dim`.
        norm: BatchNorm after each hidden layer.
        out_norm: BatchNorm that does not shift after the last layer, as google-research/simclr has it.
    """
    widths = [in_dim, *[hidden_dim or in_dim] * (layers - 1)]
    parts: list[nn.Module] = []
    for before, width in zip(widths, widths[1:]):
        # BatchNorm subtracts the mean, so a bias before it would have no effect.
        parts.append(nn.Linear(before, width, bias=not norm))
        if norm:
            parts.append(nn.BatchNorm1d(width))
        parts.append(nn.ReLU(inplace=True))
    parts.append(nn.Linear(widths[-1], out_dim, bias=not out_norm))
    if out_norm:
        last = nn.BatchNorm1d(out_dim)
        last.bias.requires_grad_(False)  # it stays 0
        parts.append(last)
    return nn.Sequential(*parts) if len(parts) > 1 else parts[0]
