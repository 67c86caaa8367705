"""The data sets of torchvision, from archives as their authors pack them."""

import io
import pickle
import tarfile
import urllib.error
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from moco.data import load_torchvision
from moco.errors import UserError


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "STL10"])
def test_without_network_or_archive_one_line_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    with pytest.raises(UserError) as caught:
        load_torchvision(name, str(tmp_path / "none"))
    message = str(caught.value)
    archive = {
        "CIFAR10": "cifar-10-python.tar.gz",
        "CIFAR100": "cifar-100-python.tar.gz",
        "STL10": "stl10_binary.tar.gz",
    }
    assert message.startswith(f"{name} is not in {tmp_path / 'none'} and cannot be downloaded") and "\n" not in message
    assert f"put {archive[name]} there" in message and "data=digits" in message


def cifar_archive(root: Path) -> dict[str, np.ndarray]:
    """cifar-10-python.tar.gz as its authors pack it, of 4 images a batch, under root; the rows of all its batches."""
    rows = {}
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:

        def add(name: str, content: dict) -> None:
            packed = pickle.dumps(content)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(packed)
            archive.addfile(info, io.BytesIO(packed))

        for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
            rows[name] = np.random.default_rng(i).integers(0, 256, (4, 3072), dtype=np.uint8)
            add(name, {"data": rows[name], "labels": [i, 9 - i, 0, 1]})
        add("batches.meta", {"label_names": list("abcdefghij")})
    return rows


def test_cifar_comes_out_of_its_archive_as_it_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = cifar_archive(tmp_path / "data")
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda path, md5, **_: True)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *a, **k: pytest.fail("it was there"))
    found = load_torchvision("CIFAR10", str(tmp_path / "data"))
    train = np.concatenate([rows[f"data_batch_{n}"] for n in range(1, 6)]).reshape(20, 3, 32, 32)
    assert torch.equal(found.train_images, torch.from_numpy(train)) and found.train_images.is_contiguous()
    assert torch.equal(found.test_images, torch.from_numpy(rows["test_batch"].reshape(4, 3, 32, 32)))
    assert found.train_labels.tolist()[:8] == [0, 9, 0, 1, 1, 8, 0, 1] and found.test_labels.tolist() == [5, 4, 0, 1]
    assert found.train_labels.dtype == torch.int64 and found.classes == list("abcdefghij")


def test_stl10_trains_on_what_has_no_label_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, generator = tmp_path / "stl10_binary", np.random.default_rng(0)
    base.mkdir()
    images = {"train": 3, "unlabeled": 5, "test": 2}
    raw = {split: generator.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for split, n in images.items()}
    for split, values in raw.items():  # in columns: torchvision turns them back
        np.transpose(values, (0, 1, 3, 2)).tofile(base / f"{split}_X.bin")
    np.array([1, 10, 2], np.uint8).tofile(base / "train_y.bin")
    np.array([3, 4], np.uint8).tofile(base / "test_y.bin")
    (base / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr("torchvision.datasets.stl10.check_integrity", lambda path, md5=None: True)
    found = load_torchvision("STL10", str(tmp_path))
    assert torch.equal(found.train_images, torch.from_numpy(np.concatenate([raw["train"], raw["unlabeled"]])))
    assert found.train_labels.tolist() == [0, 9, 1] + [-1] * 5 and found.test_labels.tolist() == [2, 3]
    assert found.labelled()[1].tolist() == [0, 9, 1] and found.classes == list("abcdefghij")


def test_one_process_downloads_and_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    lock = filelock.FileLock(tmp_path / ".cifar-10-python.tar.gz.lock")
    cifar_archive(tmp_path / "data")
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda path, md5, **_: True)
    with lock:
        monkeypatch.setattr("moco.data.torchvision.PATIENCE", 0.1)
        with pytest.raises(UserError, match="has been locked for"):
            load_torchvision("CIFAR10", str(tmp_path))
        assert "another process downloads CIFAR10" in capfd.readouterr().err
        (tmp_path / "data" / "cifar-10-python.tar.gz").rename(tmp_path / "cifar-10-python.tar.gz")  # it has come
    assert len(load_torchvision("CIFAR10", str(tmp_path)).train_images) == 20
    assert not capfd.readouterr().err and sorted(p.name for p in tmp_path.glob(".*")) == []
