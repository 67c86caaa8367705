"""Whether the data is still what a run was trained on: its folder keeps a fingerprint, in data.json, and one of each other data
set that its backbone was evaluated on, in data@<name>.json. Imports no torch."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from moco.config.schema import Config, Data
from moco.data.files import Files, find_files, tree_fingerprint
from moco.errors import UserError
from moco.io import Json, read_mapping, write_json
from moco.protocols import known_as
from moco.runs.run import Run
from moco.runs.settings import plain

if TYPE_CHECKING:
    from moco.data import Dataset

IMAGE_FOLDER = "moco.data.load_image_folder"
RECORD = "data.json"
WHERE = "give data.root=<where they are>"


def described(data: "Dataset") -> dict[str, Json]:
    """What is kept of a data set on the CPU: fingerprints of its tensors and of its files, its sizes and classes."""
    return {
        "fingerprint": data.fingerprint(),
        "files": data.files,
        "packed": bool(data.on_disk),
        "train_images": [*data.train_images.shape],
        "test_images": [*data.test_images.shape],
        "classes": [*data.classes],
    }


def keep(run: Run, now: dict[str, Json], other: Data | None = None) -> None:
    """Writes what `described` tells into the run's folder.

    Args:
        other: another data set than the run's own, of which it is told.
    """
    write_json(_record(run, other), {**now, "asked": _asked(other)} if other else now)


def _record(run: Run, other: Data | None = None) -> Path:
    return run.folder / (f"data@{known_as(other.name)}.json" if other else RECORD)


def _asked(data: Data) -> dict[str, Json]:
    """What decides which images of a data set count, beside its name and where they lie."""
    of_hub = {key: (data.model_extra or {}).get(key) for key in ("subset", "image", "label")}
    return {"validation": data.validation, "size": data.size, "path": _on_hub(data), **of_hub}


def _on_hub(data: Data) -> str | None:
    """The name of a data set of the hub; None where it is none, or a folder."""
    return None if data.path is None or os.path.isabs(data.path) else data.path


def check_images(run: Run, now: dict[str, Json], remedy: str = "", other: Data | None = None) -> None:
    """Compares all pixels, labels and classes with those that the run was trained on, where that was kept.

    Args:
        other: another data set than the run's own: then with those that its backbone was evaluated on under this name.

    Raises:
        UserError: they differ.
    """
    then = read_mapping(_record(run, other))
    # Before there were packs the pixels of image folders were hashed in another way; what both have is names and sizes.
    key = "fingerprint" if then and bool(then.get("packed")) == bool(now.get("packed")) else "files"
    if then and then.get(key) != now.get(key):
        difference = _difference(then, now)
        raise _evaluated_on_others(run, other, difference) if other else _other(run, difference, remedy)


def check_other(run: Run, data: Data, looked: "Looked | None" = None) -> None:
    """Compares a data set that a backbone is to be evaluated on with that of this name on which it was, without loading it.

    Args:
        looked: as for `check_files`.

    Raises:
        UserError: they differ: numbers of both would stand under one name.
    """
    then = read_mapping(_record(run, data))
    if not then:
        return
    asked = then.get("asked")
    before = asked if isinstance(asked, dict) else _asked(data)
    for key, value in _asked(data).items():
        if key in before and before[key] != value:
            raise _evaluated_on_others(run, data, f"data.{key}={plain(before[key])} then, {plain(value)} now")
    if difference := _files_differ(then, data, looked):
        raise _evaluated_on_others(run, data, difference)


def moved(run: Run, root: str | None) -> Config:
    """The run's configuration, with the data.root where its images are now, if one is given.

    Raises:
        UserError: config.json cannot be used, or the images are files of the user's and their folder is not there.
    """
    config = run.config
    if root:
        config = config.model_copy(update={"data": config.data.moved(root)})
    if config.data.target == IMAGE_FOLDER and config.data.root and not os.path.isdir(config.data.root):
        raise UserError(f"{config.data.root}, where the images of {run.folder} should be, is not there: {WHERE}")
    return config


Looked: TypeAlias = dict[str, Files | UserError | str | None]  # what was found under each folder, see _files and _tree


def check_files(run: Run, config: Config, looked: Looked | None = None) -> None:
    """Compares names and sizes of a folder's files with those that the run was trained on, without a look into them.

    It is for what is not going to load the images: a run that is done, and all runs of a sweep before it begins. A folder that
    is not there is not compared, and of data of another kind only its name on a hub.

    Args:
        looked: what was found already; the points of a sweep mostly share one folder.

    Raises:
        UserError: they differ, and the run has something to lose.
    """
    now = _on_hub(config.data)
    if config.rerun or not (now or _folder(config.data)):
        return
    if not (run.result or run.checkpoint.exists()):
        return
    if now and (then := _on_hub(run.config.data)) and then != now:
        raise _other(run, f"data.path={then} then, {now} now")
    record = read_mapping(_record(run))
    if record and not now and (difference := _files_differ(record, config.data, looked)):
        raise _other(run, difference)


def _folder(data: Data) -> str | None:
    """Where the user's own files are; None where there are none."""
    return data.root if data.target == IMAGE_FOLDER else None if _on_hub(data) else data.path


def _files_differ(then: dict[str, Json], data: Data, looked: "Looked | None") -> str:
    """How the user's files differ from those of a record, in words; empty where they do not, or are not there."""
    looked, folder = {} if looked is None else looked, _folder(data)
    if folder is None or (data.target != IMAGE_FOLDER and then.get("files") is None):
        return ""
    if folder not in looked:
        looked[folder] = _files(folder) if data.target == IMAGE_FOLDER else _tree(folder)
    now = looked[folder]
    if isinstance(now, UserError):
        return f"now {now}"
    if isinstance(now, str):
        return "" if then.get("files") in (None, now) else "files of other names or sizes"
    if not now or then.get("files") in (None, now.fingerprint()):
        return ""
    counts: dict[str, Json] = {"train_images": [len(now.train)], "test_images": [len(now.test)]}
    return _difference(then, {**counts, "classes": [*now.classes]})


def _tree(folder: str) -> str | None:
    """The fingerprint of all files of a folder; None where it is not there."""
    return tree_fingerprint(Path(folder)) if os.path.isdir(folder) else None


def _files(root: str) -> Files | UserError | None:
    """The files under the root, or why they are no data set; None where none are there, as on a disk that is not mounted."""
    if not os.path.isdir(os.path.join(root, "train")):
        return None
    try:
        return find_files(root)
    except UserError as error:
        return error


def _other(run: Run, difference: str, remedy: str = "") -> UserError:
    remedy = remedy or "bring them back, give data.name=<another> for a new run, or rerun=true to start over"
    return UserError(f"{run.folder} was trained on other images ({difference}): {remedy}")


def _evaluated_on_others(run: Run, data: Data, difference: str) -> UserError:
    return UserError(
        f"{run.folder} was evaluated on other images named {data.name} ({difference}): give data.name=<another> for these, "
        "or rerun=true to forget what was measured on those"
    )


def _difference(then: dict[str, Json], now: dict[str, Json]) -> str:
    """The first thing in which two data sets differ, in words."""
    pairs = ((before, after) for before, after in zip(_aspects(then), _aspects(now)) if before != after)
    return next((f"{before} then, {after} now" for before, after in pairs), "as many, but not the same")


def _aspects(record: dict[str, Json]) -> list[str]:
    """What a data set is seen by from outside, the pixels last, which not every record has."""
    found = (record.get(key) for key in ("train_images", "test_images", "classes"))
    train, test, classes = (value if isinstance(value, list) else [] for value in found)
    counts = [f"{shape[0] if shape else 'no'} {noun} images" for shape, noun in ((train, "training"), (test, "test"))]
    pixels = [f"{'x'.join(map(str, shape[2:]))} pixels" for shape in (train, test) if shape[2:]]
    return [*counts, f"{len(classes)} classes", f"classes {', '.join(map(str, classes[:5]))}", *pixels]
