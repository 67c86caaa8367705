"""Composing fast gives what Hydra gives, for every choice of every group and for overrides at random."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, zip_longest

import pytest
from common import CHOICES
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from moco.config.compose import Composer
from moco.config.places import CONF

Outcome = dict[str, object] | tuple[type[Exception], str]
Compose = Callable[[Sequence[str]], Outcome]

PLAIN = [
    "temperature=0.2",
    "temperature=1e-1",
    "m=64",
    "m=null",
    "seed=3",
    "seed=4",
    "linear_eval=true",
    "runs_dir='a b'",
    "precision=bf16",
    "augment.crop=[0.5,1.0]",
    "augment.blur=0.5",
    "optimizer.lr=1e-3",
    "data.root=/x/y",
    "data.mean=null",
    "model.name=other",
    "tracker.tags=[a,b]",
]
ODD = [  # of a kind that is more than a plain value on a key that is there
    "+optimizer.nesterov=true",
    "++optimizer.lr=0.5",
    "~schedule.warmup_epochs",
    "method.feature_dim=64",
    "feature_dim=256",
    "tracker.group='${temperature}'",
    "data.name=${model.name}",
    "schedule=step",
    "recipe.name=mine",
    "augment={crop: [0.1, 1.0]}",
    "augment.crop=0.5",
    "data.std=0.5",
    "nowhere=1",
    "model.architecture=resnet34",
]


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def composers(loader: ConfigLoader) -> tuple[Compose, Compose]:
    """Both ways from words to a configuration, or to the kind of error; the same for all tests, as in a sweep."""
    master = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)
    hydra = functools.cache(functools.partial(by_hydra, loader, master))
    fast = Composer(loader, master)
    return (lambda words: outcome(fast, words)), (lambda words: outcome(hydra, words))


def by_hydra(loader: ConfigLoader, master: DictConfig, words: tuple[str, ...]) -> dict[str, object]:
    composed = OmegaConf.to_container(loader.load_sweep_config(master, list(words)), resolve=False)
    composed.pop("hydra")
    return OmegaConf.to_container(OmegaConf.create(composed), resolve=True)


def outcome(compose: Callable[[tuple[str, ...]], dict[str, object]], words: Sequence[str]) -> Outcome:
    try:
        return compose(tuple(words))
    except Exception as error:
        return type(error), str(error)


def rows() -> list[list[str]]:
    """Every choice of every group, one of each group in a row."""
    groups = [[f"{group}={name}" for group, name in of] for _, of in groupby(CHOICES, key=lambda choice: choice[0])]
    return [list(filter(None, row)) for row in zip_longest(*groups)]


@pytest.mark.parametrize("row", rows(), ids=" ".join)
def test_every_choice_beside_plain_values(composers: tuple[Compose, Compose], row: list[str]) -> None:
    fast, hydra = composers
    words = [*row, "temperature=0.3", "seed=7", "batch_size=64", "optimizer.lr=0.7", "augment.flip=0.25"]
    alone = fast(row)
    assert fast(words) == hydra(words) != alone
    assert isinstance(alone, dict)
    assert fast(row) == alone  # the values are taken back


@pytest.mark.parametrize("odd", [None, *ODD])
def test_overrides_at_random(composers: tuple[Compose, Compose], odd: str | None) -> None:
    fast, hydra = composers
    dice = random.Random(odd)
    words = [*dice.choice([[], ["method=npid"], ["recipe=quickstart", "optimizer=lars"]]), *([odd] if odd else [])]
    for _ in range(2 if odd else 10):
        mixed = words + dice.sample(PLAIN, dice.randint(1, 5))
        dice.shuffle(mixed)
        assert fast(mixed) == hydra(mixed), mixed


@pytest.mark.parametrize(
    "text",
    [
        "${temperature}",
        "t${temperature}",
        "${m}-${seed}",
        "${method.m}",
        "${data}",
        "${data.root}",
        "${tracker.tags}",
        "${.project}",
        "${oc.env:HOME}",
        "${nowhere}",
        "\\\\${m}",
    ],
)
def test_values_that_others_refer_to(composers: tuple[Compose, Compose], text: str) -> None:
    fast, hydra = composers
    word = f"tracker.group='{text}'"
    for words in (
        ["temperature=0.2", "seed=3"],
        ["m=64", "data.root=/x/y", "tracker.tags=[a]"],
        ["tracker.project=p"],
        [],
    ):
        mixed = ["recipe=quickstart", word, *words]
        assert fast(mixed) == hydra(mixed), mixed


def test_what_the_command_composed_is_not_composed_again(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["recipe=quickstart", "m=64", "tracker.group=${recipe.name}"]
    swept = ["seed=3,4", "model=resnet18,small"]
    master = loader.load_configuration("train", [*command, *swept], run_mode=RunMode.MULTIRUN)
    fast, composes, asked = Composer(loader, master), loader.load_sweep_config, list[list[str]]()

    def load_sweep_config(config: DictConfig, words: list[str]) -> DictConfig:
        asked.append(words)
        return composes(config, words)

    monkeypatch.setattr(loader, "load_sweep_config", load_sweep_config)
    for words, composed_anew in [
        ([*command, "seed=3"], False),
        ([*command, "seed=4", "temperature=0.2"], False),
        (["m=64", "recipe=quickstart", "seed=3", "tracker.group=${recipe.name}"], False),
        (["recipe=quickstart", "m=65", "tracker.group=${recipe.name}"], True),
        ([*command, "m=65"], True),
        ([*command, "model=small"], True),
        (["m=64", "recipe=quickstart"], True),
        ([*reversed(command)], True),
        (["m=64"], True),
        ([], False),  # m=64 was set on this
    ]:
        asked.clear()
        found = outcome(fast, words)
        assert bool(asked) == composed_anew, words
        assert isinstance(found, dict) and found == outcome(functools.partial(by_hydra, loader, master), words)
