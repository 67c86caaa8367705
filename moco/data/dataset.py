"""Data sets as uint8 tensors, small enough to live on the device: no loader stands between an image and its views."""

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.io import replacing

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


@dataclass
class Dataset:
    """Images uint8 [N, 3, H, W] with labels int64 [N]; a training label of -1 marks an image without one (STL-10)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: list[str]

    def to(self, device: torch.device) -> "Dataset":
        """The same data set with its tensors on `device`."""
        tensors = (self.train_images, self.train_labels, self.test_images, self.test_labels)
        x, y, test_x, test_y = (t.to(device) for t in tensors)
        return Dataset(x, y, test_x, test_y, self.classes)

    def labelled(self) -> tuple[Tensor, Tensor]:
        """The training images that have labels, and these: the bank of kNN and the training set of linear evaluation."""
        known = self.train_labels >= 0
        if bool(known.all()):
            return self.train_images, self.train_labels
        return self.train_images[known], self.train_labels[known]

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel of the training pixels in [0, 1]."""
        channels = self.train_images.transpose(0, 1)
        # Counted where the images are, the rest on the CPU: not every device has float64.
        count = torch.stack([torch.bincount(channel.flatten(), minlength=256).cpu() for channel in channels])
        share = count.double() / count.sum(1, keepdim=True)
        level = torch.arange(256, dtype=torch.float64, device=count.device) / 255
        mean = share @ level
        std = (share @ level**2 - mean**2).sqrt()
        return [round(v, 4) for v in mean.tolist()], [round(v, 4) for v in std.clamp(min=1e-3).tolist()]

    def hold_out(self, share: float) -> "Dataset":
        """Tests on a stratified `share` of the labelled training images instead, the same one for every seed."""
        generator = torch.Generator().manual_seed(0)
        held = torch.zeros(len(self.train_labels), dtype=torch.bool)
        for c in range(len(self.classes)):
            members = (self.train_labels == c).nonzero().squeeze(1)
            chosen = torch.randperm(len(members), generator=generator)[: round(share * len(members))]
            held[members[chosen]] = True
        x, y = self.train_images, self.train_labels
        return Dataset(x[~held], y[~held], x[held], y[held], self.classes)


def load_torchvision(dataset: str, root: str) -> Dataset:
    """CIFAR10, CIFAR100 or STL10 through torchvision, downloaded to `root` where it is not there yet.

    STL-10 trains on its labelled and unlabelled images together; kNN and linear evaluation see the labelled ones.

    Raises:
        ValueError: the archive is neither there nor to be had.
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
        raise ValueError(
            f"{dataset} is not in {Path(root).absolute()} and cannot be downloaded ({str(error)[:80]}): put {archive} "
            f"there, give data.root, or use data=digits, which needs no download"
        ) from error
    tensors: list[Tensor] = []
    for part in (train, test):
        images = torch.from_numpy(np.asarray(part.data))
        images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
        labels = torch.as_tensor(np.asarray(part.targets if hasattr(part, "targets") else part.labels))
        tensors += [images.contiguous(), labels.long()]
    x, y, test_x, test_y = tensors
    return Dataset(x, y, test_x, test_y, list(train.classes))


def load_digits(size: int) -> Dataset:
    """The 1,797 handwritten digits that scikit-learn ships (8x8, gray), as size x size images; every fifth is for test."""
    # Read where it lies: to import scikit-learn takes two seconds.
    spec = importlib.util.find_spec("sklearn")
    assert spec and spec.origin
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    raw = torch.from_numpy(np.loadtxt(path, delimiter=","))  # [N, 64 pixels and the label]
    images = raw[:, :64].reshape(-1, 1, 8, 8).float() * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    images = images.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = raw[:, 64].long()
    test = torch.arange(len(labels)) % 5 == 0
    return Dataset(images[~test], labels[~test], images[test], labels[test], [str(c) for c in range(10)])


def load_image_folder(root: str | None, size: int | None) -> Dataset:
    """Images in root/train/<class>/ and root/test/<class>/ (or val/), decoded once and kept packed in a cache.

    Args:
        size: the shorter side is resized to it and the centre cut out; None keeps images that all have one size.

    Raises:
        ValueError: no such folders, a class without a readable image, a file that is no image, or images of several
            sizes without `size`.
    """
    if not root:
        raise ValueError("data=image_folder needs data.root: a folder that holds train/<class>/ and test/<class>/")
    base = Path(root).expanduser().absolute()
    held_out = base / "test" if (base / "test").is_dir() else base / "val"
    for folder in (base / "train", held_out):
        if not folder.is_dir():
            raise ValueError(
                f"data.root={root} has no folder {folder.name}/: it must hold train/<class>/ and test/<class>/"
            )
    found = [f for folder in (base / "train", held_out) for f in folder.iterdir() if f.is_dir()]
    classes = sorted({f.name for f in found if not f.name.startswith(".")})
    files = [_class_files(folder, classes) for folder in (base / "train", held_out)]
    return _cached(f"{base} {size} {_newest(files)}", lambda: _decode(files, size, classes))


def _class_files(folder: Path, classes: list[str]) -> list[list[Path]]:
    """The image files of each class, in order."""
    if not classes or any(not (folder / c).is_dir() for c in classes):
        missing = next((c for c in classes if not (folder / c).is_dir()), "<class>")
        raise ValueError(f"{folder} has no class folder {missing}/: train/ and test/ need the same classes")
    files = [sorted(p for p in (folder / c).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) for c in classes]
    for name, members in zip(classes, files):
        if not members:
            some = next(iter((folder / name).iterdir()), None)
            found = f"it holds {some.name}" if some else "it is empty"
            raise ValueError(
                f"{folder / name} has no image ({found}): give images ({' '.join(sorted(IMAGE_SUFFIXES))})"
            )
    return files


def _newest(files: list[list[list[Path]]]) -> str:
    """A digest of all names, sizes and times, so that a changed folder is decoded anew."""
    digest = hashlib.sha256()
    for path in (p for split in files for members in split for p in members):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _decode(files: list[list[list[Path]]], size: int | None, classes: list[str]) -> Dataset:
    splits: list[list[np.ndarray]] = []
    with ThreadPoolExecutor() as pool:
        for split in files:
            paths = [p for members in split for p in members]
            splits.append(list(pool.map(lambda path: _read_image(path, size), paths)))
    shapes = sorted({image.shape[:2] for images in splits for image in images})
    if len(shapes) > 1:
        raise ValueError(f"images of several sizes, {shapes[0]} to {shapes[-1]}: give one with data.size=32")
    x, test_x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() for images in splits)
    y, test_y = (torch.tensor([c for c, members in enumerate(split) for _ in members]) for split in files)
    return Dataset(x, y, test_x, test_y, classes)


def _read_image(path: Path, size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
        return np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image ({error}): repair or remove it") from error


def _cached(key: str, make: Callable[[], Dataset]) -> Dataset:
    """What `make` makes, kept in the user's cache folder under a hash of `key`; without a writable cache, made anew."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "moco"
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    try:
        return Dataset(**torch.load(path, mmap=True, weights_only=True))
    except (OSError, RuntimeError, TypeError, EOFError):
        data = make()
    # On a full disk torch raises RuntimeError.
    with contextlib.suppress(OSError, RuntimeError):
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            torch.save(vars(data), aside)
    return data
