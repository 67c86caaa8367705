"""Data that is missing or has changed is found once, before a sweep begins."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import ROOT, composed, python
from PIL import Image

from moco.config.check import check_linear_eval
from moco.config.schema import Config
from moco.data.files import find_files
from moco.errors import UserError
from moco.io import write_json
from moco.launch.data import refuse_changed, refuse_missing
from moco.launch.job import Task
from moco.launch.options import LocalOptions
from moco.launch.plan import launch
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.runs.sweep import Sweep


@pytest.fixture
def tasks(checked: Callable[..., Config]) -> Callable[..., list[Task]]:
    """tasks("data=cifar10") -> six seeds of it."""

    def make(*words: str) -> list[Task]:
        configs = [checked(*words, f"seed={seed}") for seed in range(6)]
        return [Task(Run(Path(config.runs_dir) / folder_name(config)), config) for config in configs]

    return make


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that are asked; none of them answers."""
    hosts: list[str] = []

    def no_network(address: tuple[str, int], timeout: float) -> None:
        hosts.append(address[0])
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", no_network)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return hosts


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / name)
    return root


def refused(job: Callable[[], object]) -> list[str]:
    with pytest.raises(UserError) as caught:
        job()
    return str(caught.value).splitlines()


def test_six_points_without_data_are_one_line_and_one_question_to_the_host(
    tasks: Callable[..., list[Task]], calls: list[str], tmp_path: Path
):
    sweep = Sweep(str(tmp_path / "runs"), "seeds")
    points = tasks("data=cifar10", f"data.root={tmp_path}/none")
    [line] = refused(lambda: launch(points, LocalOptions(), sweep))
    assert line.startswith(f"CIFAR10 is not in {tmp_path}/none and cannot be downloaded (Network is unreachable)")
    assert calls == ["www.cs.toronto.edu"] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("there_is", ["cifar-100-python/train", "cifar-100-python.tar.gz"])
def test_data_that_is_there_asks_nobody(
    tasks: Callable[..., list[Task]], calls: list[str], tmp_path: Path, there_is: str
):
    path = tmp_path / "data" / there_is
    path.parent.mkdir(parents=True)
    path.touch()
    refuse_missing(tasks("data=cifar100", f"data.root={tmp_path}/data"))
    refuse_missing(tasks("data=digits"))
    assert not calls


def test_a_proxy_asks_for_us(tasks: Callable[..., list[Task]], calls: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    refuse_missing(tasks("data=stl10", "data.root=/nowhere"))
    assert not calls


def test_all_that_a_folder_lacks_is_found(tasks: Callable[..., list[Task]], tmp_path: Path):
    folder = ["data=image_folder", f"data.root={tmp_path}/set"]
    assert refused(lambda: refuse_missing(tasks(*folder))) == [
        f"data.root={tmp_path}/set has no folder train/: it must hold train/<class>/ and test/<class>/"
    ]
    images(tmp_path / "set", "train/a/1.png", "train/b/1.png")
    [line] = refused(lambda: refuse_missing(tasks(*folder)))
    assert "has no test/<class>/ or val/<class>/: add one, or give data.validation=0.1" in line
    refuse_missing(tasks(*folder, "data.validation=0.1"))
    for i in range(12):
        (tmp_path / "set" / "train" / "a" / f"link{i}.png").symlink_to("/nowhere")
    lines = refused(lambda: refuse_missing(tasks(*folder, "data.validation=0.1")))
    assert len(lines) == 11 and lines[-1] == "and 2 more: 12 of 14 files are not readable images"
    refuse_missing(tasks(*folder, "data.validation=0.1", "data.skip_corrupt=true"))


def test_a_linear_evaluation_looks_where_the_images_lie_now(tasks: Callable[..., list[Task]], tmp_path: Path):
    task = tasks("data=image_folder", f"data.root={tmp_path}/set")[0]
    task.freeze()
    words = ["tracker=none", f"data.root={images(tmp_path / 'moved', 'train/a/1.png', 'test/a/1.png')}"]
    asked = check_linear_eval(composed(*words, entry="linear_eval"))
    refuse_missing([Task(task.run, None, (asked,))])
    refused(lambda: refuse_missing([Task(task.run, None, (check_linear_eval(composed(entry="linear_eval")),))]))


def test_finished_and_begun_points_with_other_images_are_each_named(tasks: Callable[..., list[Task]], tmp_path: Path):
    root = images(tmp_path / "set", "train/a/1.png", "test/a/1.png")
    points = tasks("data=image_folder", f"data.root={root}")
    then = {
        "files": find_files(str(root)).fingerprint(),
        "train_images": [1, 3, 8, 8],
        "test_images": [1, 3, 8, 8],
        "classes": ["a"],
    }
    for task in points[:3]:
        task.freeze()
        write_json(task.run.folder / "data.json", then)
    points[0].run.write_result({"knn/top1": 50.0})
    points[1].run.checkpoint.touch()
    refuse_changed(points)
    images(root, "train/a/2.png", "train/a/3.png")
    lines = refused(lambda: refuse_changed(points))
    assert [line.partition(" ")[0] for line in lines] == [str(task.run.folder) for task in points[:2]]
    assert all("(1 training images then, 3 training images now)" in line for line in lines)


def test_looking_for_data_loads_no_torch():
    code = "import sys, moco.launch.data, moco.data.there; sys.exit('torch' in sys.modules)"
    assert python("-c", code, cwd=ROOT).returncode == 0
