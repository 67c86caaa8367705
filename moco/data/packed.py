"""A cache of decoded data sets, each packed into one file."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from moco.data.dataset import Dataset
from moco.io import replacing


def cached(key: str, make: Callable[[], Dataset]) -> Dataset:
    """What `make` returns, kept in the user's cache folder under a hash of `key`.

    It is not an error if the cache cannot be read or written; the data set is made again then.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "moco"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    try:
        return Dataset(**torch.load(path, mmap=True, weights_only=True))
    except (OSError, RuntimeError, TypeError, EOFError):
        data = make()
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError is what torch raises on a full disk
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            torch.save(vars(data), aside)
    return data
