"""Images in one folder per class."""

import torch
from torch import Tensor

from moco.data.dataset import Dataset
from moco.data.files import ImageFile, find_files
from moco.data.packed import load_images


def load_image_folder(root: str | None, size: int | None) -> Dataset:
    """Images in root/train/<class>/ and root/test/<class>/ (or val/), decoded once and kept packed in a cache.

    Which files are taken, and what else a folder may hold, is told by moco.data.files.find_files; how they are decoded, by
    moco.data.decode.read_image.

    Args:
        size: images are resized so that the shorter side has this length, and the centre is cut out; None keeps images as
            they are, which must all have one size then.

    Raises:
        UserError: there are no such folders, a class has no image, files are not readable images, or images have several
            sizes and `size` is not given.
    """
    files = find_files(root)
    images = load_images(files, size)
    train, bank, test = torch.split(images, [len(files.train), len(files.bank), len(files.test)])
    data = Dataset(train, _labels(files.train), test, _labels(files.test), files.classes)
    data.files = files.fingerprint()
    if files.bank:
        data.bank_images, data.bank_labels = bank, _labels(files.bank)
    return data


def _labels(files: list[tuple[ImageFile, int]]) -> Tensor:
    """int64 [N]"""
    return torch.tensor([label for _, label in files], dtype=torch.int64)
