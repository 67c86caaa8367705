"""Composing fast gives what Hydra gives, for every choice of every group and for overrides at random."""

import random

import pytest
from common import ROOT
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from moco.config.compose import Composer

CONF = ROOT / "conf"
FOLDERS = [f for f in CONF.iterdir() if f.is_dir() and f.name not in ("hydra", "sweeps")]
CHOICES = [f"{folder.name}={file.stem}" for folder in sorted(FOLDERS) for file in sorted(folder.glob("*.yaml"))]
VALUES = [
    "temperature=0.2",
    "temperature=1e-1",
    "m=64",
    "m=null",
    "seed=3",
    "batch_size=128",
    "k=5",
    "linear_eval=true",
    "runs_dir=elsewhere",
    "runs_dir='a b'",
    "precision=bf16",
    "augment.crop=[0.5,1.0]",
    "augment.blur=0.5",
    "augment.size=24",
    "optimizer.lr=1e-3",
    "+optimizer.nesterov=true",
    "++optimizer.lr=0.5",
    "~schedule.warmup_epochs",
    "data.root=/x/y",
    "data.mean=null",
    "method.feature_dim=64",
    "feature_dim=256",
    "method.symmetric=true",
    "model.name=other",
    "tracker.tags=[a,b]",
    "tracker.group='${temperature}'",
    "data.name=${model.name}",
    "schedule=step",
    "optimizer=lars",
    "recipe.name=mine",
    "seed=4",
    "augment={crop: [0.1, 1.0]}",
    "data.std=0.5",
    "nowhere=1",
    "model.architecture=resnet34",
]


@pytest.fixture
def composers():
    """Both ways from words to a configuration, or to the kind of error."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        from hydra.types import RunMode

        master = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)
        fast = Composer(loader, master)

        def hydra(words):
            composed = OmegaConf.to_container(loader.load_sweep_config(master, words), resolve=False)
            composed.pop("hydra")
            return OmegaConf.to_container(OmegaConf.create(composed), resolve=True)

        def outcome(compose, words):
            try:
                return compose(list(words))
            except Exception as error:
                return type(error), str(error)

        yield (lambda words: outcome(fast, words)), (lambda words: outcome(hydra, words))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_beside_plain_values(composers, choice):
    fast, hydra = composers
    plain = ["temperature=0.3", "seed=7", "batch_size=64"]
    assert fast([choice, *plain]) == hydra([choice, *plain]) != fast([choice])
    assert fast([choice]) == hydra([choice])  # the values are taken back


def test_overrides_at_random(composers):
    fast, hydra = composers
    dice = random.Random(0)
    for _ in range(60):
        words = dice.sample(VALUES, dice.randint(1, 4)) + dice.sample(CHOICES, dice.randint(0, 2))
        dice.shuffle(words)
        assert fast(words) == hydra(words), words
