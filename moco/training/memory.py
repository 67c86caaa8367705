"""Sizes that cannot fit into memory, refused with what they would take before anything of them is allocated."""

import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from moco.config.schema import Config, Data
from moco.data.packed_images import PackedImages
from moco.errors import UserError
from moco.ranks import rank, ranks

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of this process's control group
EVALUATED = 500  # images at a time in evaluation, see moco.evaluation.features


class Large(NamedTuple):
    """A tensor of float32 whose size the settings decide."""

    what: str
    shape: tuple[int, ...]
    settings: str
    copies: int = 1  # that are in memory at the same time

    @property
    def gigabytes(self) -> float:
        return 4 * self.copies * math.prod(self.shape) / 1e9

    def __str__(self) -> str:
        return f"{self.what} {list(self.shape)} takes {self.gigabytes:,.1f} GB ({self.settings})"


def refuse(tensors: list[Large], device: torch.device) -> None:
    """Refuses tensors that together cannot be held.

    Raises:
        UserError: it names those that take more than a tenth of the memory.
    """
    there = total_memory(device) / 1e9
    if sum(tensor.gigabytes for tensor in tensors) > there:
        largest = [str(tensor) for tensor in tensors if tensor.gigabytes > 0.1 * there]
        raise UserError(f"{'; '.join(largest)}: more than the {there:.1f} GB of {device}, give less")


def views_and_backbone(config: Config, side: int) -> list[Large]:
    """The images of a step and of an evaluation, and the weights of a SmallResNet.

    Args:
        side: of the data set's images, in pixels.
    """
    size, eval_size = config.augment.size or side, config.augment.eval_size or side
    widths = config.model.widths or []
    return [
        *(
            Large("a convolution", (b, a, 3, 3), "model.widths", copies=2)  # with its gradient
            for pair in zip(widths[:1] + widths, widths)
            for a, b in (pair, pair[1:] * 2)
        ),
        Large(
            "a view of each image of a step", (config.batch_size // ranks(), 3, size, size), "batch_size, augment.size"
        ),
        Large("the images of a step of evaluation", (EVALUATED, 3, eval_size, eval_size), "augment.eval_size"),
    ]


def heads_and_memories(config: Config, num_features: int, images: int) -> list[Large]:
    """What a method of this project adds to its backbone, as a lower bound.

    Args:
        images: how many there are for training.
    """
    method, batch = config.method, config.batch_size // ranks()
    dim, m = config.feature_dim or num_features, config.m or 0
    widths = [num_features, *[method.hidden_dim or num_features] * ((method.head_layers or 1) - 1), dim]
    found = [
        Large("a layer of the projection head", pair, "method.hidden_dim, feature_dim", copies=2)  # with its gradient
        for pair in zip(widths, widths[1:])
    ]
    if method.name == "moco":
        found.append(Large("the queue", (m, dim), "m, feature_dim", copies=2))  # the backward pass keeps it as it was
        found.append(Large("the logits", (batch, m + 1), "batch_size, m", copies=2))
    if method.name == "npid":
        found.append(Large("the memory bank", (images, dim), "feature_dim", copies=2))
        found.append(Large("the scores", (batch, images), "batch_size", copies=2))
    return found


def on_device(section: Data, images: Sequence[PackedImages], others: list[Large], device: torch.device) -> bool:
    """Whether packed images are to be in the device's memory, as data.storage asks for it.

    `auto` puts them there where they take at most half of it beside the other tensors: the rest is for training.

    Raises:
        UserError: data.storage=device, and they take more than there is.
    """
    if section.storage == "disk" or section.packed == "jpeg":
        return False
    needed = sum(part.nbytes for part in images) / 1e9
    there, beside = total_memory(device) / 1e9, sum(tensor.gigabytes for tensor in others)
    if section.storage == "device" and needed + beside > there:
        raise UserError(
            f"data={section.name} takes {needed:,.1f} GB as pixels: more than the {there:.1f} GB of {device}, leave "
            "data.storage out"
        )
    if section.storage == "device" or needed <= there / 2 - beside:
        return True
    if rank() == 0:
        said = f"data={section.name} takes {needed:,.1f} GB as pixels, and {device} has {there:.1f}"
        print(f"{said}: it is read from disk at every step", file=sys.stderr, flush=True)
    return False


def total_memory(device: torch.device) -> int:
    """Of the device, or of this machine or its control group, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():  # and not "max"
            limits.append(int(text))
    return min(limits)


@contextmanager
def allocating(what: str) -> Iterator[None]:
    """Names what is too large where the memory for it is refused within the context.

    Raises:
        UserError: memory on the CPU is refused; torch's allocator has no error of its own for that.
    """
    try:
        yield
    except MemoryError as error:  # numpy's and Pillow's
        raise UserError(f"{what} does not fit into memory ({' '.join(str(error).split())}): give less") from error
    except (RuntimeError, OverflowError) as error:
        text = " ".join(str(error).split())
        if bytes_ := re.search(r"you tried to allocate (\d+) bytes", text):
            raise UserError(
                f"{what} takes {int(bytes_[1]) / 1e9:,.1f} GB at once, which is not there: give less"
            ) from error
        if isinstance(error, OverflowError) or "overflow" in text:
            raise UserError(f"{what} is too large to count ({text[:120]}): give less") from error
        raise
