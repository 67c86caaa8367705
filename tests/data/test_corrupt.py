"""Files that are not readable images: named, refused, or left out where that is asked for."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from equality import equal
from photos import folder, picture

from moco.data import Dataset, load_image_folder, packing
from moco.data.decode import read_image
from moco.data.packed_images import PackedImages
from moco.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With two damaged files and a link that leads nowhere."""
    root = folder(tmp_path / "photos", 4, 2)
    for name in ("train/a/01.png", "test/c/00.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    (root / "train" / "b" / "zz.png").symlink_to("/nowhere")
    return root


def load(root: Path, kind: Literal["raw", "jpeg"] = "raw", skip: bool = True) -> Dataset:
    return load_image_folder(str(root), 16, kind, skip_corrupt=skip)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_what_cannot_be_read_is_left_out_where_that_is_asked_for(
    root: Path, kind: Literal["raw", "jpeg"], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as caught:
        load(root, kind, skip=False)
    lines = str(caught.value).splitlines()
    assert [line.split(" is not a readable image")[0] for line in lines] == [
        f"{root}/{name}" for name in ("train/b/zz.png", "train/a/01.png", "test/c/00.png")
    ]
    assert all(line.endswith(": repair or remove it, or give data.skip_corrupt=true") for line in lines)
    capsys.readouterr()
    data = load(root, kind)
    listed = root / ".moco" / f"16-{kind}-skip.bad.txt"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"3 files that are not readable images are left out, see {listed}"
    )
    assert [line.split("\t")[0] for line in listed.read_text().splitlines()] == [
        f"{root}/{name}" for name in ("train/b/zz.png", "train/a/01.png", "test/c/00.png")
    ]
    assert data.train_labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4 and data.test_labels.tolist() == [0, 0, 1, 1, 2]
    for one in ("read_image", "read_small"):
        monkeypatch.setattr(packing, one, lambda path, size: pytest.fail(f"{path} was decoded again"))
    again = load(root, kind)
    assert again.fingerprint() == data.fingerprint() and again.files == data.files
    if kind == "raw":
        assert equal(again, data) and isinstance(again.train_images, PackedImages)
        expected = read_image(str(root / "train" / "a" / "02.png"), 16)
        assert torch.equal(again.train_images.loaded()[1].permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_a_repaired_file_is_taken(root: Path) -> None:
    assert len(load(root).train_images) == 11
    picture(7, 20, 20).save(root / "train" / "a" / "01.png")
    found = load(root)
    assert len(found.train_images) == 12 and len(found.test_images) == 5
