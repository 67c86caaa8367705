"""Images in one folder per class."""

import os
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from moco.data.dataset import Dataset
from moco.data.files import ImageFile, find_files
from moco.data.packing import packed_set
from moco.data.source import How, Source


def load_image_folder(
    root: str | None,
    size: int | None,
    packed: Literal["raw", "jpeg"] = "raw",
    cache: str | None = None,
    skip_corrupt: bool = False,
) -> Dataset:
    """Images in root/train/<class>/ and root/test/<class>/ (or val/), decoded once and kept in a pack.

    Which files are taken, and what else a folder may hold, is told by moco.data.files.find_files; how they are decoded, by
    moco.data.decode.

    Args:
        size: images are resized so that the shorter side has this length. For raw, the centre is cut out; None keeps images
            as they are, which must all have one size then.
        packed: raw pixels of one size, or JPEG of quality 90 with the aspect ratio of each image.
        cache: the folder for the pack, see moco.data.place.
        skip_corrupt: whether files that are not readable images are left out.

    Raises:
        UserError: there are no such folders, a class has no image, files are not readable images, images have several
            sizes and `size` is not given, or the pack cannot be written.
    """
    files = find_files(root)
    listed = files.all()
    source = Source(
        root=files.root,
        states=(os.fsencode(file.name) + b" %d %d" % (file.size, file.changed) for file in listed),
        labels=torch.cat([_labels(part) for part in (files.train, files.bank, files.test)]),
        classes=files.classes,
        parts=[len(files.train), len(files.bank), len(files.test)],
        open=lambda row: listed[row].path,
        called=lambda row: listed[row].path,
        bad=files.bad,
        said=files.said,
    )
    data = packed_set(source, How(packed, size, skip_corrupt), cache)
    data.files = files.fingerprint()
    return data


def _labels(files: Sequence[tuple[ImageFile, int]]) -> Tensor:
    """int64 [N]"""
    return torch.tensor([label for _, label in files], dtype=torch.int64)
