"""The image files of a folder by split and class. Imports no torch, since a sweep looks here before it starts a job."""

import contextlib
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from moco.errors import UserError

# What Pillow reads. A file with another suffix is left out, and that is said.
SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
DATA = frozenset(
    ".arrow .csv .gz .jsonl .parquet .tar .tsv .zip .zst".split()
)  # of data sets that are no folders of images
# What archives, file servers and Windows put beside people's files, apart from names that begin with a point.
NOT_THE_USERS = frozenset(["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"])
UNLABELLED = ("unlabelled", "unlabeled")  # folders of images without a label, in train/ or beside it
EVALUATED = ("test", "val", "valid", "validation")  # the first that has class folders is evaluated on
LAYOUT = "it must hold train/<class>/ and test/<class>/"
NAMED = 10  # files that an error names


class ImageFile(NamedTuple):
    """One image; its name is relative to the root of the data."""

    path: str
    name: str
    size: int  # bytes
    changed: int  # nanoseconds


@dataclass
class Files:
    """The image files of a data set.

    Attributes:
        train, bank, test: the files with their labels, -1 for none; bank is empty where the labelled ones of train serve.
        bad: paths that cannot be read, each with the reason.
        said: lines about what was left out.
    """

    root: Path
    classes: list[str] = field(default_factory=list)
    train: list[tuple[ImageFile, int]] = field(default_factory=list)
    bank: list[tuple[ImageFile, int]] = field(default_factory=list)
    test: list[tuple[ImageFile, int]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def all(self) -> list[ImageFile]:
        """The files of train, then of bank, then of test."""
        return [file for part in (self.train, self.bank, self.test) for file, _ in part]

    def fingerprint(self) -> str:
        """A word that follows from names and sizes of the files, wherever they lie, and from their parts."""
        digest = hashlib.sha256(repr([len(self.train), len(self.bank), len(self.test)]).encode())
        for file in self.all():
            digest.update(os.fsencode(file.name) + b"\0%d\0" % file.size)
        return digest.hexdigest()[:16]


def tree_fingerprint(folder: Path) -> str:
    """A word that follows from names and sizes of the files of a folder that hold data, wherever it lies.

    Those do not that are hidden, that `datasets` keeps there, and that belong to a run.
    """
    digest = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        if "lease.json" in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)
            if name.startswith((".", "cache-")) or os.path.splitext(name)[1].lower() not in SUFFIXES | DATA:
                continue
            with contextlib.suppress(OSError):
                size = os.stat(path).st_size
                digest.update(os.fsencode(os.path.relpath(path, folder)) + b"\0%d\0" % size)
    return digest.hexdigest()[:16]


def shown(path: str | Path) -> str:
    """A path as it can be printed anywhere, also where its name is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def absolute(root: str) -> Path:
    """The root as an absolute path, ~ expanded."""
    return Path(os.path.expanduser(root)).absolute()


def find_files(root: str | None) -> Files:
    """The image files under `root`, each folder in order of name.

    Training images are those in train/<class>/, and without a label those in train/ itself, train/unlabelled/ and
    unlabelled/. Where train/ has no class folders, labelled/<class>/ or val/<class>/ are the images that vote in kNN; where
    these are absent too, there are no classes. Evaluated are those in test/<class>/, or val/<class>/ where test/ has no class
    folders; none where both are absent. Folders in a class folder belong to the class.

    Raises:
        UserError: train/ is absent or empty, a class has no image, training and test have other classes, or a folder cannot be
            read.
    """
    if not root:
        raise UserError("data=image_folder needs data.root: a folder that holds train/<class>/ and test/<class>/")
    base = absolute(root)
    train = base / "train"
    if not train.is_dir():
        raise UserError(f"data.root={shown(root)} has no folder train/: {LAYOUT}")
    classes, evaluated = _class_folders(train), _evaluated(base)
    bank: Path | None = train
    if not classes:
        bank, evaluated = _voters(base, evaluated)
        classes = _class_folders(bank) if bank else []
    test = _choose(evaluated, classes)
    if bank and test:
        _check_classes(bank, test, classes)
    scan, found = _Scan(base), Files(base, [shown(name) for name in classes])
    labelled = scan.labelled(bank, classes) if bank else []
    unlabelled = [(file, -1) for folder in _unlabelled(base) for file in scan.tree(folder)]
    found.train = (labelled if bank == train else []) + [(file, -1) for file in scan.loose(train)] + unlabelled
    found.bank = [] if bank == train else labelled
    found.test = scan.labelled(test, classes) if test else []
    if not found.train and not scan.bad:
        raise UserError(f"{shown(train)} has no class folder <class>/ and no image: {LAYOUT}")
    found.bad, found.said = scan.bad, [*scan.said(), *_left_out(scan, base, {train, bank, test})]
    if not classes:
        found.said.append(f"{shown(base)} has no labels: there is no kNN, and no linear evaluation")
    return found


def refuse(bad: Sequence[tuple[str, str]], total: int, listed: Path | None = None) -> UserError:
    """The error that names the bad files, ten at most, each with its reason.

    Args:
        listed: the file that names all of them.
    """
    remedy = "repair or remove it, or give data.skip_corrupt=true"
    lines = [f"{shown(path)} is not a readable image ({reason}): {remedy}" for path, reason in bad[:NAMED]]
    if len(bad) > NAMED:
        everywhere = f", all named in {shown(listed)}" if listed else ""
        lines.append(f"and {len(bad) - NAMED} more: {len(bad)} of {total} files are not readable images{everywhere}")
    return UserError("\n".join(lines))


class _Scan:
    """Walks folders; remembers what cannot be read and what is left out."""

    def __init__(self, base: Path):
        self.base = base
        self.bad: list[tuple[str, str]] = []
        self.others: Counter[str] = Counter()

    def tree(self, folder: Path) -> Iterator[ImageFile]:
        """The images of a folder and of those in it, in order of name."""
        return self._walk(str(folder), frozenset())

    def loose(self, folder: Path) -> Iterator[ImageFile]:
        """The images that lie in the folder itself."""
        return self._walk(str(folder), None)

    def labelled(self, split: Path, classes: Sequence[str]) -> list[tuple[ImageFile, int]]:
        """The images of a split's class folders with their labels.

        Raises:
            UserError: a class has no image.
        """
        return [(file, label) for label, name in enumerate(classes) for file in self._of_class(split / name)]

    def _of_class(self, folder: Path) -> list[ImageFile]:
        known, files = len(self.bad), list(self.tree(folder))
        if not files and len(self.bad) == known:
            other = next((entry.name for entry in _entries(str(folder))), None)
            holds = f"it holds {shown(other)}" if other else "it is empty"
            raise UserError(
                f"{shown(folder)} has no image ({holds}): add images ({' '.join(sorted(SUFFIXES))}) or remove it"
            )
        return files

    def _walk(self, folder: str, above: "frozenset[tuple[int, int]] | None") -> Iterator[ImageFile]:
        """The images of a folder; `above` are the folders that led here, None where those in it are not entered."""
        for entry in _entries(folder):
            suffix = os.path.splitext(entry.name)[1].lower()
            try:
                status = entry.stat()
            except OSError as error:
                reason = "a link that leads nowhere" if entry.is_symlink() else error.strerror or str(error)
                self.bad.append((entry.path, reason))
                continue
            if stat.S_ISDIR(status.st_mode):
                here = (status.st_dev, status.st_ino)
                if above is not None and here not in above:  # a link to a folder above would never end
                    yield from self._walk(entry.path, above | {here})
            elif suffix not in SUFFIXES:
                self.others[suffix or entry.name] += 1
            elif not stat.S_ISREG(status.st_mode):
                self.bad.append((entry.path, "not a file"))
            else:
                name = (
                    os.path.relpath(entry.path, self.base) if above is None else entry.path[len(str(self.base)) + 1 :]
                )
                yield ImageFile(entry.path, name, status.st_size, status.st_mtime_ns)

    def said(self) -> list[str]:
        """A line on the files that are no images."""
        listed = ", ".join(f"{n} {shown(suffix)}" for suffix, n in self.others.most_common(5))
        return [f"{shown(self.base)}: files that are no images are left out ({listed})"] if self.others else []


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What the user has put into a folder, by name.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name[0] != "." and entry.name not in NOT_THE_USERS]
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be read ({error.strerror}): make it readable or remove it") from error
    return sorted(found, key=lambda entry: entry.name)


def _class_folders(folder: Path) -> list[str]:
    """The names of a split's class folders."""
    return [entry.name for entry in _entries(str(folder)) if entry.is_dir() and entry.name not in UNLABELLED]


def _unlabelled(base: Path) -> list[Path]:
    """The folders of images without a label."""
    return [folder for parent in (base / "train", base) for name in UNLABELLED if (folder := parent / name).is_dir()]


def _left_out(scan: "_Scan", base: Path, used: "set[Path | None]") -> list[str]:
    """Lines on the images for evaluation that have no class."""
    folders = [base / name for name in ("labelled", *EVALUATED) if (base / name).is_dir()]
    counts = {
        folder: sum(1 for _ in scan.loose(folder)) for folder in folders if folder in used or not _class_folders(folder)
    }
    return [f"{shown(folder)}: {n} images without a class are left out" for folder, n in counts.items() if n]


def _evaluated(base: Path) -> list[Path]:
    """The folders to evaluate on that have class folders, the first choice first."""
    return [base / name for name in EVALUATED if (base / name).is_dir() and _class_folders(base / name)]


def _voters(base: Path, evaluated: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """Where the images lie that vote, for a training set without class folders, and what may be evaluated on then."""
    if (base / "labelled").is_dir():
        return base / "labelled", list(evaluated)
    return (evaluated[-1], list(evaluated[:-1])) if evaluated else (None, [])


def _choose(evaluated: Sequence[Path], classes: Iterable[str]) -> Path | None:
    """The first folder that shares a class with the labelled images, else the first."""
    known = set(classes)
    return next((f for f in evaluated if known & set(_class_folders(f))), evaluated[0] if evaluated else None)


def _check_classes(bank: Path, test: Path, classes: Sequence[str]) -> None:
    """Raises UserError where a class is in one of the folders alone."""
    others = _class_folders(test)
    for folder, missing in ((test, set(classes) - set(others)), (bank, set(others) - set(classes))):
        if missing:
            raise UserError(
                f"{shown(folder)} has no class folder {shown(min(missing))}/: {bank.name}/ and {test.name}/ need the same "
                "classes"
            )
