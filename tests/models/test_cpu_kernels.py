"""Convolutions that torch's CPU kernels compute wrongly are found and kept away from them; bit for bit holds for every model.

Each check of gradients runs in a process of its own: what writes beyond its memory ends the process.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from moco.models import SmallResNet, timm_backbone, torchvision_resnet
from moco.models.cpu_kernels import Call, calls, guard_convolutions
from moco.models.modes import channels_last

SIDES = (8, 24, 48, 96)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "small": SmallResNet,
    "small, stem_stride=1": lambda: SmallResNet(stem_stride=1),
    "small, thin": lambda: SmallResNet([8, 16], stem_stride=1),
    "resnet18": lambda: torchvision_resnet("resnet18", "cifar"),
    "resnet18, imagenet": lambda: torchvision_resnet("resnet18", "imagenet"),
    "resnet34": lambda: torchvision_resnet("resnet34", "cifar"),
    "resnet50": lambda: torchvision_resnet("resnet50", "cifar"),
    "timm": lambda: timm_backbone("resnet10t"),
    "timm, repvgg": lambda: timm_backbone("repvgg_a0"),
}


def gradients(name: str, side: int, *, bf16: bool) -> list[Tensor]:
    """The gradients of a step of the guarded model, in memory that held NaN before."""
    torch.manual_seed(0)
    model = channels_last(MODELS[name]())
    guard_convolutions(model, [side], bf16=bf16)
    images = torch.randn(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    kinds = (torch.float32, torch.bfloat16)
    poison = [torch.full_like(p, torch.nan, dtype=kind) for p in model.parameters() for kind in kinds for _ in range(2)]
    del poison
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = model(images)
    out.float().pow(2).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def check(name: str) -> dict[str, list[int]]:
    """The sides at which two steps of a model differ or are not finite, in each precision."""
    torch.set_num_threads(1)
    wrong: dict[str, list[int]] = {"bf16": [], "fp32": []}
    for precision, sides in wrong.items():
        for side in SIDES if not name.startswith("resnet") else SIDES[:2]:
            one, other = (gradients(name, side, bf16=precision == "bf16") for _ in range(2))
            if not all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(one, other)):
                sides.append(side)
    return wrong


@pytest.mark.parametrize("name", MODELS)
def test_two_steps_of_every_model_are_equal_bit_for_bit_at_every_size(name: str) -> None:
    code = f"import json; from test_cpu_kernels import check; print(json.dumps(check({name!r})))"
    folder = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"bf16": [], "fp32": []}


@pytest.mark.parametrize(
    "size, taps, stride, padding",
    [(s, k, t, p) for s in (1, 2, 3, 5) for k in (1, 3, 5) for t in (1, 2, 3) for p in (0, 1, 2)],
)
def test_idle_taps_are_those_whose_gradient_is_zero(size: int, taps: int, stride: int, padding: int) -> None:
    """In float64 and contiguous, where the kernels are right: a tap that meets no pixel gets no gradient."""
    if size + 2 * padding < taps:
        return
    conv = nn.Conv2d(1, 1, taps, stride, padding, bias=False).double()
    conv(torch.rand(1, 1, size, size, dtype=torch.float64) + 1).sum().backward()
    call = Call("", (size, size), (1, 1, taps, taps), (stride,) * 2, (padding,) * 2, (1, 1))
    assert call.has_idle_taps == bool((conv.weight.grad == 0).any())


def test_the_rest_of_the_model_stays_as_it_was() -> None:
    model = channels_last(SmallResNet([16, 32, 64], stem_stride=2))
    before, state = copy.deepcopy(model).eval(), {name: p.clone() for name, p in model.state_dict().items()}
    kinds = {name: type(m) for name, m in model.named_modules()}
    said = guard_convolutions(model, [4], bf16=True)
    changed = [name for name, m in model.named_modules() if type(m) is not kinds[name]]
    assert changed == ["stages.4.conv1", "stages.5.conv1"]
    assert said.startswith("some convolutions are computed in fp32") and said.endswith(f": {', '.join(changed)}")
    assert isinstance(model.get_submodule("stages.5.conv1"), nn.Conv2d)
    assert model.training and all(torch.equal(p, state[name]) for name, p in model.state_dict().items())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), before(x))
    assert guard_convolutions(channels_last(SmallResNet()), [32], bf16=True) == ""


def test_calls_are_named_after_the_module_that_makes_them() -> None:
    found = calls(torchvision_resnet("resnet18", "cifar"), 32)
    assert len(found) == 20 and found[0].module == "conv1" and found[0].size == (32, 32)
    assert [call.module for call in found if max(call.stride) > 1] == [
        f"layer{i}.0.{part}" for i in (2, 3, 4) for part in ("conv1", "downsample.0")
    ]


def test_a_stride_taken_first_is_the_stride() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.Conv2d(8, 8, 3, 2, 1)).double()
    plain, x = copy.deepcopy(model), torch.randn(2, 3, 17, 17, dtype=torch.float64, requires_grad=True)
    said = guard_convolutions(model.float(), [17], bf16=False)
    assert said.startswith("some convolutions are computed on the pixels that their stride picks") and said.endswith(
        ": 0"
    )
    out, expected = model.double()(x), plain(x)
    torch.testing.assert_close(out, expected)
    [gradient], [other] = (torch.autograd.grad(y.pow(2).sum(), [x]) for y in (out, expected))
    torch.testing.assert_close(gradient, other)
