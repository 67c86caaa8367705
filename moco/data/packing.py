"""Packs are made once, and what is packed is never packed again, whatever ends the process."""

import contextlib
import hashlib
import os
import shutil
import sys
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from torch import Tensor

from moco.data.dataset import Dataset
from moco.data.decode import DECODER, Unreadable, encode_jpeg, read_image, read_small
from moco.data.files import refuse, shown
from moco.data.pack import RECORD, About, Damaged, Pack, Records, index_of, intact, marker, read_index
from moco.data.packed_images import PackedImages
from moco.data.place import alone, candidates, choose, tidy
from moco.errors import UserError
from moco.io import replacing, write_atomic

AHEAD = 64  # images that are decoded and not yet written, so that few are in memory
TOLD = 8e9  # bytes of raw pixels from which on it is said that JPEG takes less
JPEG_SHARE = 0.11  # bytes of JPEG for a byte of pixels: ImageNet at 256 pixels is 22 GB, and would be 250 GB whole


class How(NamedTuple):
    """What is done with images.

    Attributes:
        kind: raw, or jpeg.
        size: of the shorter side; None keeps it.
        skip_corrupt: whether files that are not readable images are left out.
    """

    kind: Literal["raw", "jpeg"] = "raw"
    size: int | None = None
    skip_corrupt: bool = False

    @property
    def name(self) -> str:
        """Of the pack."""
        return f"{self.size or 'whole'}-{self.kind}{'-skip' * self.skip_corrupt}.pack"

    def word(self) -> bytes:
        """What an image in a pack depends on beside its file. JPEG stays, whatever Pillow is installed later."""
        if self.kind == "jpeg":
            return f"jpeg {self.size} {DECODER} ".encode()
        return f"{self.size} {DECODER} {PIL.__version__} ".encode()


@dataclass
class Source:
    """Images to be packed: rows for training, then those that only vote in kNN, then those for evaluation.

    Attributes:
        root: where they are from; a folder, or a name.
        states: what changes whenever an image does, of each row.
        labels: int64 [N], -1 for none.
        parts: how many rows each part has.
        open: what Pillow opens, of a row.
        called: a row's name in a message.
        bad: what cannot be read, known before, with the reasons.
        said: lines about what was left out.
    """

    root: Path
    states: Iterable[bytes]
    labels: Tensor
    classes: list[str]
    parts: list[int]
    open: Callable[[int], str | BinaryIO]
    called: Callable[[int], str]
    bad: list[tuple[str, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def packed_set(source: Source, how: How, cache: str | None) -> Dataset:
    """The data set of a source, its images on disk, see `packed`."""
    pack = packed(source, how, cache)
    train, bank, _ = np.cumsum(pack.parts)
    rows = slice(0, train), slice(train, bank), slice(bank, None)
    (x, y), (bank_x, bank_y), (test_x, test_y) = ((PackedImages(pack)[part], pack.labels[part]) for part in rows)
    data = Dataset(x, y, test_x, test_y, pack.classes)
    if len(bank_y):
        data.bank_images, data.bank_labels = bank_x, bank_y
    return data


def packed(source: Source, how: How, cache: str | None) -> Pack:
    """The pack of these images, made or mended where it is absent, cut short, damaged or of other images.

    What is packed is kept also where some files turn out to be bad, or where a signal or a kill ends it: the next time only the
    rest is decoded. Of several processes one packs, and the others wait for it.

    Args:
        cache: the folder for it; None: see moco.data.place.

    Raises:
        UserError: files that are not readable images (ten of them, and the count), images of several sizes where one is
            needed, or no room on the disk.
    """
    if not len(source.labels):
        raise refuse(source.bad, len(source.bad))
    keys = _keys(source.states, how)
    paths = candidates(source.root, how.name, cache)
    for path in paths:
        if pack := _opened(path, keys, source, how):
            return pack
    path = choose(paths, cache)
    with alone(path, shown(source.root)) as held:
        if pack := _opened(path, keys, source, how):  # by who was first
            return pack
        for line in source.said:
            print(line, file=sys.stderr)
        pack = _make(path, keys, source, how, held)
    if path not in paths:  # a temporary file: it lives as long as it is open
        shutil.rmtree(path.parent)
    tidy(path.parent)
    return pack


def _keys(states: Iterable[bytes], how: How) -> Records:
    """A hash for each image of its state and of what is done with it, V16 [N]."""
    word = how.word()
    digests = (hashlib.blake2b(word + state, digest_size=16).digest() for state in states)
    return np.frombuffer(b"".join(digests), RECORD["key"])


def _opened(path: Path, keys: Records, source: Source, how: How) -> Pack | None:
    """The pack, if it is whole and holds just these images."""
    if marker(path).exists() or (source.bad and not how.skip_corrupt):
        return None
    try:
        records, about, _ = read_index(path)
        out = set(about.left_out)
        kept = np.array([key.tobytes().hex() not in out for key in keys] if out else [True] * len(keys))
        if records["key"].tobytes() != keys[kept].tobytes():
            return None
        if not np.array_equal(records["label"], source.labels.numpy()[kept]):
            return None
        return Pack(path) if (about.classes, about.parts) == (source.classes, _parts(source, kept)) else None
    except Damaged:
        return None


def _parts(source: Source, kept: NDArray[np.bool_]) -> list[int]:
    """How many rows of each part are kept."""
    ends = np.cumsum([0, *source.parts])
    return [int(kept[a:b].sum()) for a, b in zip(ends, ends[1:])]


def _make(path: Path, keys: Records, source: Source, how: How, held: bool) -> Pack:
    """Decodes what no earlier attempt has decoded, and writes the pack.

    Args:
        held: whether this process alone writes there.
    """
    n, words = len(keys), [key.tobytes() for key in keys]
    with _Part(path, words, held) as part:
        missing = [row for row, word in enumerate(words) if word not in part.known]
        _room(path.parent, n, len(missing), how)
        print(f"decoding {len(missing)} of {n} images", file=sys.stderr, flush=True)
        bad = _decode(part, words, missing, source, how)
        found = [(source.called(row), reason) for row, reason in sorted(bad.items())] + source.bad
        if found and not how.skip_corrupt:
            raise refuse(source.bad + found[: len(bad)], n + len(source.bad), _listed(path, found))
        kept = np.array([row not in bad for row in range(n)])
        rows = part.records([word for word, keep in zip(words, kept) if keep])
        rows["label"] = source.labels.numpy()[kept]
        shapes = {(int(h), int(w)) for h, w in np.unique(rows[["height", "width"]])}
        if how.kind == "raw" and len(shapes) > 1:
            raise UserError(f"images of several sizes, {min(shapes)} to {max(shapes)}: give one with data.size=32")
        left_out = [words[row].hex() for row in sorted(bad)]
        about = About(how.kind, shown(source.root), source.classes, _parts(source, kept), left_out)
        if found:
            listed = _listed(path, found)
            print(
                f"{len(found)} files are not readable images and are left out: {shown(listed or '')}", file=sys.stderr
            )
        part.finish(rows, about)
    return Pack(path)


def _listed(path: Path, bad: Sequence[tuple[str, str]]) -> Path | None:
    """The file that names all bad files of a pack; None where it cannot be written."""
    listed = path.with_suffix(".bad.txt")
    with contextlib.suppress(OSError, UserError):
        write_atomic(listed, "".join(f"{shown(name)}\t{reason}\n" for name, reason in bad))
        return listed
    return None


def _decode(part: "_Part", words: Sequence[bytes], rows: Sequence[int], source: Source, how: How) -> dict[int, str]:
    """Puts the images of these rows into the part; the reasons of those that are not readable, by row."""
    bad: dict[int, str] = {}
    waiting: deque[tuple[int, Future[_Image | str]]] = deque()

    def read(row: int) -> _Image | str:
        try:
            return _image(source.open(row), how)
        except Unreadable as error:
            return str(error)

    def put() -> None:
        """Keeps the first that waits, once it is decoded."""
        row, future = waiting[0]
        image = future.result()
        if isinstance(image, str):
            bad[row] = image
        else:
            part.put(words[row], image)
        waiting.popleft()

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, on files that it reads all the same
        try:
            for row in rows:
                waiting.append((row, pool.submit(read, row)))
                if len(waiting) == AHEAD:
                    put()
            while waiting:
                put()
        except BaseException:  # a signal, mostly: nothing more is begun, and what is decoded is kept
            pool.shutdown(cancel_futures=True)
            done = [pair for pair in waiting if not pair[1].cancelled() and not pair[1].exception()]
            waiting.clear()
            waiting.extend(done)
            while waiting:
                put()
            raise
    return bad


class _Image(NamedTuple):
    """A packed image: its bytes, its size, and the sums of its channels' values and of their squares."""

    data: bytes
    height: int
    width: int
    sums: list[int]


def _image(source: str | BinaryIO, how: How) -> _Image:
    """Raises Unreadable."""
    small = how.kind == "jpeg" and how.size is not None
    pixels = read_small(source, how.size) if small and how.size else read_image(source, how.size)  # [H, W, 3]
    height, width = pixels.shape[:2]
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
    levels = np.arange(256)
    sums = [int(count @ levels) for count in counts] + [int(count @ levels**2) for count in counts]
    data = encode_jpeg(pixels) if how.kind == "jpeg" else pixels.transpose(2, 0, 1).tobytes()
    return _Image(data, height, width, sums)


class _Part:
    """The file that a pack is made in, and beside it a journal of the images that are in it.

    Each image is written before its record, so that a process that is killed leaves a journal of what is whole. A pack whose
    folder has changed is taken up again in the same way: new images are written behind the old ones. Who reads it meanwhile has
    its index in memory, and the images stay where they are.

    Attributes:
        known: which record of the journal is an image's, by its key.
    """

    def __init__(self, path: Path, wanted: Sequence[bytes], held: bool):
        own = "" if held else f".{os.getpid()}"  # without a lock nobody else's file is touched
        self.path = path
        self.data, self.journal = (path.with_name(f".{path.name}.{word}{own}") for word in ("part", "rows"))
        self.known: dict[bytes, int] = {}
        self.end = self.count = 0
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
        self.end = int((records["offset"] + records["length"])[whole].max(initial=0))
        if not wanted & self.known.keys():
            self.data.unlink()  # who reads it keeps it
            self.known, self.end, self.count = {}, 0, 0

    def _reopen(self, wanted: set[bytes]) -> bool:
        """Makes the pack the part again, if it holds an image that is wanted."""
        try:
            records, _, _ = read_index(self.path)
        except Damaged:
            return False
        if not any(key.tobytes() in wanted for key in records["key"]):
            return False
        with replacing(self.journal) as aside:
            aside.write_bytes(records.tobytes())
        os.replace(self.path, self.data)
        return True

    def __enter__(self) -> "_Part":
        self._data = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._journal = os.open(self.journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._journal, self.count * RECORD.itemsize)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._data)
        os.close(self._journal)

    def put(self, key: bytes, image: _Image) -> None:
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
        written = np.frombuffer(os.pread(self._journal, self.count * RECORD.itemsize, 0), RECORD)
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


def _room(folder: Path, n: int, missing: int, how: How) -> None:
    """Refuses images of a known size for which the disk has no room, and says where raw pixels take a lot of it.

    Raises:
        UserError: there is less room than they take.
    """
    if not how.size or not missing:
        return
    pixels = 3 * how.size**2
    jpeg = f"data.packed=jpeg takes about {n * pixels * 4 / 3 * JPEG_SHARE / 1e9:,.0f} GB"
    share = 1.0 if how.kind == "raw" else JPEG_SHARE
    needed, there = missing * pixels * share, shutil.disk_usage(folder).free
    if needed > there:
        less = jpeg if how.kind == "raw" else "a smaller data.size takes less"
        raise UserError(
            f"{missing} images of {how.size}x{how.size} pixels take {needed / 1e9:,.0f} GB, and {shown(folder)} has room for "
            f"{there / 1e9:,.0f}: give a smaller data.size or data.cache=<folder with room>; {less}"
        )
    if how.kind == "raw" and n * pixels > TOLD:
        print(f"{n} images take {n * pixels / 1e9:,.0f} GB in {shown(folder)}; {jpeg}", file=sys.stderr, flush=True)
