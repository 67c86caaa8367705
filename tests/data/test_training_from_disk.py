"""Where images lie does not change a run: device or disk, killed or not, it is the same, bit for bit."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from common import METHODS, ROOT, TINY, python
from photos import folder, picture

from moco.config.schema import Config
from moco.errors import UserError
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.training import memory
from moco.training.components import Components
from moco.training.pretrain import train

# Of 48 images in batches of 16: three steps an epoch. Killed before the fifth, in the middle of the second epoch.
KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from common import checked
from moco.training import trainer
from moco.training.pretrain import train
draw = trainer.step_seed
def until(seed, stream, step):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(seed, stream, step)
trainer.step_seed = until
train(checked(*sys.argv[1:]))
"""
Make = Callable[..., list[str]]


@pytest.fixture
def words(tmp_path: Path) -> Make:
    """words("disk", ...) -> a run of its own for each place, on the same images."""
    root = folder(tmp_path / "photos", 16, 6)

    def make(name: str, *more: str) -> list[str]:
        given = [word for word in TINY if not word.startswith(("data", "batch_size"))]
        sizes = ["data.size=16", "batch_size=16", "augment.size=12", "augment.eval_size=16", "checkpoint_minutes=0"]
        data = ["data=image_folder", f"data.root={root}", f"runs_dir={tmp_path}/{name}"]
        return [*METHODS["moco"], *given, *sizes, *data, *more]

    return make


def outcome(config: Config) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a run has learnt, and its metrics."""
    run = Run(Path(config.runs_dir) / folder_name(config))
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in run.metrics()]
    return torch.load(run.checkpoint, weights_only=False), lines


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(value, other["method"][key]) for key, value in one["method"].items())


@pytest.mark.parametrize("packed", ["raw", "jpeg"])
def test_a_run_on_disk_that_is_killed_is_the_run_that_was_not(
    packed: str, words: Make, checked: Callable[..., Config]
) -> None:
    """Raw images of the other run are on the device."""
    whole = checked(*words("whole", f"data.packed={packed}"))
    cut = words("cut", f"data.packed={packed}", "data.storage=disk")
    train(whole)
    learnt, lines = outcome(whole)
    killed = python("-c", KILLED, *cut, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved, _ = outcome(checked(*cut))
    assert saved["step"] == 4 and not same(saved, learnt)
    train(checked(*cut))
    again, after = outcome(checked(*cut))
    assert same(learnt, again) and after == lines and len(lines) == 2 and lines[-1]["knn/top1"] > 0
    assert folder_name(whole) == folder_name(checked(*cut))


def test_jpeg_trains_as_the_pixels_that_it_was_made_of(
    words: Make, checked: Callable[..., Config], tmp_path: Path
) -> None:
    """Of square images, which both kinds show whole; what the codec loses changes the loss by half a percent."""
    for path in (tmp_path / "photos").glob("*/*/*.png"):
        picture(int(path.stem), 30, 30).save(path)
    configs = [checked(*words(kind, f"data.packed={kind}")) for kind in ("raw", "jpeg")]
    for config in configs:
        train(config)
    raw, jpeg = ([line["train/loss"] for line in outcome(config)[1]] for config in configs)
    assert jpeg == pytest.approx(raw, rel=0.02) and jpeg != raw


def test_auto_takes_the_disk_where_the_device_has_no_room(
    words: Make, checked: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checked(*words("auto"))
    assert not Components(config, "cpu").data.on_disk
    pixels = 66 * 3 * 16 * 16
    monkeypatch.setattr(memory, "views_and_backbone", lambda config, side: [])
    monkeypatch.setattr(memory, "total_memory", lambda device: pixels * 2 - 1)
    assert len(Components(config, "cpu").data.on_disk) == 2
    monkeypatch.setattr(memory, "total_memory", lambda device: pixels * 2)
    assert not Components(config, "cpu").data.on_disk
    assert len(Components(checked(*words("auto", "data.storage=disk")), "cpu").data.on_disk) == 2
    monkeypatch.setattr(memory, "total_memory", lambda device: pixels - 1)
    with pytest.raises(
        UserError, match=r"^data=photos takes 0.0 GB as pixels: more than the 0.0 GB of cpu, leave data.storage out"
    ):
        Components(checked(*words("auto", "data.storage=device")), "cpu")
