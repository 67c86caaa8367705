"""A pack: the images of a data set in one file, which is read piece by piece.

The file holds the images' bytes one after another, then the index (a record of each image, and a mapping with the classes),
then a footer. When it is opened, the footer's lengths and a hash of the index are checked, 123 MB for ImageNet. The bytes of an
image are checked by its crc32 when a process reads it for the first time, at 2 GB/s.
"""

import contextlib
import functools
import hashlib
import json
import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.data.decode import decode_jpeg
from moco.data.files import shown
from moco.errors import UserError

RECORD = np.dtype(
    [
        ("key", "V16"),  # of the file and of what was done with it, see moco.data.packing
        ("offset", "<i8"),
        ("length", "<i8"),
        ("height", "<i4"),
        ("width", "<i4"),
        ("label", "<i4"),
        ("crc", "<u4"),
        ("sums", "<i8", 6),  # of the values of each channel, and of their squares
    ]
)
Records = NDArray[Any]  # of RECORD, [N]
FOOTER = struct.Struct("<16sqqq16s")  # MAGIC, where the index begins, its records, bytes of the mapping, hash of both
MAGIC = b"moco pack 1".ljust(16)


class Damaged(Exception):
    """A file is no whole pack."""


class About(NamedTuple):
    """What a pack says of itself.

    Attributes:
        kind: raw, uint8 [3, H, W] of one size, or jpeg.
        root: of the images that were packed, as it can be printed.
        parts: how many images are for training, vote in kNN, and are for evaluation, in this order.
        left_out: keys of the files that could not be read, in hexadecimal.
    """

    kind: str
    root: str
    classes: list[str]
    parts: list[int]
    left_out: list[str]


def read_index(path: Path) -> tuple[Records, About, int]:
    """The records of a pack, what it says of itself, and where its index begins.

    Raises:
        Damaged: it is absent, cut short or changed.
    """
    try:
        with open(path, "rb") as file:
            return _index_in(file.fileno())
    except OSError as error:
        raise Damaged(str(error)) from error


def _index_in(file: int) -> tuple[Records, About, int]:
    """The same of an open file."""
    try:
        end = os.fstat(file).st_size - FOOTER.size
        magic, start, n, length, digest = FOOTER.unpack(read_bytes(file, FOOTER.size, max(0, end)))
        if magic != MAGIC or start + n * RECORD.itemsize + length != end:
            raise Damaged("its lengths do not fit")
        index = read_bytes(file, end - start, start)
    except (OSError, struct.error) as error:
        raise Damaged(str(error)) from error
    if hash_of(index) != digest:
        raise Damaged("its index has changed")
    return np.frombuffer(index, RECORD, n), About(**json.loads(index[n * RECORD.itemsize :])), start


def read_bytes(file: int, length: int, offset: int) -> bytes:
    """So many bytes of an open file, fewer at its end; the kernel gives two gigabytes at a time."""
    parts = []
    while length and (part := os.pread(file, length, offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def index_of(records: Records, about: About, start: int) -> bytes:
    """What stands behind the images, which end at `start`."""
    mapping = json.dumps(about._asdict()).encode()
    index = records.tobytes() + mapping
    return index + FOOTER.pack(MAGIC, start, len(records), len(mapping), hash_of(index))


def hash_of(index: bytes) -> bytes:
    return hashlib.blake2b(index, digest_size=16).digest()


class Pack:
    """An opened pack of N images. Who changes the folder of the pack meanwhile leaves its images as they are.

    Attributes:
        about: what it says of itself.
        keys: V16 [N], see RECORD.
        labels: int64 [N], -1 for none.
        sizes: height and width of each image, int64 [N, 2].
        side: the common height and width; None where images have several sizes.

    Raises:
        Damaged: see read_index.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Damaged(str(error)) from error
        weakref.finalize(self, os.close, self._file)
        records, self.about, self.end = _index_in(self._file)
        self.keys = records["key"].copy()
        self.labels = torch.from_numpy(records["label"].astype(np.int64))
        self.sizes = np.stack([records["height"], records["width"]], 1).astype(np.int64)
        self.offsets, self.lengths = records["offset"].copy(), records["length"].copy()
        self.crcs = records["crc"].copy()
        self._index_crc = zlib.crc32(records.tobytes())
        self._checked = np.zeros(len(records), dtype=bool)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def side(self) -> tuple[int, int] | None:
        if self.about.kind == "jpeg" or not len(self):
            return None
        return int(self.sizes[0, 0]), int(self.sizes[0, 1])

    def sums(self) -> NDArray[np.int64]:
        """Of the values of each image's channels, and of their squares, int64 [N, 6]; read from the file anew.

        Raises:
            UserError: new images have been packed meanwhile, behind the old ones.
        """
        with self._reading(0):
            index = read_bytes(self._file, len(self) * RECORD.itemsize, self.end)
        if zlib.crc32(index) != self._index_crc:
            raise UserError(f"{shown(self.path)} was packed anew by another process: start again")
        found: NDArray[np.int64] = np.frombuffer(index, RECORD, len(self))["sums"].astype(np.int64)
        return found

    def read_into(self, row: int, target: NDArray[np.uint8]) -> None:
        """Fills [3, H, W] or [H, W, 3], for a pack of JPEG, with the pixels of an image.

        Raises:
            UserError: the image cannot be read, or has changed on disk.
        """
        if self.about.kind == "raw":
            view = target.reshape(-1).data
            with self._reading(row):
                got = os.preadv(self._file, [view], int(self.offsets[row]))
            self._check(row, view[:got])
        else:
            with self._reading(row):
                data = os.pread(self._file, int(self.lengths[row]), int(self.offsets[row]))
            self._check(row, data)
            target[:] = decode_jpeg(data)

    @functools.cached_property
    def mapped(self) -> Tensor | None:
        """All images of a raw pack as the file's own pages, uint8 [N, 3, H, W]; None where they do not lie in order."""
        assert self.side
        length = 3 * self.side[0] * self.side[1]
        if not len(self) or not np.array_equal(self.offsets, np.arange(len(self)) * length):
            return None
        with self._reading(0):
            pages = mmap.mmap(self._file, len(self) * length, access=mmap.ACCESS_COPY)
        found = torch.frombuffer(pages, dtype=torch.uint8).view(len(self), 3, *self.side)
        with ThreadPoolExecutor() as pool:
            data = memoryview(pages)
            for _ in pool.map(lambda row: self._check(row, data[row * length : (row + 1) * length]), range(len(self))):
                pass
        return found

    def _check(self, row: int, data: bytes | memoryview) -> None:
        """Compares the bytes of an image with its checksum, once in this process.

        Raises:
            UserError: they differ.
        """
        if self._checked[row] and len(data) == self.lengths[row]:
            return
        if len(data) != self.lengths[row] or zlib.crc32(data) != self.crcs[row]:
            raise self._damaged(row, "it has changed on disk")
        self._checked[row] = True

    @contextlib.contextmanager
    def _reading(self, row: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError is what mmap raises on a file that is cut short
            raise self._damaged(row, getattr(error, "strerror", None) or str(error)) from error

    def _damaged(self, row: int, reason: str) -> UserError:
        """The error on an image that cannot be read; who opens the pack next looks through all of it."""
        with contextlib.suppress(OSError):
            marker(self.path).touch()
        return UserError(
            f"image {row} of {shown(self.path)} cannot be read ({reason}): start again, and what is damaged is packed anew"
        )


def marker(path: Path) -> Path:
    """The file that says that a pack was found to be damaged."""
    return path.with_name(f".{path.name}.damaged")


def intact(path: Path, records: Records) -> NDArray[np.bool_]:
    """Which images of a file have the bytes that their records tell, bool [N]."""
    chunks = [records[i : i + 1000] for i in range(0, len(records), 1000)]
    with open(path, "rb") as file, ThreadPoolExecutor() as pool:

        def check(chunk: Records) -> list[bool]:
            fields = zip(*(chunk[name].tolist() for name in ("length", "offset", "crc")))
            return [zlib.crc32(os.pread(file.fileno(), length, offset)) == crc for length, offset, crc in fields]

        return np.array([one for found in pool.map(check, chunks) for one in found], dtype=bool)
