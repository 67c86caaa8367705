"""Where packs lie: in data.cache, else in the folder .moco of the data itself, else in the user's cache folder."""

import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from moco.data.files import absolute, shown
from moco.data.pack import Damaged, read_index
from moco.errors import UserError
from moco.io import locked

BESIDE = ".moco"  # in the folder of the data
LEFT_BEHIND = 30 * 24 * 3600  # seconds; what a killed process packed is taken up for so long
SILENCE = 120.0  # seconds without a sign of life of who packs: NFS tells others of it a minute late


def candidates(root: Path, name: str, cache: str | None) -> list[Path]:
    """Where a pack of that name may be found, the first choice first.

    Args:
        root: of the data; a folder, or what stands for one.
        name: tells packs of one data set apart.
        cache: the folder that the user gave.
    """
    word = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    elsewhere = f"{shown(root.name)[:40]}-{word}-{name}".replace(os.sep, "_")
    if cache:
        return [absolute(cache) / elsewhere]
    beside = [root / BESIDE / name] if root.is_dir() else []
    users = user_cache()
    return beside + ([users / elsewhere] if users else [])


def user_cache() -> Path | None:
    """The user's cache folder; None where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard: what is empty or relative does not count
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "moco" if os.path.isabs(base) else None


def choose(paths: Sequence[Path], cache: str | None) -> Path:
    """The first of the paths whose folder can be written; it is made. Where it is not the first, that is said.

    Raises:
        UserError: none can be, and the user asked for it.
    """
    reason = "there is no place"
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            if cache:
                raise UserError(
                    f"data.cache={shown(cache)} cannot be written ({reason}): give another folder"
                ) from error
            continue
        if path != paths[0]:
            said = f"{shown(paths[0].parent)} cannot be written ({reason}): images are packed in {shown(path.parent)}"
            print(f"{said} (data.cache=<folder> for another)", file=sys.stderr)
        return path
    folder = Path(tempfile.mkdtemp(prefix="moco-"))
    print(f"images are packed for this process alone, as no cache folder can be written ({reason})", file=sys.stderr)
    return folder / "images"


@contextlib.contextmanager
def alone(path: Path, root: str) -> Iterator[bool]:
    """One process at a time packs, for as long as it gives signs of life; False where there are no locks, or none left."""
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, what=f"packs the images of {root}", silence=SILENCE))
        except (OSError, UserError):
            held = False
        else:
            held = True
        yield held


def tidy(folder: Path) -> None:
    """Removes from the user's cache folder the packs of data that is gone, and what killed processes left long ago."""
    if folder != user_cache():
        return
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.name.startswith("."):
                gone = time.time() - path.stat().st_mtime > LEFT_BEHIND
            else:
                gone = path.suffix == ".pt" or (
                    path.suffix == ".pack" and not _data_is_there(path)
                )  # .pt: of versions before
            if gone:
                path.unlink()
                path.with_suffix(".bad.txt").unlink(missing_ok=True)


def _data_is_there(path: Path) -> bool:
    """Whether the data that a pack was made of is still there; of a damaged pack that is not known."""
    try:
        root = read_index(path)[1].root
    except Damaged:
        return False
    return not os.path.isabs(root) or os.path.isdir(root)
