"""Whether the data is still what a run was trained on: its folder keeps a fingerprint, in data.json. Imports no torch."""

import os
from typing import TYPE_CHECKING, TypeAlias

from moco.config.schema import Config
from moco.data.files import Files, find_files
from moco.errors import UserError
from moco.io import Json, read_mapping, write_json
from moco.runs.run import Run

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


def keep(run: Run, now: dict[str, Json]) -> None:
    """Writes what `described` tells into the run's folder."""
    write_json(run.folder / RECORD, now)


def check_images(run: Run, now: dict[str, Json], remedy: str = "") -> None:
    """Compares all pixels, labels and classes with those that the run was trained on, where that was kept.

    Raises:
        UserError: they differ.
    """
    then = read_mapping(run.folder / RECORD)
    # Before there were packs the pixels of image folders were hashed in another way; what both have is names and sizes.
    key = "fingerprint" if then and bool(then.get("packed")) == bool(now.get("packed")) else "files"
    if then and then.get(key) != now.get(key):
        raise _other(run, _difference(then, now), remedy)


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


Looked: TypeAlias = dict[str | None, Files | UserError | None]  # what was found under each root, see _files


def check_files(run: Run, config: Config, looked: Looked | None = None) -> None:
    """Compares names and sizes of an image folder's files with those that the run was trained on, without a look into them.

    It is for what is not going to load the images: a run that is done, and all runs of a sweep before it begins. A folder that
    is not there, and data of another kind, is not compared.

    Args:
        looked: what was found already; the points of a sweep mostly share one folder.

    Raises:
        UserError: they differ, and the run has something to lose.
    """
    if config.rerun or config.data.target != IMAGE_FOLDER:
        return
    then = read_mapping(run.folder / RECORD)
    if not then or not (run.result or run.checkpoint.exists()):
        return
    looked = {} if looked is None else looked
    if config.data.root not in looked:
        looked[config.data.root] = _files(config.data.root)
    now = looked[config.data.root]
    if isinstance(now, UserError):
        raise _other(run, f"now {now}")
    if now and then.get("files") not in (None, now.fingerprint()):
        counts: dict[str, Json] = {"train_images": [len(now.train)], "test_images": [len(now.test)]}
        raise _other(run, _difference(then, {**counts, "classes": [*now.classes]}))


def _files(root: str | None) -> Files | UserError | None:
    """The files under the root, or why they are no data set; None where none are there, as on a disk that is not mounted."""
    if not root or not os.path.isdir(os.path.join(root, "train")):
        return None
    try:
        return find_files(root)
    except UserError as error:
        return error


def _other(run: Run, difference: str, remedy: str = "") -> UserError:
    remedy = remedy or "bring them back, give data.name=<another> for a new run, or rerun=true to start over"
    return UserError(f"{run.folder} was trained on other images ({difference}): {remedy}")


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
