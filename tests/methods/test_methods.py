"""What holds for every method: checkpoints, no waiting for the device, mixed precision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from references import METHODS, flat, flat_npid, slow_moco, slow_nt_xent, unit
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moco.methods import SimCLR
from moco.methods.moco import contrast


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
