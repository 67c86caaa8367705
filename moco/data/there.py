"""Whether data can be had, found in an instant: a sweep looks here once before its jobs begin. Imports no torch."""

import importlib.util
import socket
from pathlib import Path
from typing import NamedTuple

from moco.data.files import absolute, find_files, refuse, shown
from moco.errors import UserError

PATIENCE = 5.0  # seconds that a host has to answer


class Archive(NamedTuple):
    """What torchvision downloads: the folder that it unpacks, the archive and its host."""

    folder: str
    file: str
    host: str
    port: int = 443

    def is_in(self, root: Path) -> bool:
        """Whether it is there, unpacked or not."""
        return (root / self.folder).is_dir() or (root / self.file).is_file()


ARCHIVES = {
    "CIFAR10": Archive("cifar-10-batches-py", "cifar-10-python.tar.gz", "www.cs.toronto.edu"),
    "CIFAR100": Archive("cifar-100-python", "cifar-100-python.tar.gz", "www.cs.toronto.edu"),
    "STL10": Archive("stl10_binary", "stl10_binary.tar.gz", "ai.stanford.edu", 80),
}


def check_data(
    target: str, root: str | None, dataset: object, validation: float, path: str | None, skip_corrupt: bool
) -> None:
    """Refuses data that is absent and cannot be downloaded; data of targets that are not ours is not judged.

    Args:
        target: the `_target_` of the data's section; the others are keys of it.

    Raises:
        UserError: the folder or the archive is not there, or lacks what it should hold.
    """
    name = target.rpartition(".")[2]
    if not target.startswith("moco.data."):
        return
    if name == "load_image_folder":
        files = find_files(root)
        if files.bad and not skip_corrupt:
            raise refuse(files.bad, len(files.all()) + len(files.bad))
        if files.classes and not files.test and not validation:
            raise UserError(without_test(root))
    elif name == "load_huggingface":
        check_hub(path or "")
    elif name == "load_torchvision" and (archive := ARCHIVES.get(str(dataset))):
        place = absolute(root or ".")
        if not archive.is_in(place) and (reason := _unreachable(archive)):
            raise UserError(not_there(str(dataset), place, reason))


def check_hub(path: str) -> None:
    """Raises UserError where the package that loads such data is absent, or `path` means a folder that is not there."""
    if importlib.util.find_spec("datasets") is None:
        raise UserError("data=huggingface needs datasets: pip install datasets")
    if path.startswith((".", "/", "~")) and not absolute(path).is_dir():
        raise UserError(f"data.path={path} is not a folder")


def without_test(root: str | None) -> str:
    """The line on a folder without images to evaluate on."""
    return f"data.root={shown(root or '')} has no test/<class>/ or val/<class>/: add one, or give data.validation=0.1"


def not_there(dataset: str, root: Path, reason: str) -> str:
    """The line on an archive that is absent."""
    archive = ARCHIVES[dataset].file if dataset in ARCHIVES else "its archive"
    return (
        f"{dataset} is not in {shown(root)} and cannot be downloaded ({reason[:80]}): put {archive} there, give data.root, or "
        "use data=digits, which needs no download"
    )


def _unreachable(archive: Archive) -> str:
    """Why the archive's host does not answer; empty where it does, or where a proxy would ask for us."""
    import urllib.request  # slow to load, and seldom needed

    if urllib.request.getproxies():
        return ""
    try:
        socket.create_connection((archive.host, archive.port), PATIENCE).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
