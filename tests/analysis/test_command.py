"""The command that trains a run again: words that a shell takes and that give the same id."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from common import checked as composed

from moco.analysis.command import command, typed
from moco.config.compose import recipe
from moco.runs.identity import identity
from moco.runs.run import Run

AWKWARD = ["a b", "it's", "x,y", "null", "[1]", "a\\", "a\\'b", "$HOME", "ü=1", ""]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("recipe=moco_cifar", "temperature=0.2", "augment.crop=[0.3,1.0]", "optimizer.lr=1e-3"),
        ("method=simclr", "data=digits", "model=small", "model.widths=[8,16]", "optimizer=adamw", "schedule=step"),
        ("recipe=quickstart", "method=npid", "m=256", "data.size=8"),
        ("data=image_folder", "data.name=my pictures", "data.root=/a/it's here, yes", "probe=cached", "probe.epochs=3"),
    ],
)
def test_the_words_give_the_same_run(finish: Callable[..., Path], words: tuple[str, ...]) -> None:
    quoted = tuple(f"{k}={typed(v)}" if " " in v else f"{k}={v}" for k, _, v in (word.partition("=") for word in words))
    runs = [Run(finish(*quoted, f"seed={seed}")) for seed in (0, 3)]
    python, script, multirun, *found, seeds = shlex.split(command(runs[::-1]))
    assert (python, script, multirun, seeds) == ("python", "train.py", "-m", "seed=0,3")
    for seed, run in zip((0, 3), runs):
        again = composed(*found, f"seed={seed}")
        assert identity(again) == run.id and again.data.root == run.config.data.root and again.probe == run.config.probe


def test_a_recipe_itself_is_two_words(finish: Callable[..., Path]) -> None:
    assert recipe("moco_cifar") is not None
    assert command([Run(finish("recipe=moco_cifar"))]) == "python train.py recipe=moco_cifar seed=0"


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [word] = shlex.split(shlex.quote(f"data.name={typed(text)}"))
    assert OverridesParser.create().parse_override(word).value() == text
    assert OverridesParser.create().parse_override(f"x={typed([text, 'b', 1, None, True])}").value() == [
        text,
        "b",
        1,
        None,
        True,
    ]


def test_what_cannot_be_composed_has_no_command(finish: Callable[..., Path]) -> None:
    run = Run(finish())
    (run.folder / "config.json").write_text("{}")
    assert command([run]) == ""
