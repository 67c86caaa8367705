"""Projection heads."""

import torch
from torch import nn

from moco.models.heads import projection_head


def test_heads():
    assert isinstance(projection_head(8, 4), nn.Linear)
    assert [p.shape for p in projection_head(8, 4, layers=2).parameters()] == [(8, 8), (8,), (4, 8), (4,)]
    head = projection_head(2048, 128, layers=2, hidden_dim=512, norm=True)
    # No bias before BatchNorm: 24.62 M parameters together with the 23.50 M of a ResNet-50.
    assert sum(p.numel() for p in head.parameters()) == 2048 * 512 + 2 * 512 + 512 * 128 + 128
    assert head(torch.randn(5, 2048)).shape == (5, 128)
    three = projection_head(8, 4, layers=3, hidden_dim=6, norm=True)
    shapes = [(6, 8), (6,), (6,), (6, 6), (6,), (6,), (4, 6), (4,)]
    assert [p.shape for p in three.parameters()] == shapes and three(torch.randn(5, 8)).shape == (5, 4)


def test_a_head_whose_output_is_normalised_without_shift():
    torch.manual_seed(0)
    for layers in (1, 2):
        head = projection_head(8, 4, layers=layers, norm=layers > 1, out_norm=True)
        assert all(part.bias is None for part in head if isinstance(part, nn.Linear))
        out = head(3 * torch.randn(64, 8) + 2)
        assert torch.allclose(out.mean(0), torch.zeros(4), atol=1e-5) and torch.allclose(
            out.std(0, correction=0), torch.ones(4), atol=1e-2
        )
        assert not head[-1].bias.requires_grad and head[-1].weight.requires_grad
