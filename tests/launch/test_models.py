"""Models are made once before a sweep begins, and only those that may not exist."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from common import METHODS, TINY, python
from sweeping import TRAIN

from moco.config.schema import Config
from moco.errors import UserError
from moco.launch import models
from moco.launch.job import Task
from moco.runs.run import Run

Make = Callable[..., Config]
OTHERS = [word for word in TINY if not word.startswith("model")]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What processes were asked to make, a list for each; they are not started."""
    seen: list[Any] = []

    def run(command: list[str], input: str, **options: object) -> subprocess.CompletedProcess[str]:
        seen.append([json.loads(line) for line in input.splitlines()])
        return subprocess.CompletedProcess(command, 0, "a warning\n[]\n", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    return seen


def tasks(checked: Make, *choices: list[str]) -> list[Task]:
    return [Task(Run("/nowhere"), checked(*OTHERS, "m=64", *words), ()) for words in choices]


def test_what_is_shipped_needs_no_process(checked: Make, asked: list[Any]) -> None:
    models.refuse_models(
        tasks(checked, ["model=small"], ["model=resnet18"], ["model=resnet50", "model.pretrained=true"])
    )
    models.refuse_models([Task(Run("/nowhere"), None, ())])
    assert asked == []


def test_each_choice_is_made_once(checked: Make, asked: list[Any]) -> None:
    resnet101 = ["model=resnet50", "model.architecture=resnet101", "model.pretrained=true"]
    timm = ["model=timm", "method.splits=2"]
    models.refuse_models(
        tasks(checked, resnet101, timm, [*timm, "temperature=0.3"], ["model=timm", "method.splits=1", "micro_batch=16"])
    )
    [made] = asked
    assert [(section["architecture"], section["pretrained"], *asked) for section, *asked in made] == [
        ("resnet101", False, 8, None),
        ("resnet10t", False, 2, None),
        ("resnet10t", False, 1, [16, 64]),
    ]


def test_problems_are_lines_once_each(checked: Make) -> None:
    def word(architecture: str, splits: int = 1, pieces: object = None, **options: object) -> str:
        section = {"name": "timm", "_target_": "moco.models.timm_backbone", "architecture": architecture, **options}
        return json.dumps([section, splits, pieces])

    found = models.problems_of(
        [
            *(
                word("resnet10t", 2),
                word("resnet10"),
                word("resnet10", 2),
                word("resnet10t", widht=3),
                word("resnet10t"),
            ),
            *(word("resnet10t", 4, [16, 64]), word("resnet10t", 2, [16, 64]), word("vit_tiny_patch16_224", 1, [5, 64])),
            word("convnext_atto", 1, [16, 64], drop_path_rate=0.1),
        ]
    )
    assert [line.partition(":")[0] for line in found] == [
        "model.architecture=resnet10 is not in timm",
        "model.architecture=resnet10t has no such setting",
        "micro_batch=16 is not a multiple of 32, the images over which BatchNorm takes statistics (batch_size / method.splits)",
        "micro_batch=16 would change what the model's stages.0.blocks.1.drop_path (DropPath) draws at random",
    ]


def test_a_process_that_says_nothing_refuses_nothing(checked: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot make the model may still submit it."""
    for ended in (subprocess.CompletedProcess([], -9, "", ""), subprocess.TimeoutExpired("python", 1), OSError()):

        def run(*args: object, ended: Any = ended, **options: object) -> Any:
            if isinstance(ended, Exception):
                raise ended
            return ended

        monkeypatch.setattr(models.subprocess, "run", run)
        models.refuse_models(tasks(checked, ["model=timm"]))
    said = subprocess.CompletedProcess([], 0, '["one", "two"]\n', "")
    monkeypatch.setattr(models.subprocess, "run", lambda *args, **options: said)
    with pytest.raises(UserError, match="^one\ntwo$"):
        models.refuse_models(tasks(checked, ["model=timm"]))


def test_a_sweep_over_architectures_that_do_not_exist_starts_nothing(tmp_path: Path) -> None:
    names = "model.architecture=resnet10t,resnet10,resnet12"
    done = python(TRAIN, "-m", "model=timm", names, *METHODS["simclr"], *OTHERS, cwd=tmp_path)
    assert done.returncode == 1 and not list(tmp_path.glob("runs/*/config.json"))
    lines = [line for line in done.stderr.splitlines() if "is not in timm" in line]
    assert len(lines) == 2 and "Traceback" not in done.stderr
