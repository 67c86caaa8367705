"""Images that stay on disk: rows of a pack, read and decoded by threads, ahead of the step that needs them."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.data.pack import Pack

TOGETHER = 8  # images that a thread takes at a time


class PackedImages:
    """N images of a pack, of one size or of several; an index gives others of them and reads nothing.

    Attributes:
        rows: which of the pack, int64 [N].
        device: where their pixels go.
    """

    def __init__(self, pack: Pack, rows: NDArray[np.int64] | None = None, device: torch.device | None = None):
        self.pack, self.device = pack, device or torch.device("cpu")
        self.rows: NDArray[np.int64] = np.arange(len(pack)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> "PackedImages":
        """Those of a slice, a mask bool [N] or an index int64 [M]."""
        return PackedImages(self.pack, self.rows[_as_numpy(index)], self.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W), or (N, 3) where images have several sizes."""
        return (len(self), 3, *(self.pack.side or ()))

    @property
    def side(self) -> int:
        """The longest of all heights and widths."""
        return int(self.pack.sizes[self.rows].max(initial=1))

    @property
    def largest(self) -> int:
        """Bytes that an image takes in a batch at most, where it is padded to the highest and the widest."""
        height, width = self.pack.sizes[self.rows].max(0, initial=1)
        return int(3 * height * width)

    @property
    def nbytes(self) -> int:
        """Of the pixels."""
        return int(3 * self.pack.sizes[self.rows].prod(1).sum())

    def to(self, device: torch.device) -> "PackedImages":
        """The same, still on disk, with pixels that go to that device."""
        return PackedImages(self.pack, self.rows, device)

    def loaded(self) -> Tensor:
        """All pixels, on the device, uint8 [N, 3, H, W]; on the CPU those of a whole pack are the file's own pages.

        Raises:
            UserError: an image cannot be read.
        """
        assert self.pack.side
        if self.device.type == "cpu" and len(self) and np.array_equal(np.diff(self.rows), np.ones(len(self) - 1)):
            if (whole := self.pack.mapped) is not None:
                return whole[self.rows[0] : self.rows[-1] + 1]
        found = torch.empty(self.shape, dtype=torch.uint8, device=self.device)
        for start in range(0, len(self), 1000):
            some = slice(start, start + 1000)
            found[some] = self[some].to(torch.device("cpu")).fetch(slice(None))[0]()
        return found

    def sums(self) -> Tensor:
        """Of the values of all images' channels, and of their squares, int64 [2, 3]."""
        return torch.from_numpy(self.pack.sums()[self.rows].sum(0)).view(2, 3)

    def contents(self) -> list[Tensor]:
        """What tells these images from others: checksums and sizes of them."""
        crcs = torch.from_numpy(self.pack.crcs[self.rows].astype(np.int64))
        return [crcs, torch.from_numpy(self.pack.sizes[self.rows])]

    def sizes_of(self, rows: slice | Tensor) -> Tensor | None:
        """Height and width of these rows, int64 [B, 2] on the device; None where all have one."""
        if self.pack.side:
            return None
        sizes = torch.from_numpy(self.pack.sizes[self.rows[_as_numpy(rows)]])
        return _sent(sizes, self.device)

    def fetch(self, rows: slice | Tensor) -> tuple[Callable[[], Tensor], Tensor | None]:
        """Begins to read these rows. What waits for their pixels, uint8 [B, 3, H, W] on the device, and their sizes.

        Raises:
            UserError: (by what waits) an image cannot be read.
        """
        chosen = self.rows[_as_numpy(rows)]
        pinned = self.device.type == "cuda"
        several = self.pack.side is None
        height, width = self.pack.sizes[chosen].max(0, initial=1)
        shape = (len(chosen), height, width, 3) if several else (len(chosen), 3, height, width)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        target = pixels.numpy()

        def fill(start: int) -> None:
            for i in range(start, min(start + TOGETHER, len(chosen))):
                row = int(chosen[i])
                if several:
                    h, w = self.pack.sizes[row]
                    self.pack.read_into(row, target[i, :h, :w])
                    target[i, h:], target[i, :h, w:] = 0, 0
                else:
                    self.pack.read_into(row, target[i])

        parts = [pool().submit(fill, start) for start in range(0, len(chosen), TOGETHER)]
        x = pixels.permute(0, 3, 1, 2) if several else pixels
        wait = _waits_on_cuda if pinned else _waits
        return wait(parts, x, self.device), self.sizes_of(rows)


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads that read images, which all data sets of this process share."""
    return ThreadPoolExecutor(threads(), "images")


def threads() -> int:
    """As many as this process has cores: of those of the machine its share, as launchers tell it."""
    known = hasattr(os, "sched_getaffinity")  # not on a Mac
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, cores // local) if local > 1 else max(1, min(cores, torch.get_num_threads()))


def _as_numpy(index: slice | Tensor) -> slice | NDArray[np.int64]:
    return index if isinstance(index, slice) else index.cpu().numpy()


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """On the device; the host does not wait."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _waits(parts: list[Future[None]], x: Tensor, device: torch.device) -> Callable[[], Tensor]:
    def wait() -> Tensor:
        for part in parts:
            part.result()
        return x.to(device)

    return wait


def _waits_on_cuda(parts: list[Future[None]], x: Tensor, device: torch.device) -> Callable[[], Tensor]:
    """The copy to the device begins as soon as the pixels are there, beside the computation."""

    def send() -> tuple[Tensor, torch.cuda.Event]:
        for part in parts:  # which are all before this one in the pool's order, and wait for nothing
            part.result()
        with torch.cuda.stream(_stream(device)):
            sent = x.to(device, non_blocking=True).contiguous()
            event = torch.cuda.Event()
            event.record()
        return sent, event

    sending = pool().submit(send)

    def wait() -> Tensor:
        sent, event = sending.result()
        now = torch.cuda.current_stream(device)
        now.wait_event(event)
        sent.record_stream(now)
        return sent

    return wait


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """On which images are copied to the device."""
    return torch.cuda.Stream(device)
