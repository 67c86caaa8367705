"""The data sets of torchvision."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.data.dataset import Dataset
from moco.errors import UserError


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
        train, test = (make(root, download=True, **split) for split in splits)
    except (OSError, RuntimeError) as error:
        archive = getattr(make, "filename", "archive")
        raise UserError(
            f"{dataset} is not in {Path(root).absolute()} and cannot be downloaded ({str(error)[:80]}): put {archive} "
            "there, give data.root, or use data=digits, which needs no download"
        ) from error
    tensors: list[Tensor] = []
    for part in (train, test):
        images = torch.from_numpy(np.asarray(part.data))  # CIFAR: [N, H, W, 3], STL-10: [N, 3, H, W]
        images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
        labels = torch.as_tensor(np.asarray(part.targets if hasattr(part, "targets") else part.labels))  # [N]
        tensors += [images.contiguous(), labels.long()]
    x, y, test_x, test_y = tensors
    return Dataset(x, y, test_x, test_y, list(train.classes))
