"""What jobs warn of reaches the output of their launcher, however many runs share it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import METHODS, TINY, python
from PIL import Image
from sweeping import ONE_THREAD, TRAIN

from moco.config.schema import Config
from moco.launch import slurm, slurm_client
from moco.launch.job import Task
from moco.launch.options import SlurmOptions
from moco.launch.slurm import SlurmLauncher
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

OFFLINE = "warning: wandb cannot go online (no key): this run goes on offline"
COLLAPSED = "warning: kNN top-1 of {} is what guessing gives, so the features have probably collapsed"


@pytest.fixture
def tasks(finish: Callable[..., Path], checked: Callable[..., Config], tmp_path: Path) -> list[Task]:
    """Three runs that are done, whose jobs have warned of the network; two of them have collapsed."""
    made = []
    for seed, top1 in enumerate(("10.00", "50.00", "10.28")):
        run, log = Run(finish(f"seed={seed}", top1=float(top1))), tmp_path / f"{seed}.out"
        collapse = [COLLAPSED.format(top1)] if top1 < "50" else []
        log.write_text("\n".join(["decoding", OFFLINE, "epoch 1/1", *collapse, OFFLINE, "done", ""]))
        run.note_job(f"7_{seed}", log, "slurm", "s", f"seed={seed}")
        made.append(Task(run, checked(f"seed={seed}"), label=f"seed={seed}"))
    return made


def test_slurms_launcher_tells_them_where_it_waits(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda program: program)
    monkeypatch.setattr(slurm_client, "queued", lambda runs: slurm_client.Queue({}))
    monkeypatch.setattr(slurm, "POLL", (0.0, 0.0))
    launcher = SlurmLauncher(SlurmOptions(wait=True), Sweep(tmp_path / "runs", "s"))
    ends = launcher._follow([*tasks])
    assert set(ends.values()) == {State.DONE} and len(ends) == 3
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["done  seed=0", "done  seed=1", "done  seed=2"]
    assert shown.err.splitlines() == [
        f"    {OFFLINE}",
        f"    {COLLAPSED.format('10.00')}",
        "    warning: kNN top-1 of 10.28 is what guessing gives",
    ]


def test_a_local_launcher_tells_of_each_run_that_has_collapsed(tmp_path: Path) -> None:
    """Images that are all alike leave kNN nothing but to guess."""
    for split, number in (("train", 16), ("test", 8)):
        for name in "ab":
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(number):
                gray = np.full((8, 8, 3), 128, dtype=np.uint8)
                Image.fromarray(gray).save(tmp_path / "images" / split / name / f"{i}.png")
    words = [
        *METHODS["simclr"],
        *TINY,
        "data=image_folder",
        "data.root=images",
        "batch_size=16",
        "epochs=1",
        ONE_THREAD,
    ]
    answer = python(TRAIN, "-m", *words, "seed=0,1", "hydra.launcher.devices=cpu", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    first, second = [line for line in answer.stderr.splitlines() if "guessing" in line]
    assert first.startswith("    warning: kNN top-1 of 50.00 is what guessing gives, so the features have")
    assert second == "    warning: kNN top-1 of 50.00 is what guessing gives"
