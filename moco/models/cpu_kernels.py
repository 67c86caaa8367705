"""Convolutions that torch's CPU kernels compute wrongly, found when a model is built and kept away from those kernels.

Two faults of the kernels (seen with torch 2.14 on CPUs with AVX-512):

- bf16: a convolution with a stride whose kernel is so large for its map that some taps never meet a pixel leaves the gradient
  of these taps unset, so that training reads whatever was in the memory. In fp32 it is zero, as it should be.
- channels_last: the weight gradient of a 1x1 convolution with a stride and fewer than 16 input channels writes beyond its
  memory. Without a stride, on the pixels that the stride would pick, it is right.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moco.models.modes import eval_mode

FEW_CHANNELS = 16


class Call(NamedTuple):
    """One convolution of a forward pass: its module's name, and what it was called with."""

    module: str
    size: tuple[int, ...]  # of the map, (height, width)
    weight: tuple[int, ...]  # [out, in / groups, height, width]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def has_idle_taps(self) -> bool:
        """Whether some tap of the kernel never meets a pixel of the map."""
        geometry = zip(self.size, self.weight[2:], self.stride, self.padding, self.dilation)
        return any(_idle(*axis) for axis in geometry)

    @property
    def is_thin_and_pointwise(self) -> bool:
        return max(self.weight[2:]) == 1 and self.weight[1] < FEW_CHANNELS and not any(self.padding)


def _idle(size: int, taps: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether along one axis some tap falls into the padding at every position of the kernel."""
    positions = range((size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1)
    return not all(any(0 <= p * stride - padding + t * dilation < size for p in positions) for t in range(taps))


def guard_convolutions(model: nn.Module, sides: Sequence[int], *, bf16: bool) -> str:
    """Makes the convolutions that a CPU would compute wrongly safe, all others stay as they are.

    Args:
        model: images [B, 3, side, side] -> features; its layout is channels_last.
        sides: of the views that it will be trained on, in pixels.
        bf16: whether forward passes run under bf16 autocast.

    Returns:
        A line that says which convolutions are computed how; empty where there are none.
    """
    strided = [call for side in sides for call in calls(model, side) if max(call.stride) > 1]
    idle = dict.fromkeys(call.module for call in strided if bf16 and call.has_idle_taps)
    thin = dict.fromkeys(call.module for call in strided if call.is_thin_and_pointwise)
    for name in thin:
        module = model.get_submodule(name)
        module.picked, module.stride = module.stride, (1, 1)  # type: ignore[assignment]
        _become(module, _OnPickedPixels)
    for name in idle:
        _become(model.get_submodule(name), _InFullPrecision)
    said = []
    if idle:
        said.append(f"in fp32, as this CPU's bf16 leaves parts of their gradients unset: {', '.join(idle)}")
    if thin:
        said.append(f"on the pixels that their stride picks, as this CPU writes beyond their memory: {', '.join(thin)}")
    return f"some convolutions are computed {'; and '.join(said)}" if said else ""


def _become(module: nn.Module, guard: type) -> None:
    """Changes the class and not the instance's forward, so that copies and state dicts stay what they are."""
    module.__class__ = type(f"Guarded{type(module).__name__}", (guard, type(module)), {})


if TYPE_CHECKING:
    Mixed = nn.Module
else:
    Mixed = object


class _InFullPrecision(Mixed):
    """Computes a module in fp32 under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = super().forward(x.float())
            return out


class _OnPickedPixels(Mixed):
    """A 1x1 convolution with its stride taken first: the same products of the same numbers."""

    picked: tuple[int, int]  # the stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.picked
        out: Tensor = super().forward(x[:, :, ::height, ::width])
        return out


def calls(model: nn.Module, side: int) -> list[Call]:
    """The 2-d convolutions of a forward pass of one image, in order; the model stays as it was."""
    with _names(model) as stack, eval_mode(model), torch.no_grad(), _Recorder(stack) as recorder:
        model(torch.zeros(1, 3, side, side))
    found: list[Call] = recorder.found
    return found


class _Recorder(TorchDispatchMode):
    """Notes each convolution under the module that is being called."""

    def __init__(self, stack: Sequence[str]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack, self.found = stack, list[Call]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is torch.ops.aten.convolution.default and args[0].dim() == 4:
            x, weight, _, stride, padding, dilation = args[:6]
            size, shape = tuple(x.shape[2:]), tuple(weight.shape)
            self.found.append(Call(self.stack[-1], size, shape, tuple(stride), tuple(padding), tuple(dilation)))
        return function(*args, **(kwargs or {}))


@contextmanager
def _names(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are being called, outermost first, while the context lasts."""
    stack = [""]
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda m, inputs, name=name: stack.append(name)))
            handles.append(module.register_forward_hook(lambda m, inputs, out: stack.pop() and None))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
