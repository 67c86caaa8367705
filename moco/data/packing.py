"""Packs are made once, and what is packed is never packed again, whatever ends the process."""

import contextlib
import hashlib
import shutil
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from moco.data.dataset import Dataset
from moco.data.decode import Unreadable, encode_jpeg, read_image, read_small
from moco.data.files import refuse, shown
from moco.data.pack import RECORD, About, Damaged, Pack, Records, marker
from moco.data.packed_images import PackedImages
from moco.data.part import Image, Part
from moco.data.place import alone, candidates, choose, tidy
from moco.data.source import How, Source
from moco.errors import UserError
from moco.io import write_atomic
from moco.progress import Progress

T = TypeVar("T")
AHEAD = 64  # images that are decoded and not yet written, so that few are in memory
TOLD_EVERY = 50  # images
TOLD = 8e9  # bytes of raw pixels from which on it is said that JPEG takes less
# Bytes of JPEG for a byte of pixels. FFCV's docs tell 22 GB of ImageNet for a longer side of 256 pixels, that is 16.5 KB for an
# image of 192 x 256; a shorter side of 256 makes about 39 GB of it.
JPEG_SHARE = 0.11


def packed_set(source: Source, how: How, cache: str | None) -> Dataset:
    """The data set of a source, its images on disk, see `packed`."""
    pack = packed(source, how, cache)
    train, bank, _ = np.cumsum(pack.about.parts)
    rows = slice(0, train), slice(train, bank), slice(bank, None)
    (x, y), (bank_x, bank_y), (test_x, test_y) = ((PackedImages(pack)[part], pack.labels[part]) for part in rows)
    data = Dataset(x, y, test_x, test_y, pack.about.classes)
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
    paths = candidates(source.root, "-".join(filter(None, [source.part, how.name])), cache)
    for path in paths:
        if pack := _opened(path, keys, source, how):
            return pack
    path = choose(paths, cache)
    try:
        with alone(path, shown(source.root)) as held:
            if pack := _opened(path, keys, source, how):  # by who was first
                return pack
            for line in source.said:
                print(line, file=sys.stderr)
            pack = _make(path, keys, source, how, held)
    finally:
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
        pack = Pack(path)
    except Damaged:
        return None
    out = set(pack.about.left_out)
    kept = np.array([key.tobytes().hex() not in out for key in keys] if out else [True] * len(keys))
    same = pack.keys.tobytes() == keys[kept].tobytes() and np.array_equal(pack.labels, source.labels.numpy()[kept])
    same = same and (pack.about.classes, pack.about.parts) == (source.classes, _parts(source, kept))
    return pack if same else None


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
    with Part(path, words, held) as part:
        missing = [row for row, word in enumerate(words) if word not in part.known]
        _room(path.parent, n, len(missing), how)
        print(f"decoding {len(missing)} of {n} images", file=sys.stderr, flush=True)
        bad = _decode(part, words, missing, source, how)
        unread = source.bad + [(source.called(row), str(error)) for row, error in sorted(bad.items())]
        listed = _listed(path, unread)
        if unread and not how.skip_corrupt:
            raise refuse(unread, n + len(source.bad), listed)
        kept = np.array([row not in bad for row in range(n)])
        records = part.records([word for word, keep in zip(words, kept) if keep])
        records["label"] = source.labels.numpy()[kept]
        _refuse_sizes(records, how)
        left_out = [words[row].hex() for row, error in sorted(bad.items()) if error.lasting]  # others are tried again
        part.finish(records, About(how.kind, shown(source.root), source.classes, _parts(source, kept), left_out))
    if unread:
        where = f", see {shown(listed)}" if listed else ""
        print(f"{len(unread)} files that are not readable images are left out{where}", file=sys.stderr)
    return Pack(path)


def _refuse_sizes(records: Records, how: How) -> None:
    """Raises UserError where raw images have several sizes."""
    sizes = np.unique(np.stack([records["height"], records["width"]], 1), axis=0).tolist()
    if how.kind == "raw" and len(sizes) > 1:
        raise UserError(f"images of several sizes, {(*sizes[0],)} to {(*sizes[-1],)}: give one with data.size=32")


def _listed(path: Path, bad: Sequence[tuple[str, str]]) -> Path | None:
    """The file that names all bad files of a pack; None where there are none, or it cannot be written."""
    listed = path.with_suffix(".bad.txt")
    with contextlib.suppress(OSError, UserError):
        if not bad:
            listed.unlink(missing_ok=True)
            return None
        write_atomic(listed, "".join(f"{shown(name)}\t{reason}\n" for name, reason in bad))
        return listed
    return None


def _decode(part: Part, words: Sequence[bytes], rows: Sequence[int], source: Source, how: How) -> dict[int, Unreadable]:
    """Puts the images of these rows into the part; what is wrong with those that are not readable, by row."""
    bad: dict[int, Unreadable] = {}
    bar, taken = Progress("packing", len(rows)), 0

    def read(row: int) -> Image | Unreadable:
        try:
            return _image(source.open(row), how)
        except Unreadable as error:
            return Unreadable(str(error), error.lasting)  # without its traceback, which holds the image

    def keep(row: int, image: Image | Unreadable) -> None:
        nonlocal taken
        if isinstance(image, Unreadable):
            bad[row] = image
        else:
            part.put(words[row], image)
        taken += 1
        if taken % TOLD_EVERY == 0:
            bar.update(taken, unreadable=len(bad))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on files that it reads all the same
        try:
            _each(read, keep, rows)
        finally:
            bar.close()
    return bad


def _each(read: Callable[[int], T], keep: Callable[[int, T], None], rows: Sequence[int]) -> None:
    """Reads all rows in threads, AHEAD of them at most before one is kept, and keeps them in order.

    Where that is interrupted nothing more is begun, and what has been read is kept.
    """
    waiting: deque[tuple[int, Future[T]]] = deque()

    def keep_first() -> None:
        row, future = waiting[0]
        keep(row, future.result())
        waiting.popleft()

    with ThreadPoolExecutor() as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(read, row)))
                while waiting and (len(waiting) == AHEAD or waiting[0][1].done()):
                    keep_first()
            while waiting:
                keep_first()
        except BaseException:  # a signal, mostly
            pool.shutdown(cancel_futures=True)
            for row, future in waiting:
                if not future.cancelled() and not future.exception():
                    keep(row, future.result())
            raise


def _image(source: str | BinaryIO, how: How) -> Image:
    """Raises Unreadable."""
    small = how.kind == "jpeg" and how.size is not None
    pixels = read_small(source, how.size) if small and how.size else read_image(source, how.size)  # [H, W, 3]
    height, width = pixels.shape[:2]
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
    levels = np.arange(256)
    sums = [int(count @ levels) for count in counts] + [int(count @ levels**2) for count in counts]
    data = encode_jpeg(pixels) if how.kind == "jpeg" else pixels.transpose(2, 0, 1).tobytes()
    return Image(data, height, width, sums)


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
