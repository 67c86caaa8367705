"""MoCo: the loss against a slow loop and closed forms, the queue against a deque, the key network."""

import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from references import METHODS, ConvNet, flat_moco, slow_moco, unit
from torch import nn

from moco.methods import MoCo
from moco.methods.moco import shuffle
from moco.methods.split_batchnorm import SplitBatchNorm


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# The loss and the queue


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


# The key network


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


# The shuffle


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shuffle_changes_nothing_but_the_groups(layout):
    model, x = METHODS["moco-symmetric"](), torch.randn(16, 3, 8, 8).to(memory_format=layout)
    norms = [n for n in model.modules() if isinstance(n, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 6 and all(isinstance(n, SplitBatchNorm) and n.splits == 2 for n in norms)
    assert not torch.allclose(model.keys(x, shuffle(x)), model.keys(x, shuffle(x)), atol=1e-4)  # other groups each time
    for norm in norms:
        norm.splits = 1
    plain = F.normalize(model.key_head(model.key_encoder(x)), dim=1)
    assert torch.allclose(model.keys(x, shuffle(x)), plain, atol=1e-5)


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
