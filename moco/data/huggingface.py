"""Hugging Face data sets of images, from the hub or from a folder."""

import io
import re
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from moco.data.dataset import Dataset
from moco.data.decode import Unreadable
from moco.data.files import absolute, tree_fingerprint
from moco.data.packing import packed_set
from moco.data.source import How, Source
from moco.data.there import check_hub
from moco.errors import UserError

EVALUATED = ("test", "validation", "val", "valid")  # the first that has labels is evaluated on
WRITTEN = ("dataset_dict.json", "state.json")  # what save_to_disk leaves in a folder


def load_huggingface(
    path: str,
    image: str,
    label: str | None,
    size: int | None,
    subset: str | None = None,
    packed: Literal["raw", "jpeg"] = "raw",
    cache: str | None = None,
    skip_corrupt: bool = False,
) -> Dataset:
    """The splits train, and test or validation, of a data set, packed as an image folder is.

    Args:
        path: its name on the hub, or a folder: what save_to_disk wrote, or files that `datasets` knows (parquet, images).
        image, label: columns. Labels are classes, numbers or words; None: there are none.
        size, packed, cache, skip_corrupt: see moco.data.load_image_folder.
        subset: the configuration, for data sets that have several.

    Raises:
        UserError: the package is absent, there is no such data set, split or column, or what load_image_folder raises.
    """
    check_hub(path)
    splits = _splits(path, subset)
    if "train" not in splits:
        raise UserError(f"data.path={path} has no split train (it has {', '.join(splits)})")
    train = splits["train"]
    _check_columns(train, path, image, label)
    classes = _classes(train, label)
    labels = {name: _labels(splits[name], label, classes, path) for name in ("train", *EVALUATED) if name in splits}
    test = next((name for name in EVALUATED if name in labels and bool((labels[name] >= 0).any())), None)
    taken = {"train": torch.arange(len(labels["train"]))}
    said = []
    if test:
        taken[test] = (labels[test] >= 0).nonzero().flatten()
        if without := len(labels[test]) - len(taken[test]):
            said.append(f"{path}: images of {test} that have no label are left out ({without})")
    rows = [(name, i) for name, numbers in taken.items() for i in numbers.tolist()]
    # Other columns of a row are not decoded.
    whole = {name: splits[name].select_columns([image]).cast_column(image, _undecoded()) for name in taken}
    marks = {name: getattr(splits[name], "_fingerprint", "") for name in taken}

    def open_row(row: int) -> str | BinaryIO:
        name, i = rows[row]
        found = whole[name][i][image]
        if found is None:
            raise Unreadable("its row has none")
        return io.BytesIO(found["bytes"]) if found["bytes"] is not None else str(found["path"])

    folder = absolute(path)
    source = Source(
        root=folder if folder.is_dir() else Path(path),
        states=(f"{marks[name]} {name} {image} {i}".encode() for name, i in rows),
        labels=torch.cat([labels[name][numbers] for name, numbers in taken.items()]),
        classes=classes,
        parts=[len(taken["train"]), 0, len(taken[test]) if test else 0],
        open=open_row,
        called=lambda row: f"{path}: image {rows[row][1]} of {rows[row][0]}",
        said=said,
        part=re.sub(r"[^\w.-]+", "_", "-".join(filter(None, [subset, image if image != "image" else None]))),
    )
    data = packed_set(source, How(packed, size, skip_corrupt), cache)
    data.files = tree_fingerprint(folder) if folder.is_dir() else None
    return data


def _splits(path: str, subset: str | None) -> dict[str, Any]:
    """The splits by name."""
    import datasets

    datasets.disable_progress_bars()
    folder = absolute(path)
    try:
        if any((folder / name).is_file() for name in WRITTEN):
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else path, subset)
    except Exception as error:  # it raises whatever the files or the hub lead to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"data.path={path} cannot be loaded ({reason}): give a name on the hub, or a folder") from error
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    # A set that was saved in the form of another library's tensors is read as any other.
    return {name: split.with_format(None) if split.format["type"] else split for name, split in splits.items()}


def _undecoded() -> Any:
    """The type of a column whose images stay as they are in their files."""
    import datasets

    return datasets.Image(decode=False)


def _check_columns(split: Any, path: str, image: str, label: str | None) -> None:
    """Raises UserError where the data set lacks a column."""
    import datasets

    images = [name for name, kind in split.features.items() if isinstance(kind, datasets.Image)]
    if image not in images:
        raise UserError(f"data.image={image} is no column of images in {path} (it has {', '.join(images) or 'none'})")
    if label is not None and label not in split.features:
        raise UserError(
            f"data.label={label} is no column of {path} (it has {', '.join(split.features)}): give another, or data.label=null"
        )


def _values(split: Any, label: str) -> list[Any]:
    """The labels as they are in the data set."""
    return list(split[label][:])


def _classes(split: Any, label: str | None) -> list[str]:
    """The names of the classes, in order of their numbers; words and numbers that are none are sorted."""
    if label is None:
        return []
    names = getattr(split.features[label], "names", None)
    return [str(name) for name in names or sorted(set(_values(split, label)) - {None})]


def _labels(split: Any, label: str | None, classes: list[str], path: str) -> Tensor:
    """int64 [N], -1 for none.

    Raises:
        UserError: a class that is not in the training images.
    """
    if label is None or label not in split.features:
        return torch.full((len(split),), -1)
    values = _values(split, label)
    if getattr(split.features[label], "names", None):
        return torch.tensor([-1 if value is None else value for value in values], dtype=torch.int64)
    numbers = {name: i for i, name in enumerate(classes)}
    if unknown := {str(value) for value in values if value is not None} - numbers.keys():
        raise UserError(f"{path} has the class {min(unknown)} in another split alone: its splits need the same classes")
    return torch.tensor([-1 if value is None else numbers[str(value)] for value in values], dtype=torch.int64)
