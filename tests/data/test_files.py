"""Which files of a folder are taken, with which labels, and what is said of the others. None of them is opened here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moco.data.files import Files, find_files
from moco.errors import UserError


def make(root: Path, *names: str) -> Path:
    """Files of that name under the root."""
    for name in names:
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + os.fsencode(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))
    return root


def taken(part: list) -> list[tuple[str, int]]:
    return [(file.name, label) for file, label in part]


def found(root: Path) -> Files:
    return find_files(str(root))


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        found(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LABELLED = ("train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png")


def test_all_suffixes_that_pillow_reads_and_folders_in_a_class_are_taken(tmp_path: Path):
    more = ["0.pgm", "2.gif", "3.jfif", "4.JPG", "day/5.png", "day/deeper/6.webp"]
    files = found(make(tmp_path, *LABELLED, *(f"train/a/{name}" for name in more)))
    assert taken(files.train) == [
        *((f"train/a/{name}", 0) for name in ("0.pgm", "1.png", "2.gif", "3.jfif", "4.JPG", *more[4:])),
        ("train/b/1.png", 1),
    ]
    assert not files.said and not files.bad and not files.bank


def test_files_that_are_no_images_are_counted_in_one_line(tmp_path: Path):
    files = found(make(tmp_path, *LABELLED, "train/a/1.heic", "train/a/2.heic", "train/labels.csv"))
    assert files.said == [f"{tmp_path}: files that are no images are left out (2 .heic, 1 .csv)"]


def test_what_archives_and_file_servers_leave_is_ignored(tmp_path: Path):
    junk = ["train/._a/1.png", "train/__MACOSX/1.png", "train/@eaDir/1.png", "train/a/._1.png", "train/a/@eaDir/1.png"]
    junk += ["test/.ipynb_checkpoints/1.png", "train/.DS_Store", "__MACOSX/train/a/1.png", "test/a/.hidden/1.png"]
    files = found(make(tmp_path, *LABELLED, *junk))
    assert [name for name, _ in taken(files.train + files.test)] == [*LABELLED] and files.classes == ["a", "b"]
    assert not files.said


def test_names_that_are_not_utf_8(tmp_path: Path):
    odd = os.fsdecode(b"caf\xe9")
    files = found(make(tmp_path / odd, f"train/{odd}/1.png", f"train/{odd}/{odd}.png", f"test/{odd}/2.png"))
    assert files.classes == ["caf\\xe9"] and len(files.train) == 2
    assert len(files.fingerprint()) == 16
    (tmp_path / odd / "test" / odd / "2.png").unlink()
    refused(tmp_path / odd).encode()


def test_unlabelled_images_beside_classes(tmp_path: Path):
    more = ("train/9.png", "train/unlabelled/3.png", "unlabeled/deep/4.png")
    files = found(make(tmp_path, *LABELLED, *more))
    assert taken(files.train) == [("train/a/1.png", 0), ("train/b/1.png", 1), *((name, -1) for name in more)]
    assert files.classes == ["a", "b"] and not files.bank


@pytest.mark.parametrize("bank, test", [("labelled", "test"), ("val", "test"), ("labelled", "val")])
def test_a_training_set_without_labels_votes_by_a_labelled_one_beside_it(tmp_path: Path, bank: str, test: str):
    files = found(
        make(
            tmp_path,
            "train/1.png",
            "train/2.png",
            f"{bank}/a/3.png",
            f"{bank}/b/4.png",
            f"{test}/a/5.png",
            f"{test}/b/6.png",
        )
    )
    assert taken(files.train) == [("train/1.png", -1), ("train/2.png", -1)] and files.classes == ["a", "b"]
    assert taken(files.bank) == [(f"{bank}/a/3.png", 0), (f"{bank}/b/4.png", 1)]
    assert taken(files.test) == [(f"{test}/a/5.png", 0), (f"{test}/b/6.png", 1)]


def test_one_labelled_set_votes_and_a_share_of_it_is_to_be_held_out(tmp_path: Path):
    files = found(make(tmp_path, "train/unlabelled/1.png", "val/a/3.png", "val/b/4.png"))
    assert taken(files.bank) == [("val/a/3.png", 0), ("val/b/4.png", 1)] and not files.test


def test_no_label_at_all_is_said(tmp_path: Path):
    files = found(make(tmp_path, "train/1.png", "test/2.png"))
    assert taken(files.train) == [("train/1.png", -1)] and not files.classes and not files.bank and not files.test
    assert files.said == [
        f"{tmp_path}/test: 1 images without a class are left out",
        f"{tmp_path} has no labels: there is no kNN, and no linear evaluation",
    ]


@pytest.mark.parametrize("flat", ["test/1.png", "test/unknown/1.png"])
def test_a_test_folder_without_the_classes_gives_way_to_val(tmp_path: Path, flat: str):
    files = found(make(tmp_path, "train/a/1.png", "val/a/2.png", flat))
    assert taken(files.test) == [("val/a/2.png", 0)]
    left_out = [f"{tmp_path}/test: 1 images without a class are left out"]
    assert files.said == (left_out if flat == "test/1.png" else [])


def test_no_test_folder_leaves_nothing_to_evaluate_on(tmp_path: Path):
    assert not found(make(tmp_path, "train/a/1.png")).test
    assert found(make(tmp_path, "test/1.png")).said == [f"{tmp_path}/test: 1 images without a class are left out"]


def test_links_are_followed_and_loops_end(tmp_path: Path):
    root = make(tmp_path / "data", *LABELLED)
    make(tmp_path / "elsewhere", "5.png", "deep/6.png")
    (root / "train" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    names = [name for name, label in taken(found(root).train) if label == 0]
    assert names == ["train/a/1.png", "train/a/more/5.png", "train/a/more/deep/6.png"]


def test_links_that_lead_nowhere_and_pipes_are_bad(tmp_path: Path):
    root = make(tmp_path, *LABELLED)
    (root / "train" / "c").symlink_to("/nowhere/c")  # a class that would be missing in silence
    (root / "train" / "a" / "2.png").symlink_to("/nowhere/2.png")
    os.mkfifo(root / "test" / "b" / "3.png")
    assert sorted(found(root).bad) == [
        (str(root / "test" / "b" / "3.png"), "not a file"),
        (str(root / "train" / "a" / "2.png"), "a link that leads nowhere"),
        (str(root / "train" / "c"), "a link that leads nowhere"),
    ]


def test_the_fingerprint_follows_the_files_and_not_their_place(tmp_path: Path):
    root = make(tmp_path / "data", *LABELLED)
    before = found(root).fingerprint()
    root.rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "train" / "a" / "1.png", (0, 0))
    assert found(tmp_path / "moved").fingerprint() == before
    make(tmp_path / "moved", "train/a/2.png")
    more = found(tmp_path / "moved").fingerprint()
    (tmp_path / "moved" / "train" / "a" / "2.png").rename(tmp_path / "moved" / "train" / "b" / "2.png")
    assert len({before, more, found(tmp_path / "moved").fingerprint()}) == 3


def test_looking_at_files_loads_no_torch():
    code = "import sys, moco.data.files; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
