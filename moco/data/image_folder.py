"""Images in one folder per class."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from moco.data.dataset import Dataset
from moco.data.packed import cached
from moco.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}

Pixels: TypeAlias = NDArray[np.uint8]  # [H, W, 3]
Split: TypeAlias = list[list[Path]]  # the image files of each class


def load_image_folder(root: str | None, size: int | None) -> Dataset:
    """Images in root/train/<class>/ and root/test/<class>/ (or val/), decoded once and kept packed in a cache.

    Args:
        size: images are resized so that the shorter side has this length, and the centre is cut out; None keeps images as
            they are, which must all have one size then.

    Raises:
        UserError: there are no such folders, a class has no image, a file is not a readable image, or images have several
            sizes and `size` is not given.
    """
    if not root:
        raise UserError("data=image_folder needs data.root: a folder that holds train/<class>/ and test/<class>/")
    base = Path(root).expanduser().absolute()
    folders = (base / "train", base / "test" if (base / "test").is_dir() else base / "val")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"data.root={root} has no folder {folder.name}/: it must hold train/<class>/ and test/<class>/"
            )
    found = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    classes = sorted(name for name in found if not name.startswith("."))
    splits = [_image_files(folder, classes) for folder in folders]
    return cached(f"{base} {size} {_digest(splits)}", lambda: _decode(splits, size, classes))


def _image_files(folder: Path, classes: list[str]) -> Split:
    """The image files of each class, in order.

    Raises:
        UserError: a class is missing or has no image.
    """
    if not classes or any(not (folder / c).is_dir() for c in classes):
        missing = next((c for c in classes if not (folder / c).is_dir()), "<class>")
        raise UserError(f"{folder} has no class folder {missing}/: train/ and test/ need the same classes")
    files = [sorted(p for p in (folder / c).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) for c in classes]
    for name, members in zip(classes, files):
        if not members:
            other = next(iter((folder / name).iterdir()), None)
            holds = f"it holds {other.name}" if other else "it is empty"
            raise UserError(
                f"{folder / name} has no image ({holds}): add images ({' '.join(sorted(IMAGE_SUFFIXES))}) or remove it"
            )
    return files


def _digest(splits: list[Split]) -> str:
    """A hash of all names, sizes and times, so that a folder is decoded again after it has changed."""
    digest = hashlib.sha256()
    for path in (p for split in splits for members in split for p in members):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _decode(splits: list[Split], size: int | None, classes: list[str]) -> Dataset:
    """The data set of these files."""
    decoded: list[list[Pixels]] = []
    with ThreadPoolExecutor() as pool:
        for split in splits:
            paths = [p for members in split for p in members]
            decoded.append(list(pool.map(lambda path: _read_image(path, size), paths)))
    shapes = sorted({image.shape[:2] for images in decoded for image in images})
    if len(shapes) > 1:
        raise UserError(f"images of several sizes, {shapes[0]} to {shapes[-1]}: give one with data.size=32")
    x, test_x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() for images in decoded)
    y, test_y = (torch.tensor([c for c, members in enumerate(split) for _ in members]) for split in splits)
    return Dataset(x, y, test_x, test_y, classes)


def _read_image(path: Path, size: int | None) -> Pixels:
    """uint8 [H, W, 3]"""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
        return np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} is not a readable image ({error}): repair or remove it") from error
