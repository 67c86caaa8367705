"""A step whose network takes the images in pieces is the step that takes them at once, and needs less memory."""

import copy

import pytest
import torch
from references import METHODS, ConvNet, Flat
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from moco.errors import UserError
from moco.methods import SimCLR
from moco.models.pieces import take_in_pieces

IMAGES = 12
GROUPS = {"moco": 3, "moco-symmetric": 6, "simclr-split": 3, "barlow_twins-split": 6, "npid-split": 6}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def in_pieces(method: nn.Module, images: int, batch: int = IMAGES, group: int = 1) -> nn.Module:
    """A copy of the method whose networks take that many images at a time."""
    other = copy.deepcopy(method)
    for name, part in other.named_children():
        if name.endswith("encoder"):
            take_in_pieces(part, images, batch=batch, group=group)
    return other


def steps(method: nn.Module, n: int) -> list[Tensor]:
    """The losses of n steps; with everything float64 where Tensor.float does nothing."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(n):
        torch.manual_seed(step)
        x, index = torch.randn(2, IMAGES, 3, 8, 8, dtype=torch.float64), torch.randperm(20)[:IMAGES]
        losses.append(method(*x, index))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("name, images", [*GROUPS.items(), ("moco", 9), ("simclr-split", 9)])
def test_a_step_in_pieces_is_the_same_step(name: str, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two steps: losses, weights, gradients, statistics of BatchNorm, queue and bank."""
    monkeypatch.setattr(Tensor, "float", lambda x: x)  # losses are float32 otherwise
    whole = METHODS[name]().double()
    parts = in_pieces(whole, images, group=GROUPS[name])
    assert type(parts.encoder).__name__ == "ConvNetInPieces" and isinstance(parts.encoder, ConvNet)
    losses, others = steps(whole, 2), steps(parts, 2)
    assert torch.allclose(torch.stack(others), torch.stack(losses), rtol=1e-12, atol=0)
    state = parts.state_dict()
    assert state.keys() == whole.state_dict().keys()
    for key, expected in whole.state_dict().items():
        assert torch.allclose(state[key], expected, rtol=1e-12, atol=1e-12), key
    for (key, p), q in zip(whole.named_parameters(), parts.parameters()):
        assert q.grad is None if p.grad is None else torch.allclose(q.grad, p.grad, rtol=1e-12, atol=1e-12), key
    norm = parts.encoder[1]
    assert norm.num_batches_tracked == {"moco-symmetric": 4, "barlow_twins-split": 4}.get(name, 2)
    assert norm.splits == IMAGES // GROUPS[name]


def test_a_network_without_batch_norm_takes_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda x: x)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten())
    encoder.num_features = 4 * 6 * 6
    whole = SimCLR(encoder, feature_dim=4, temperature=0.5, head_norm=True).double()
    parts = in_pieces(whole, 5, group=IMAGES)
    losses, others = steps(whole, 2), steps(parts, 2)
    assert torch.allclose(torch.stack(others), torch.stack(losses), rtol=1e-12, atol=0)


def test_evaluation_takes_images_at_once() -> None:
    calls: list[int] = []
    network = Flat(4)
    network.register_forward_hook(lambda module, inputs, out: calls.append(len(out)))
    take_in_pieces(network, 2, batch=8, group=1)
    network(torch.randn(16, 4)), network.eval()(torch.randn(16, 4))
    assert calls == [4, 4, 4, 4, 16]  # two views of two images at a time


def test_a_piece_that_holds_the_batch_changes_nothing() -> None:
    network = ConvNet()
    take_in_pieces(network, 8, batch=8, group=64)
    assert type(network) is ConvNet


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it, at the moment when there are most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize("name", ["moco", "simclr-split"])
def test_pieces_take_less_memory(name: str) -> None:
    whole, x = METHODS[name](), torch.randn(2, 16, 3, 16, 16)
    peaks = []
    for method in (whole, in_pieces(whole, 4, batch=16, group=4)):
        with Memory() as memory:
            method(*x, None).backward()
        peaks.append(memory.peak)
    assert peaks[1] < 0.45 * peaks[0]


@pytest.mark.parametrize(
    "network, images, reason",
    [
        (ConvNet(), 4, "micro_batch=4 is not a multiple of 16, the images over which BatchNorm takes statistics"),
        (
            nn.Sequential(nn.Flatten(), nn.Dropout(0.1)),
            4,
            r"what the model's 1 \(Dropout\) draws at random: leave it out",
        ),
    ],
)
def test_pieces_that_would_change_the_result_are_refused(network: nn.Module, images: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        take_in_pieces(network, images, batch=16, group=16)


def test_a_compiled_network_takes_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda x: x)
    whole = METHODS["moco"]().double()
    parts = in_pieces(whole, 3, group=3)
    for encoder in (parts.encoder, parts.key_encoder):
        encoder.compile(backend="eager")  # traced and run by torch.compile, without minutes of generating code
    losses, others = steps(whole, 2), steps(parts, 2)
    assert torch.allclose(torch.stack(others), torch.stack(losses), rtol=1e-12, atol=0)
    assert torch.allclose(parts.encoder[1].running_var, whole.encoder[1].running_var, rtol=1e-12)
