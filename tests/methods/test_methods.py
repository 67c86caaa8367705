"""The methods' numbers, against slow loops in float64 and closed forms."""

import copy
import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moco.methods.moco import MoCo, SplitBatchNorm, contrast, split_batch_norm
from moco.methods.npid import NPID
from moco.methods.simclr import SimCLR
from moco.models.heads import projection_head


class Flat(nn.Flatten):
    """Images that are their own features."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features


class ConvNet(nn.Sequential):
    num_features = 8

    def __init__(self):
        convs = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
        super().__init__(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def flat(method, dim, **settings):
    """A method whose features are its images: no backbone, and the identity for a head."""
    model = method(Flat(dim), feature_dim=dim, **settings)
    for head in (model.head, getattr(model, "key_head", model.head)):
        nn.init.eye_(head.weight), nn.init.zeros_(head.bias)
    return model


def flat_moco(dim, m, temperature=0.1, **settings):
    return flat(MoCo, dim, **{"m": m, "temperature": temperature, "momentum": 0.99, "splits": 1} | settings)


def flat_npid(dim, num_images, m, temperature=0.1, momentum=0.5):
    return flat(NPID, dim, num_images=num_images, m=m, temperature=temperature, momentum=momentum)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=1)


METHODS = {
    "moco": lambda: MoCo(ConvNet(), feature_dim=4, m=12, temperature=0.1, momentum=0.9, splits=4),
    "moco-symmetric": lambda: MoCo(
        ConvNet(),
        feature_dim=4,
        m=5,
        temperature=0.1,
        momentum=0.9,
        momentum_end=1.0,
        steps=4,
        symmetric=True,
        splits=2,
        head_layers=2,
        head_norm=True,
    ),
    "simclr": lambda: SimCLR(ConvNet(), feature_dim=4, temperature=0.5, head_norm=True),
    "npid": lambda: NPID(ConvNet(), num_images=20, feature_dim=4, m=6, temperature=0.1, momentum=0.5),
    "npid-softmax": lambda: NPID(ConvNet(), num_images=20, feature_dim=4, m=0, temperature=0.1, momentum=0.5),
}


# Heads


def test_heads():
    assert isinstance(projection_head(8, 4), nn.Linear)
    assert [p.shape for p in projection_head(8, 4, layers=2).parameters()] == [(8, 8), (8,), (4, 8), (4,)]
    seed_head = projection_head(2048, 128, layers=2, hidden_dim=512, norm=True)
    # No bias before BatchNorm: 24.62 M parameters together with the 23.50 M of a ResNet-50.
    assert sum(p.numel() for p in seed_head.parameters()) == 2048 * 512 + 2 * 512 + 512 * 128 + 128
    assert seed_head(torch.randn(5, 2048)).shape == (5, 128)
    with pytest.raises(ValueError, match="choose 1"):
        projection_head(8, 4, layers=3)
    for settings in ({"norm": True}, {"hidden_dim": 4}):
        with pytest.raises(ValueError, match="set layers=2"):
            projection_head(8, 4, **settings)


# MoCo: the loss and the queue


def slow_moco(q, k, queue, temperature):
    """Eq. 1, a query at a time."""
    q, k, queue = (F.normalize(t.detach().double(), dim=1) for t in (q, k, queue))
    losses = []
    for i in range(len(q)):
        positive = math.exp(float(q[i] @ k[i]) / temperature)
        negatives = sum(math.exp(float(q[i] @ row) / temperature) for row in queue)
        losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def test_moco_loss_of_collapsed_features():
    model, x = flat_moco(8, 4096), torch.ones(6, 8)
    model.queue.copy_(F.normalize(torch.ones(4096, 8), dim=1))
    assert model(x, x, None).item() == pytest.approx(8.31801, abs=2e-5)  # log(m + 1)


def test_moco_loss_with_a_fresh_queue():
    x = unit(1024, 128)
    assert flat_moco(128, 4096)(x, x, None).item() == pytest.approx(0.243, abs=0.01)
    assert flat_moco(128, 4096)(x, unit(1024, 128), None).item() == pytest.approx(8.71, abs=0.1)


def test_moco_loss_with_one_negative():
    x = unit(1, 8)
    model = flat_moco(8, 1)
    model.queue.copy_(x)
    assert model(x, x, None).item() == pytest.approx(0.693147, abs=5e-6)
    model.queue.copy_(-x)  # had the key gone in before the loss, this would be log 2 too
    assert model(x, x, None).item() == pytest.approx(math.log1p(math.exp(-2 / 0.1)), abs=1e-6)
    assert torch.allclose(model.queue, x)


@pytest.mark.parametrize("symmetric", [False, True])
def test_moco_loss_is_taken_against_the_queue_before_the_step(symmetric):
    model = flat_moco(6, 7, temperature=0.2, symmetric=symmetric)
    for _ in range(3):
        before, x1, x2 = model.queue.clone(), torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
        oldest = int(model.position)
        loss = model(x1, x2, None)
        loss.backward()  # in place changes of what backward needs would raise here
        expected = slow_moco(x1, x2, before, 0.2) + symmetric * slow_moco(x2, x1, before, 0.2)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        keys = F.normalize(torch.cat([x1, x2]) if symmetric else x2, dim=1)
        after = torch.cat([before.roll(-oldest, 0), keys])[-7:]
        assert torch.allclose(model.queue.roll(-int(model.position), 0), after, atol=1e-6)


def test_moco_queue_is_a_deque():
    model = flat_moco(3, 13)
    expected = deque(model.queue.clone(), maxlen=13)
    for size in torch.randint(1, 40, (1000,)).tolist():
        keys = unit(size, 3)
        model.enqueue(keys)
        expected.extend(keys)
        assert torch.equal(model.queue.roll(-int(model.position), 0), torch.stack(list(expected)))


# MoCo: the key network


def test_moco_ema_closed_form():
    model = MoCo(ConvNet(), feature_dim=4, m=6, temperature=0.1, momentum=0.9, splits=1)
    params = dict(model.named_parameters())
    start = {n: p.clone() for n, p in params.items() if n.startswith("key_")}
    assert {n.split(".")[0] for n in start} == {"key_encoder", "key_head"} and len(start) == 10
    with torch.no_grad():
        for name, first in start.items():
            params[name.removeprefix("key_")].add_(torch.randn_like(first))
    for _ in range(7):
        model(*torch.randn(2, 4, 3, 8, 8), None).backward()
    for name, first in start.items():
        key, query = params[name], params[name.removeprefix("key_")]
        assert torch.allclose(key, 0.9**7 * first + (1 - 0.9**7) * query, atol=1e-6)
        assert key.grad is None and not key.requires_grad and query.grad is not None


def test_moco_keys_come_from_the_updated_network_with_statistics_of_its_own():
    model = MoCo(ConvNet(), feature_dim=4, m=4, temperature=0.1, momentum=0.0, splits=1)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(torch.randn_like(p))
    model.encoder[1].running_mean.fill_(1e6)
    x = torch.randn(4, 3, 8, 8)
    model(x, x, None)  # momentum 0: the keys' parameters are the queries', before the keys are made
    assert torch.allclose(model.queue, model.queries(x), atol=1e-6)
    assert model.key_encoder[1].running_mean.abs().max() < 100
    assert model.key_encoder[1].num_batches_tracked == 1


def test_moco_momentum_ramp():
    model = flat_moco(2, 4, momentum=0.9, momentum_end=1.0, steps=4)
    seen = []
    for _ in range(6):
        model.head.bias.data.zero_(), model.key_head.bias.data.fill_(1.0)
        model(*torch.randn(2, 2, 2), None)
        seen.append(model.key_head.bias[0].item())  # momentum * 1 + (1 - momentum) * 0
    quarter = 0.05 * math.cos(math.pi / 4)
    assert seen == pytest.approx([0.9, 0.95 - quarter, 0.95, 0.95 + quarter, 1.0, 1.0], abs=1e-6)


# MoCo: SplitBatchNorm and the shuffle


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shuffle_changes_nothing_but_the_groups(layout):
    model, x = METHODS["moco-symmetric"](), torch.randn(16, 3, 8, 8).to(memory_format=layout)
    norms = [n for n in model.modules() if isinstance(n, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 6 and all(isinstance(n, SplitBatchNorm) and n.splits == 2 for n in norms)
    assert not torch.allclose(model.keys(x), model.keys(x), atol=1e-4)  # other groups each time
    for norm in norms:
        norm.splits = 1
    plain = F.normalize(model.key_head(model.key_encoder(x)), dim=1)
    assert torch.allclose(model.keys(x), plain, atol=1e-5)


def test_moco_encoder_loads_into_a_plain_resnet():
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    def resnet():
        net = ResNet(BasicBlock, [1, 1, 1, 1])
        net.fc, net.num_features = nn.Identity(), 512
        return net

    model = MoCo(resnet(), feature_dim=4, m=4, temperature=0.1, momentum=0.9, splits=2)
    model(*torch.randn(2, 4, 3, 32, 32), None)
    plain, x = resnet(), torch.randn(2, 3, 32, 32)
    plain.load_state_dict(model.encoder.state_dict(), strict=True)
    assert torch.allclose(plain.eval()(x), model.eval().encoder(x))


# SimCLR


def slow_nt_xent(x1, x2, temperature):
    """Eq. 1 over both directions, a pair at a time, with the largest exponential taken out of the sum."""
    z = F.normalize(torch.cat([x1, x2]).detach().double(), dim=1)
    losses = []
    for i in range(len(z)):
        s = [float(z[i] @ z[k]) / temperature for k in range(len(z))]
        others = [s[k] for k in range(len(z)) if k != i]
        log_sum = max(others) + math.log(sum(math.exp(v - max(others)) for v in others))
        losses.append(log_sum - s[(i + len(x1)) % len(z)])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_simclr_loss(temperature):
    x1, x2 = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    loss = flat(SimCLR, 5, temperature=temperature, head_layers=1)(x1, x2, None)
    loss.backward()
    assert loss.item() == pytest.approx(slow_nt_xent(x1, x2, temperature), rel=1e-5)
    assert x1.grad.isfinite().all() and x2.grad.isfinite().all()


def test_simclr_loss_of_collapsed_features():
    x = torch.ones(6, 5)
    loss = flat(SimCLR, 5, temperature=0.01, head_layers=1)(x, x, None)
    assert loss.item() == pytest.approx(math.log(11), rel=1e-5)  # the 2B - 1 others, without itself


# NPID


def slow_npid(x, bank, rows, m, temperature, z):
    """Noise-contrastive estimation as the paper writes it (eq. 7): exponentials, and a product of probabilities."""
    f, bank = F.normalize(x.double(), dim=1), bank.double()
    losses = []
    for i in range(len(f)):
        p = [math.exp(float(f[i] @ bank[r]) / temperature) / z for r in rows[i].tolist()]
        noise = m / len(bank)
        losses.append(-math.log(p[0] / (p[0] + noise)) - sum(math.log(noise / (v + noise)) for v in p[1:]))
    return sum(losses) / len(losses)


def test_npid_loss_and_bank():
    model, index, z = flat_npid(5, 30, m=9, momentum=0.3), torch.tensor([7, 0, 29, 12]), None
    for step in range(3):
        bank, x = model.bank.clone(), torch.randn(4, 5)
        torch.manual_seed(step)
        rows = model.sample(index)
        if z is None:  # from the first batch alone: mean(exp) * num_images
            scores = torch.stack([bank[rows[i]].double() @ F.normalize(x[i].double(), dim=0) for i in range(4)]) / 0.1
            z = scores.exp().mean().item() * 30
        torch.manual_seed(step)
        loss = model(x, None, index)
        assert loss.item() == pytest.approx(slow_npid(x, bank, rows, 9, 0.1, z), rel=1e-5)
        assert model.log_z.exp().item() == pytest.approx(z, rel=1e-5)
        for i, row in enumerate(index.tolist()):
            bank[row] = F.normalize(0.3 * F.normalize(x[i], dim=0) + 0.7 * bank[row], dim=0)
        assert torch.allclose(model.bank, bank, atol=1e-6)  # and no other row


def test_npid_softmax_over_the_whole_bank():
    model, index, x = flat_npid(5, 30, m=0), torch.tensor([3, 28]), torch.randn(2, 5)
    scores = F.normalize(x.double(), dim=1) @ model.bank.clone().double().T / 0.1
    expected = -(scores[[0, 1], index].exp() / scores.exp().sum(1)).log().mean()
    assert model(x, None, index).item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.log_z == -torch.inf


@pytest.mark.parametrize("m", [0, 9])
def test_npid_is_finite_at_a_low_temperature(m):
    model = flat_npid(5, 30, m, temperature=0.005)  # exp(1 / 0.005) is more than a float32 holds
    for _ in range(2):
        x, index = torch.randn(4, 5, requires_grad=True), torch.arange(4)
        model.bank[index] = F.normalize(x.detach(), dim=1)
        loss = model(x, None, index)
        loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all()


def test_npid_samples_uniformly():
    model, index = flat_npid(2, 10, m=9), torch.arange(10).repeat(200)
    rows = model.sample(index)
    assert rows.shape == (2000, 10) and torch.equal(rows[:, 0], index)
    counts = rows[:, 1:].flatten().bincount(minlength=10)
    assert len(counts) == 10 and (counts - 1800).abs().max() < 5 * 1800**0.5


# All of them


@pytest.mark.parametrize("name", METHODS)
def test_state_dict_round_trip(name):
    model, index, x = METHODS[name](), torch.arange(8), torch.randn(3, 2, 8, 3, 8, 8)
    for x1, x2 in x[:2]:
        model(x1, x2, index)
    twin = METHODS[name]()
    twin.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    for n, t in model.state_dict().items():
        assert torch.equal(t, twin.state_dict()[n]), n
    losses = []
    for m in (model, twin):
        torch.manual_seed(1)
        losses.append(m(*x[2], index).item())
    assert losses[0] == losses[1]


def test_state_dict_holds_queue_and_bank():
    assert {"queue", "position", "step", "key_encoder.0.weight", "key_head.weight"} <= METHODS[
        "moco"
    ]().state_dict().keys()
    assert {"bank", "log_z"} <= METHODS["npid"]().state_dict().keys()


class NoHostSync(TorchDispatchMode):
    """Refuses what makes a host wait for its device: reading a number, and shapes that hang on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", METHODS)
def test_forward_reads_nothing_back(name):
    model, x = METHODS[name](), torch.randn(8, 3, 8, 8)
    with NoHostSync():
        model(x, x, torch.arange(8))
    with pytest.raises(AssertionError), NoHostSync():
        x.sum().item()


@pytest.mark.parametrize("name", METHODS)
def test_trains_under_bf16_autocast_with_channels_last(name):
    model = METHODS[name]().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = [p.clone() for p in model.encoder.parameters()]
    x = torch.randn(2, 8, 3, 8, 8)
    x1, x2 = (t.to(memory_format=torch.channels_last) for t in x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x1, x2 if model.views == 2 else None, torch.arange(8))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and loss.shape == ()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert any(p.grad.abs().max() > 0 for p in model.encoder.parameters())
    optimizer.step()
    assert not torch.equal(before[0], next(model.encoder.parameters()))
    for t in (getattr(model, "queue", None), getattr(model, "bank", None)):
        assert t is None or torch.allclose(t.norm(dim=1), torch.ones(len(t)), atol=1e-5)


def test_losses_are_float32_within_autocast():
    q, k, queue, index = unit(6, 5), unit(6, 5), unit(7, 5), torch.arange(6)
    simclr, npid = flat(SimCLR, 5, temperature=0.1, head_layers=1), flat_npid(5, 7, m=0)
    npid.bank.copy_(queue)
    simclr.head = npid.head = nn.Identity()  # a linear layer's bfloat16 would hide that of the loss
    expected = [slow_moco(q, k, queue, 0.1), slow_nt_xent(q, k, 0.1)]
    expected.append(F.cross_entropy(q.double() @ queue.double().T / 0.1, index).item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [contrast(q, k, queue, 0.1), simclr(q, k, index), npid(q, None, index)]
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "method, settings, remedy",
    [
        (flat_moco, {"dim": 4, "m": 0}, "m=0 must be at least 1"),
        (flat_moco, {"dim": 4, "m": 4, "temperature": 0.0}, "temperature=0.0 must be positive"),
        (flat_moco, {"dim": 4, "m": 4, "temperature": math.nan}, "temperature=nan must be positive"),
        (flat_moco, {"dim": 4, "m": 4, "momentum": 1.1}, r"momentum=1.1 must lie in \[0, 1\]"),
        (flat_moco, {"dim": 4, "m": 4, "momentum_end": -0.1, "steps": 9}, r"momentum_end=-0.1 must lie in \[0, 1\]"),
        (flat_moco, {"dim": 4, "m": 4, "momentum_end": 1.0}, "needs steps"),
        (flat_moco, {"dim": 4, "m": 4, "splits": 0}, "splits=0 must be at least 1"),
        (flat, {"method": SimCLR, "dim": 4, "temperature": -1.0}, "temperature=-1.0 must be positive"),
        (flat_npid, {"dim": 4, "num_images": 10, "m": 11}, "m=11 is more than the 10 training images: choose m <= 10"),
        (flat_npid, {"dim": 4, "num_images": 10, "m": -1}, "m=-1 must be 0"),
        (flat_npid, {"dim": 4, "num_images": 10, "m": 1, "momentum": -0.5}, r"momentum=-0.5 must lie in \[0, 1\]"),
        (flat_npid, {"dim": 4, "num_images": 10, "m": 1, "temperature": 0.0}, "temperature=0.0 must be positive"),
    ],
)
def test_refuses_what_cannot_work(method, settings, remedy):
    with pytest.raises(ValueError, match=remedy):
        method(**settings)


def test_moco_refuses_a_batch_that_does_not_split():
    x = torch.randn(6, 3, 8, 8)
    with pytest.raises(ValueError, match="multiple of 4, or splits=1"):
        METHODS["moco"]()(x, x, None)
