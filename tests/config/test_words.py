"""Command lines before Hydra composes: flags anywhere, keys that a choice lacks, recipes with other choices."""

import os
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml
from commands import QUICK, call
from common import CHOICES, METHODS, ROOT, TINY, checked, composed

from moco.config import components
from moco.config.check import added_where_a_choice_has_it, check
from moco.config.compose import flags_first, parsed
from moco.config.places import CONF

DRY = "hydra.launcher.dry_run=true"
VARIED = ("method", "model", "optimizer", "data", "schedule", "augment", "probe")
RECIPES = [name for group, name in CHOICES if group == "recipe"]
NEEDS = {
    "image_folder": ["data.root=images"],
    "imagenet": ["data.root=images", "augment.size=224", "augment.eval_size=224"],
    "huggingface": ["data.path=images"],
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moco"])


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=0,1", "k=5"],
        ["seed=0,1", "-m", "k=5"],
        ["seed=0,1", "k=5", "-m"],
        ["seed=0,1", "--config-dir", "mine", "k=5", "--multirun"],
        ["--config-name=other", "seed=0,1", "-cd", "mine", "-m", "k=5"],
    ],
)
def test_flags_stand_anywhere(words: list[str]) -> None:
    flags = parsed(words)
    assert flags.overrides == ["seed=0,1", "k=5"] and flags.multirun
    ordered = flags_first(words, flags.overrides)
    assert sorted(ordered) == sorted(words) and ordered[-2:] == flags.overrides
    assert parsed(ordered) == flags


def test_a_sweep_with_its_flag_in_the_middle(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(["train", *QUICK, "-m", "seed=0,1", DRY]) in (0, None)
    assert [line.split()[-1] for line in capfd.readouterr().out.splitlines()[1:]] == ["seed=0", "seed=1"]


def test_a_key_that_the_bases_choice_lacks_and_the_swept_ones_have(capfd: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "optimizer=lars,sgd", "optimizer.momentum=0.8", DRY]  # quickstart's own is adam
    assert call(["train", "-m", *words]) in (0, None)
    shown = capfd.readouterr().out.splitlines()[1:]
    assert [line.split()[-1] for line in shown] == ["optimizer=lars", "optimizer=sgd"]
    ids = [line.split()[0] for line in shown]
    for name, folder in zip(("lars", "sgd"), ids):  # the same runs as one by one
        assert call(["train", *QUICK, f"optimizer={name}", "optimizer.momentum=0.8", DRY]) in (0, None)
        assert capfd.readouterr().out.splitlines()[1].startswith(folder)


@pytest.mark.parametrize(
    "word, becomes",
    [
        ("optimizer.momentum=0.8", "++optimizer.momentum=0.8"),  # sgd and lars have it
        ("method.symmetric=true", "++method.symmetric=true"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1"),  # all have it
        ("optimizer.momentumm=0.8", "optimizer.momentumm=0.8"),  # none has it
        ("momentum=0.8", "momentum=0.8"),
        ("+optimizer.momentum=0.8", "+optimizer.momentum=0.8"),
        ("hydra.launcher.sweep=x", "hydra.launcher.sweep=x"),
    ],
)
def test_keys_that_some_choices_have_may_be_set_for_all(word: str, becomes: str) -> None:
    assert added_where_a_choice_has_it([word]) == [becomes]


def test_keys_that_some_probes_have_may_be_set_where_several_are_swept_over() -> None:
    words = ["probe=moco,simclr", "probe.init_std=0.02"]
    assert added_where_a_choice_has_it(words) == [words[0], "++probe.init_std=0.02"]
    assert added_where_a_choice_has_it(["probe=moco", words[1]]) == ["probe=moco", words[1]]


def test_a_users_own_choice_keeps_the_keys_that_others_of_the_group_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its target does not name them."""
    text = "name: own\n_target_: own_choice.make\nlr: 0.1\nmomentum: 0.9\nweight_decay: 0\nscale_lr: false\n"
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "own.yaml").write_text(text)
    (tmp_path / "own_choice.py").write_text("def make(params, lr, **options): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    values = {**composed(*METHODS["simclr"], *TINY), "optimizer": yaml.safe_load(text)}
    monkeypatch.setattr(components, "_folders", [CONF])
    try:
        components.choices_in(tmp_path)
        assert check(values, []).optimizer.arguments()["momentum"] == 0.9
    finally:
        components._folders.remove(tmp_path)
        components.choices_in(CONF)


def rows() -> list[list[str]]:
    """Every choice of every group, one of each group in a row."""
    groups = [[f"{group}={name}" for of, name in CHOICES if of == group] for group in VARIED]
    return [list(filter(None, row)) for row in zip_longest(*groups)]


WHOLE_BANK = ["cifar_cpu_npid"]  # its m=0 is no queue


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_go_with_every_choice_of_every_group(recipe: str) -> None:
    for row in rows():
        needs = [word for choice in row for word in NEEDS.get(choice.partition("=")[2], [])]
        needs += ["m=64"] if recipe in WHOLE_BANK and "method=moco" in row else []
        config = checked(f"recipe={recipe}", *row, *needs, "tracker=none")
        for word in row:
            group, _, name = word.partition("=")
            chosen = getattr(config, group)
            assert chosen.name in (name, "images", "cifar10-jpeg", getattr(chosen, "architecture", None))
        for group in config.COMPONENTS:  # nothing is left of what the recipe set for another choice
            assert None not in {getattr(config, group).name, getattr(config, group).target}


def test_completion_in_bash(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = (
        f"cd {ROOT}; eval \"$(python train.py -sc install=bash)\"; COMP_LINE='python train.py optimizer=a'; "
        'COMP_POINT=${#COMP_LINE}; COMP_CWORD=2; hydra_bash_completion; echo "${COMPREPLY[@]}"'
    )
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert set(answer.stdout.split()) == {"optimizer=adam", "optimizer=adamw"}, answer.stderr
