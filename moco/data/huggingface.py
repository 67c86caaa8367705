"""Hugging Face data sets of images, from the hub or from a folder."""

import io
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from moco.data.dataset import Dataset
from moco.data.files import absolute
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
    labelled = {
        name: (splits[name], _labels(splits[name], label, classes, path))
        for name in ("train", *EVALUATED)
        if name in splits
    }
    test = next((name for name in EVALUATED if name in labelled and bool((labelled[name][1] >= 0).any())), None)
    rows = [(name, i) for name in ("train", test) if name for i in range(len(labelled[name][1]))]
    whole = {name: split.cast_column(image, _undecoded()) for name, (split, _) in labelled.items()}
    marks = {name: getattr(split, "_fingerprint", "") for name, (split, _) in labelled.items()}

    def open_row(row: int) -> str | BinaryIO:
        name, i = rows[row]
        found = whole[name][i][image]
        return io.BytesIO(found["bytes"]) if found["bytes"] is not None else str(found["path"])

    folder = absolute(path)
    source = Source(
        root=folder if folder.is_dir() else Path(path),
        states=(f"{marks[name]} {name} {image} {i}".encode() for name, i in rows),
        labels=torch.cat([labels for name, (_, labels) in labelled.items() if name in ("train", test)]),
        classes=classes,
        parts=[len(labelled["train"][1]), 0, len(labelled[test][1]) if test else 0],
        open=open_row,
        called=lambda row: f"{path}: image {rows[row][1]} of {rows[row][0]}",
    )
    return packed_set(source, How(packed, size, skip_corrupt), cache)


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
    return dict(found) if isinstance(found, dict) else {"train": found}


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
    numbers = {name: i for i, name in enumerate(classes)} | {"None": -1}
    if unknown := {str(value) for value in values} - numbers.keys():
        raise UserError(f"{path} has the class {min(unknown)} in another split alone: its splits need the same classes")
    return torch.tensor([numbers[str(value)] for value in values], dtype=torch.int64)
