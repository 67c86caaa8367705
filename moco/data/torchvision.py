"""The data sets of torchvision."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.data.dataset import Dataset
from moco.data.files import absolute
from moco.data.there import ARCHIVES, not_there
from moco.errors import UserError

PATIENCE = 1800.0  # seconds that another process has for a download


def load_torchvision(dataset: str, root: str) -> Dataset:
    """CIFAR10, CIFAR100 or STL10 through torchvision, downloaded to `root` if it is not there yet.

    STL-10 trains on its labelled and unlabelled images together; kNN and linear evaluation see the labelled ones.

    Raises:
        UserError: the archive is not there and cannot be downloaded.
    """
    from torchvision import datasets

    make = getattr(datasets, dataset)
    splits: list[dict[str, object]] = [{"train": True}, {"train": False}]
    if dataset == "STL10":
        splits = [{"split": "train+unlabeled"}, {"split": "test"}]
    try:
        with _alone(dataset, absolute(root)):
            train, test = (make(str(absolute(root)), download=True, **split) for split in splits)
    except (OSError, RuntimeError) as error:
        raise UserError(not_there(dataset, absolute(root), str(error))) from error
    tensors: list[Tensor] = []
    for part in (train, test):
        images = torch.from_numpy(np.asarray(part.data))  # CIFAR: [N, H, W, 3], STL-10: [N, 3, H, W]
        images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
        labels = torch.as_tensor(np.asarray(part.targets if hasattr(part, "targets") else part.labels))  # [N]
        tensors += [images.contiguous(), labels.long()]
    x, y, test_x, test_y = tensors
    return Dataset(x, y, test_x, test_y, list(train.classes))


@contextlib.contextmanager
def _alone(dataset: str, root: Path) -> Iterator[None]:
    """Where the data set has to be downloaded or unpacked, one process does that, and others wait for it.

    Raises:
        OSError: the folder cannot be made.
        UserError: the other process does not come to an end.
    """
    archive = ARCHIVES.get(dataset)
    path = root / f".{archive.file if archive else dataset}.lock"
    if archive and (root / archive.folder).is_dir() and not path.exists():
        yield
        return
    import filelock

    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"{root}: another process downloads {dataset}, waiting for it", file=sys.stderr, flush=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout as error:
            raise UserError(
                f"{path} has been locked for {PATIENCE / 60:.0f} minutes: end that process, or remove it"
            ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
