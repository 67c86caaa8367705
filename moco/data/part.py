"""A pack that is being made: what is in it is kept, whatever ends the process."""

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moco.data.files import shown
from moco.data.pack import RECORD, About, Damaged, Records, index_of, intact, marker, read_bytes, read_index
from moco.errors import UserError
from moco.io import replacing


class Image(NamedTuple):
    """A packed image: its bytes, its size, and the sums of its channels' values and of their squares."""

    data: bytes
    height: int
    width: int
    sums: list[int]


class Part:
    """The file that a pack is made in, and beside it a journal of the images that are in it.

    Each image is written before its record, so that a process that is killed leaves a journal of what is whole. A pack whose
    folder has changed is taken up again in the same way: new images are written behind the old ones, also behind those that it
    no longer lists. Who reads it meanwhile has its index in memory, and the images stay where they are.

    Attributes:
        known: which record of the journal is an image's, by its key.
    """

    def __init__(self, path: Path, wanted: Sequence[bytes], held: bool):
        own = "" if held else f".{os.getpid()}"  # without a lock nobody else's file is touched
        self.path = path
        self.data, self.journal = (path.with_name(f".{path.name}.{word}{own}") for word in ("part", "rows"))
        self.known: dict[bytes, int] = {}
        self.end = self.count = self.floor = 0  # floor: where the index of the pack began
        if held:
            self._take_up(set(wanted))

    def _take_up(self, wanted: set[bytes]) -> None:
        """Begins with what earlier attempts have left, or with the pack as it was."""
        if not (self.data.exists() and self.journal.exists()):
            if not self._reopen(wanted):
                return
        content = self.journal.read_bytes()
        self.count = len(content) // RECORD.itemsize
        records = np.frombuffer(content, RECORD, self.count)
        whole = intact(self.data, records)
        self.known = {record["key"].tobytes(): i for i, record in enumerate(records) if whole[i]}
        self.end = max(self.floor, int((records["offset"] + records["length"])[whole].max(initial=0)))
        if not wanted & self.known.keys():
            self.data.unlink()  # who reads it keeps it
            self.known, self.end, self.count = {}, 0, 0

    def _reopen(self, wanted: set[bytes]) -> bool:
        """Makes the pack the part again, if it holds an image that is wanted."""
        try:
            records, _, self.floor = read_index(self.path)
        except Damaged:
            return False
        if not any(key.tobytes() in wanted for key in records["key"]):
            return False
        with replacing(self.journal) as aside:
            aside.write_bytes(records.tobytes())
        os.replace(self.path, self.data)
        return True

    def __enter__(self) -> "Part":
        self._data = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._journal = os.open(self.journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._journal, self.count * RECORD.itemsize)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._data)
        os.close(self._journal)

    def put(self, key: bytes, image: Image) -> None:
        """Writes an image.

        Raises:
            UserError: the disk is full.
        """
        record = np.array(
            [(np.void(key), self.end, len(image.data), *image[1:3], -1, zlib.crc32(image.data), image.sums)], RECORD
        )
        with _writing(self.path):
            _write(self._data, image.data, self.end)
            _write(self._journal, record.tobytes(), self.count * RECORD.itemsize)
        self.known[key] = self.count
        self.end += len(image.data)
        self.count += 1

    def records(self, words: Sequence[bytes]) -> Records:
        """The records of these images."""
        written = np.frombuffer(read_bytes(self._journal, self.count * RECORD.itemsize, 0), RECORD)
        return written[[self.known[word] for word in words]]

    def finish(self, records: Records, about: About) -> None:
        """Makes it the pack, with an index of these images."""
        with _writing(self.path):
            os.ftruncate(self._data, self.end)
            _write(self._data, index_of(records, about, self.end), self.end)
            os.fsync(self._data)
            os.replace(self.data, self.path)
        for path in (self.journal, marker(self.path)):
            path.unlink(missing_ok=True)


def _write(file: int, data: bytes, offset: int) -> None:
    """Writes all of it, in as many calls as that takes."""
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises UserError where the disk takes no more."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{shown(path)} cannot be written ({error.strerror or error}): what is packed is kept; make room, or give "
            "data.cache=<folder with room>"
        ) from error
