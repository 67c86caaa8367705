"""SplitBatchNorm against a BatchNorm for each group."""

import copy

import pytest
import torch
from torch import nn

from moco.errors import UserError
from moco.methods import MoCo
from moco.methods.split_batchnorm import SplitBatchNorm, split_batch_norm
from moco.models import timm_backbone


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def split_and_plain(splits):
    plain = nn.BatchNorm2d(6).double()
    with torch.no_grad():
        for t in (plain.weight, plain.bias, plain.running_mean, plain.running_var):
            t.copy_(torch.rand(6) + 0.5)
    holder = nn.Sequential(copy.deepcopy(plain)).double()
    split_batch_norm(holder, splits)
    assert isinstance(holder[0], SplitBatchNorm)
    return holder[0].double(), plain


WAYS = {  # a method of SplitBatchNorm, and the groups that it makes of a batch
    "_one_by_one": lambda n, splits: torch.arange(n).chunk(splits),
    "_at_once": lambda n, splits: [torch.arange(s, n, splits) for s in range(splits)],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_split_batch_norm_is_batch_norm_of_each_group(layout, way, monkeypatch):
    monkeypatch.setattr(SplitBatchNorm, "_one_by_one", getattr(SplitBatchNorm, way))  # what a CPU takes
    splits = 3
    split, plain = split_and_plain(splits)
    assert split.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(12, 6, 4, 5).double().to(memory_format=layout).requires_grad_()
    x_plain, weights = x.detach().clone().requires_grad_(), torch.randn_like(x)
    groups = [copy.deepcopy(plain) for _ in range(splits)]
    expected = torch.empty_like(x)
    for group, index in zip(groups, WAYS[way](len(x), splits)):
        expected[index] = group(x_plain[index])
    out = split(x)
    (out * weights).sum().backward(), (expected * weights).sum().backward()
    assert out.is_contiguous(memory_format=layout) and x.grad.is_contiguous(memory_format=layout)
    assert torch.allclose(out, expected) and torch.allclose(x.grad, x_plain.grad)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(split, name), sum(getattr(g, name) for g in groups) / splits)
    for name in ("weight", "bias"):
        assert torch.allclose(getattr(split, name).grad, sum(getattr(g, name).grad for g in groups))
    assert split.num_batches_tracked == 1
    plain.load_state_dict(split.state_dict())
    assert torch.equal(split.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("way", WAYS)
def test_split_batch_norm_of_features(way, monkeypatch):
    monkeypatch.setattr(SplitBatchNorm, "_one_by_one", getattr(SplitBatchNorm, way))
    split, _ = split_and_plain(2)
    flat, x = nn.BatchNorm1d(6).double(), torch.randn(8, 6).double()
    flat.load_state_dict(split.state_dict())
    out = split(x)
    for index in WAYS[way](len(x), 2):
        assert torch.allclose(out[index], flat(x[index]))


def test_a_batch_that_does_not_split_into_equal_groups():
    with pytest.raises(AssertionError):
        SplitBatchNorm(3, splits=4)(torch.randn(6, 3))


def test_a_norm_that_holds_an_activation_is_not_split():
    settings = dict(feature_dim=4, m=8, temperature=0.1, momentum=0.9)
    with pytest.raises(UserError, match="method.splits=2 .*BatchNormAct2d.*give method.splits=1"):
        MoCo(timm_backbone("mobilenetv3_small_050"), splits=2, **settings)
    loss = MoCo(timm_backbone("mobilenetv3_small_050"), splits=1, **settings)(
        torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.arange(4)
    )
    assert loss.isfinite()
