"""`splits` of NPID, SimCLR and Barlow Twins against a network of its own for each group of images."""

import copy

import pytest
import torch
from references import ConvNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.methods import NPID, BarlowTwins, SimCLR

IMAGES, SPLITS = 12, 3
SETTINGS = {
    NPID: {"num_images": 20, "m": 6, "temperature": 0.1, "momentum": 0.5, "head_layers": 2},
    SimCLR: {"temperature": 0.5},
    BarlowTwins: {"hidden_dim": 6},
}


class OneForEachGroup(nn.Module):
    """Copies of a network, of which each computes a run of consecutive images, all their views at once."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.copies = nn.ModuleList([copy.deepcopy(network) for _ in range(SPLITS)])

    def forward(self, x: Tensor) -> Tensor:
        views = torch.arange(len(x)).view(-1, IMAGES).chunk(SPLITS, 1)
        rows = [group.flatten() for group in views]
        out = torch.cat([one(x[group]) for one, group in zip(self.copies, rows)])
        return out[torch.cat(rows).argsort()]


def norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@pytest.mark.parametrize("method", SETTINGS)
def test_each_group_has_statistics_of_its_own(method: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda x: x)  # losses are float32 otherwise
    torch.manual_seed(0)
    settings = {"feature_dim": 4, "head_norm": True, **SETTINGS[method]}
    split = method(ConvNet(), splits=SPLITS, **settings).double()
    plain = method(ConvNet(), **settings).double()
    plain.load_state_dict(split.state_dict())
    groups = OneForEachGroup(nn.Sequential(plain.encoder, plain.head))
    plain.encoder, plain.head = groups, nn.Identity()
    views, index = torch.randn(2, IMAGES, 3, 8, 8, dtype=torch.float64), torch.randperm(20)[:IMAGES]
    losses = []
    for model in (split, plain):
        torch.manual_seed(1)  # the negatives of NPID
        losses.append(model(*views, index))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    network = nn.Sequential(split.encoder, split.head)
    for name, p in network.named_parameters():
        expected = sum(one.get_parameter(name).grad for one in groups.copies)
        assert torch.allclose(p.grad, expected, rtol=1e-10, atol=1e-12), name
    for own, *others in zip(norms(network), *map(norms, groups.copies)):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            mean = sum(getattr(other, name).double() for other in others) / SPLITS
            assert torch.allclose(getattr(own, name).double(), mean, rtol=1e-12, atol=1e-12), name
