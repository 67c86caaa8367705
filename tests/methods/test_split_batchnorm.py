"""SplitBatchNorm against a BatchNorm for each group."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
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


WAYS = "_one_by_one", "_at_once"  # methods of SplitBatchNorm


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
    for group, index in zip(groups, torch.arange(len(x)).chunk(splits)):
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
    for index in torch.arange(len(x)).chunk(2):
        assert torch.allclose(out[index], flat(x[index]))


def test_a_batch_that_does_not_split_into_equal_groups():
    with pytest.raises(AssertionError):
        SplitBatchNorm(3, splits=4)(torch.randn(6, 3))


def test_a_norm_without_weights_is_split():
    holder = nn.Sequential(nn.BatchNorm2d(6, affine=False))
    split_batch_norm(holder, 2)
    plain, x = nn.BatchNorm2d(6, affine=False), torch.randn(8, 6, 3, 3)
    for way in WAYS:
        norm = holder[0]
        zeros, ones = torch.zeros(2, 6), torch.ones(2, 6)
        out = getattr(norm, way)(x, zeros, ones)
        for index in torch.arange(8).chunk(2):
            assert torch.allclose(out[index], plain(x[index]), atol=1e-6)


class Shared(nn.Module):
    """One norm in two places of one module and in another, one weight in two norms, and a weight that does not train."""

    def __init__(self):
        super().__init__()
        norm, other = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.first, self.again, self.inside = norm, norm, nn.Sequential(norm)
        self.tied = other
        other.weight = norm.weight
        self.frozen = nn.BatchNorm1d(6)
        self.frozen.weight.requires_grad_(False)
        self.frozen.eval()


def test_what_is_shared_or_frozen_stays_so():
    module = Shared()
    before = {name: p for name, p in module.named_parameters(remove_duplicate=False)}
    hooked = []
    module.first.register_forward_hook(lambda *_: hooked.append(1))
    split_batch_norm(module, 2)
    assert module.first is module.again is module.inside[0] and isinstance(module.first, SplitBatchNorm)
    assert module.tied.weight is module.first.weight and module.tied.bias is not module.first.bias
    after = {name: p for name, p in module.named_parameters(remove_duplicate=False)}
    assert all(after[name] is p for name, p in before.items()) and after.keys() == before.keys()
    assert not module.frozen.weight.requires_grad and module.frozen.bias.requires_grad and not module.frozen.training
    module.again(torch.randn(4, 6)), module.inside(torch.randn(4, 6))
    assert hooked == [1, 1] and module.first.num_batches_tracked == 2
    twin = copy.deepcopy(module)
    assert twin.first is twin.again is not module.first


@pytest.mark.parametrize("way", WAYS)
def test_a_norm_that_holds_an_activation_is_split_too(way, monkeypatch):
    norm_act = pytest.importorskip("timm").layers.BatchNormAct2d
    monkeypatch.setattr(SplitBatchNorm, "_one_by_one", getattr(SplitBatchNorm, way))
    holder, x = nn.Sequential(norm_act(6, act_layer=nn.SiLU)), torch.randn(8, 6, 3, 3)
    plain = copy.deepcopy(holder[0])
    split_batch_norm(holder, 2)
    assert isinstance(holder[0], SplitBatchNorm) and holder.state_dict().keys() == {
        f"0.{k}" for k in plain.state_dict()
    }
    out, groups = holder(x), [copy.deepcopy(plain) for _ in range(2)]
    for group, index in zip(groups, torch.arange(8).chunk(2)):
        assert torch.allclose(out[index], group(x[index]), atol=1e-6)
    assert torch.allclose(holder[0].running_mean, sum(g.running_mean for g in groups) / 2)
    plain.load_state_dict(holder[0].state_dict())
    assert torch.equal(holder.eval()(x), plain.eval()(x))


def test_a_model_of_such_norms_trains_in_groups():
    model = MoCo(timm_backbone("mobilenetv3_small_050"), splits=2, feature_dim=4, m=8, temperature=0.1, momentum=0.9)
    loss = model(torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.arange(4))
    loss.backward()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert loss.isfinite() and norms and all(isinstance(m, SplitBatchNorm) and m.splits == 2 for m in norms)


class Odd(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    "norm, reason",
    [
        (Odd(4), "Odd, which does more than BatchNorm"),
        (nn.SyncBatchNorm(4), "SyncBatchNorm, which does more"),
        (nn.BatchNorm2d(4, track_running_stats=False), "BatchNorm2d, which has no moving averages"),
        (nn.BatchNorm2d(4, momentum=None), "BatchNorm2d, which has no moving averages"),
    ],
)
def test_a_norm_that_cannot_be_split_is_named(norm: nn.Module, reason: str):
    with pytest.raises(UserError, match=f"method.splits=2 cannot split this model's {reason}.*: give method.splits=1"):
        split_batch_norm(nn.Sequential(norm), 2)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    """A group of one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 3, 2)])
def test_statistics_over_ranks_are_those_of_batchnorm_where_there_is_one(
    group: dist.ProcessGroup, shape: tuple[int, ...], affine: bool
) -> None:
    """tests/training/test_ranks.py has several."""
    ours = SplitBatchNorm(4, 1).double()
    if not affine:
        ours.weight, ours.bias, ours.affine = None, None, False
    ours.shared = group
    plain = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(4, affine=affine).double()
    x, weights = torch.randn(*shape, dtype=torch.float64) + 3, torch.randn(*shape, dtype=torch.float64)
    found = []
    for norm in (ours, plain):
        given = x.clone().requires_grad_()
        y = norm(given)
        (y * weights).sum().backward()
        found.append([y, given.grad, *(p.grad for p in norm.parameters()), norm.running_mean, norm.running_var])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert ours.num_batches_tracked == 1


def test_statistics_over_ranks_keep_the_type_and_the_layout(group: dist.ProcessGroup) -> None:
    ours = SplitBatchNorm(4, 1)
    ours.shared = group
    x = torch.randn(8, 4, 3, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    y = ours(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.float(), nn.BatchNorm2d(4)(x.float()), rtol=0.02, atol=0.02)
