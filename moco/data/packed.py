"""The decoded images of a folder, kept in one file of the user's cache folder, so that they are decoded once."""

import contextlib
import hashlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeGuard

import PIL
import torch
from torch import Tensor

from moco.data.decode import DECODER, Unreadable, read_image
from moco.data.files import Files, ImageFile, refuse, shown
from moco.data.fingerprint import fingerprint
from moco.errors import UserError
from moco.io import locked, replacing

KEY = 16  # bytes that stand for a file in its state and for how it is decoded
LEFT_BEHIND = 24 * 3600  # seconds; a file written aside that is older has no writer any more
SILENCE = 120.0  # seconds without a sign of life of who decodes: NFS tells others of it a minute late


class Pack(NamedTuple):
    """Images uint8 [N, 3, H, W], and the keys of their files, uint8 [N, KEY]."""

    keys: Tensor
    images: Tensor


def load_images(files: Files, size: int | None) -> Tensor:
    """The images of `files.all()`, uint8 [N, 3, H, W], from the cache as far as they are there.

    What is decoded is written to the cache also where some files turn out to be bad, or where a signal ends it: the next time
    only the rest is decoded. Of several processes one decodes, and the others wait for it. It is not an error if the cache
    cannot be read, written or locked.

    Raises:
        UserError: files that are not readable images, ten of them and the count, images of several sizes without `size`, or
            more of them than fit into this machine's memory.
    """
    listed = files.all()
    if not listed:
        raise refuse(files.bad, len(files.bad))
    if size:
        _refuse_too_large(len(listed), size, size)
    path, keys = _cache_file(files.root, size), _keys(listed, size)

    def holds_all(pack: Pack | None) -> TypeGuard[Pack]:
        return pack is not None and not files.bad and torch.equal(pack.keys, keys)

    before, cached = _version(path), _read(path)
    if holds_all(cached):
        return cached.images
    with _alone(path, files.root):
        if _version(path) != before and holds_all(cached := _read(path)):  # by who was first
            return cached.images
        for line in files.said:
            print(line, file=sys.stderr)
        return _decode_and_keep(path, files, keys, size, cached)


@contextlib.contextmanager
def _alone(path: Path | None, root: Path) -> Iterator[None]:
    """One process at a time, for as long as who is in there gives signs of life; where there are no locks, all at once."""
    with contextlib.ExitStack() as stack:
        if path:
            lock = path.with_name(f".{path.name}.lock")
            with contextlib.suppress(OSError, UserError):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(lock, what=f"decodes the images of {shown(root)}", silence=SILENCE))
        yield


def _decode_and_keep(path: Path | None, files: Files, keys: Tensor, size: int | None, cached: Pack | None) -> Tensor:
    """Decodes what the cache lacks, and writes all that there is to it."""
    listed = files.all()
    decoded = _Decoded(len(listed))
    try:
        _decode(decoded, listed, keys, size, cached)
    except BaseException:  # a signal, mostly: what is decoded already is kept
        _keep(path, files.root, keys, decoded)
        raise
    bad = files.bad + [(listed[row].path, reason) for row, reason in sorted(decoded.bad.items())]
    images, shapes = decoded.images, decoded.shapes
    if len(shapes) > 1 and not bad:
        raise UserError(f"images of several sizes, {min(shapes)} to {max(shapes)}: give one with data.size=32")
    _keep(path, files.root, keys, decoded)
    if bad or images is None:
        raise refuse(bad, len(listed) + len(files.bad))
    return images


class _Decoded:
    """Images in rows of one array, which is allocated when the first of them tells its size.

    Attributes:
        images: uint8 [N, 3, H, W]; None as long as there is none.
        bad: the rows of bad files, with reasons.
        shapes: (H, W) of all images that came.
    """

    def __init__(self, n: int):
        self.images: Tensor | None = None
        self.bad: dict[int, str] = {}
        self.shapes: set[tuple[int, int]] = set()
        self.filled = [False] * n
        self._lock = threading.Lock()

    def put(self, row: int, pixels: Tensor) -> None:
        """Fills a row with pixels [3, H, W]; those of another size than the first image's are only noted."""
        with self._lock:
            if self.images is None:
                _refuse_too_large(len(self.filled), pixels.shape[1], pixels.shape[2])
                self.images = torch.empty(len(self.filled), *pixels.shape, dtype=torch.uint8)
            self.shapes.add((pixels.shape[1], pixels.shape[2]))
        if pixels.shape == self.images.shape[1:]:
            self.images[row] = pixels
            self.filled[row] = True

    def compact(self, images: Tensor) -> list[int]:
        """Moves the filled rows to the front, in place, since there may be no room for a copy; which they were."""
        rows = [row for row, filled in enumerate(self.filled) if filled]
        for i, row in enumerate(rows):
            if i != row:
                images[i] = images[row]
        return rows


def _decode(decoded: _Decoded, files: Sequence[ImageFile], keys: Tensor, size: int | None, cached: Pack | None) -> None:
    """Fills all rows, those whose key is in the cache from there."""
    known = {key.tobytes(): row for row, key in enumerate(cached.keys.numpy())} if cached else {}
    rows = [known.get(key.tobytes()) for key in keys.numpy()]
    missing = [row for row, there in enumerate(rows) if there is None]

    def decode(row: int) -> None:
        try:
            pixels = torch.from_numpy(read_image(files[row].path, size))  # [H, W, 3]
        except Unreadable as error:
            decoded.bad[row] = str(error)
        else:
            decoded.put(row, pixels.permute(2, 0, 1))

    for row, there in enumerate(rows):
        if cached and there is not None:
            decoded.put(row, cached.images[there])
    print(f"decoding {len(missing)} of {len(files)} images", file=sys.stderr, flush=True)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, on files that it reads all the same
        try:
            for _ in pool.map(decode, missing):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all


def _refuse_too_large(n: int, height: int, width: int) -> None:
    """Raises UserError where the pixels of n images are more than the machine's memory."""
    there, needed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 3 * n * height * width
    if needed > there:
        raise UserError(
            f"{n} images of {height}x{width} pixels take {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f}: "
            "give a smaller data.size"
        )


def _keys(files: Sequence[ImageFile], size: int | None) -> Tensor:
    """A hash for each file of its name, size and time, and of what decodes it; uint8 [N, KEY]."""
    how = f"{size} {DECODER} {PIL.__version__} ".encode()
    digests = (
        hashlib.blake2b(how + os.fsencode(f.name) + b" %d %d" % (f.size, f.changed), digest_size=KEY) for f in files
    )
    return torch.frombuffer(bytearray(b"".join(d.digest() for d in digests)), dtype=torch.uint8).view(-1, KEY)


def _cache_file(root: Path, size: int | None) -> Path | None:
    """Where the images of this folder in this size are kept; None: there is no place, as the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard: what is empty or relative does not count
        base = os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.sha256(os.fsencode(f"{root} {size}")).hexdigest()[:16]
    return Path(base) / "moco" / f"{name}.pt" if os.path.isabs(base) else None


def _version(path: Path | None) -> tuple[int, int] | None:
    """What tells a file of the cache from the one that replaces it; None where there is none."""
    if path:
        with contextlib.suppress(OSError):
            status = path.stat()
            return status.st_ino, status.st_mtime_ns
    return None


def _read(path: Path | None) -> Pack | None:
    """A file of the cache; None where it is absent or a bit of it has changed."""
    if path is None:
        return None
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        pack = Pack(content["keys"], content["images"])
        intact = content["checksum"] == fingerprint(pack, content["root"])
    except Exception:  # torch raises whatever the damage leads to
        return None
    return pack if intact else None


def _keep(path: Path | None, root: Path, keys: Tensor, decoded: _Decoded) -> None:
    """Writes the images that there are to the cache."""
    if path and decoded.images is not None:
        rows = decoded.compact(decoded.images)
        _write(path, root, Pack(keys[rows], decoded.images[: len(rows)]))


def _write(path: Path, root: Path, pack: Pack) -> None:
    """Keeps the images for the next time; what a folder held before, or one that is gone, is removed."""
    name = shown(root)
    content = {**pack._asdict(), "root": name, "checksum": fingerprint(pack, name)}
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError is what torch raises on a full disk
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        with replacing(path) as aside:
            torch.save(content, aside)


def _tidy(folder: Path) -> None:
    """Removes the images of folders that are gone, and what killed processes left half-written."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.name.startswith("."):
                gone = time.time() - path.stat().st_mtime > LEFT_BEHIND
            else:
                gone = path.suffix == ".pt" and not os.path.isdir(_root_of(path))
            if gone:
                path.unlink()


def _root_of(path: Path) -> str:
    """The folder whose images a file of the cache holds; empty where it does not tell."""
    try:
        return str(torch.load(path, mmap=True, weights_only=True)["root"])
    except Exception:  # damaged
        return ""
