"""Every choice of every config group composes, is checked, builds and trains one step; recipes are as published."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from common import CHOICES, checked, composed
from PIL import Image

from moco import data
from moco.config.check import check_linear_eval
from moco.config.places import CONF
from moco.config.schema import Config
from moco.data import Dataset
from moco.protocols import LINEAR_PROTOCOLS
from moco.runs.identity import flatten
from moco.runs.lease import Lease, Stopped
from moco.training.pretrain import train
from moco.training.signals import Signals
from moco.training.trainer import Trainer

GROUPS = "augment data method model optimizer probe recipe schedule tracker".split()
# What a choice needs beside its name.
NEEDS = {
    "image_folder": ["data.root={folder}"],
    "imagenet": ["data.root={folder}", "augment.size=8", "augment.eval_size=8"],
    "huggingface": ["data.path={folder}", "data.size=8"],
}
PUBLISHED = {
    "moco_leftthomas": ([80.9, 99.1], [86.3, 99.6]),
    "simclr_leftthomas": ([89.1, 99.6], [92.0, 99.8]),
    "moco_cifar": ([82.6, None], None),
    "moco_cifar_symmetric": ([89.7, None], [90.7, None]),
    "simclr_cifar": ([90.3, None], [91.9, None]),
    "moco_v2plus": (None, [92.94, None]),
    "npid_paper": ([80.4, None], None),
    "moco_v1_imagenet": (None, [60.6, None]),
    "moco_v2_imagenet": (None, [67.5, None]),
    "simclr_imagenet": (None, [69.3, 89.0]),
}
IMAGENET = {  # what the recipes for it have in common
    "data.name": "imagenet",
    "model.name": "resnet50",
    "model.stem": "imagenet",
    "feature_dim": 128,
    "augment.size": 224,
    "augment.eval_size": 224,
    "augment.eval_crop": 0.875,
    "augment.flip": 0.5,
    "augment.gray": 0.2,
    "optimizer.momentum": 0.9,
    "optimizer.scale_lr": True,
}
MOCO_IMAGENET = {
    **IMAGENET,
    "method.name": "moco",
    "m": 65536,
    "momentum": 0.999,
    "batch_size": 256,
    "epochs": 200,
    "method.splits": 8,
    "method.symmetric": False,
    "method.head_norm": False,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.03,
    "optimizer.weight_decay": 1e-4,
    "schedule.warmup_epochs": 0,
    "augment.crop": [0.2, 1.0],
    "augment.normalize": True,
    "model.zero_init_residual": False,
    "probe.name": "moco",
}
RECIPES = {
    "npid_leftthomas": {
        "method.name": "npid",
        "feature_dim": 128,
        "m": 4096,
        "temperature": 0.1,
        "momentum": 0.5,
        "k": 200,
        "batch_size": 128,
        "epochs": 200,
        "model.name": "resnet50",
        "model.stem": "cifar",
    },
    "simclr_leftthomas": {
        "method.name": "simclr",
        "feature_dim": 128,
        "temperature": 0.5,
        "k": 200,
        "batch_size": 512,
        "epochs": 500,
        "optimizer.name": "adam",
        "optimizer.lr": 1e-3,
        "optimizer.weight_decay": 1e-6,
        "schedule.name": "constant",
        "schedule.warmup_epochs": 0,
        "augment.blur": 0,
        "knn_temperature": 0.5,
        "model.name": "resnet50",
        "probe.name": "augmented",
        "probe.batch_size": 512,
        "probe.epochs": 100,
        "probe.lr": 1e-3,
        "probe.weight_decay": 1e-6,
    },
    "moco_leftthomas": {
        "method.name": "moco",
        "m": 4096,
        "temperature": 0.5,
        "momentum": 0.999,
        "k": 200,
        "batch_size": 256,
        "epochs": 500,
        "optimizer.name": "adam",
        "optimizer.lr": 1e-3,
        "optimizer.weight_decay": 1e-6,
        "knn_temperature": 0.5,
        "model.name": "resnet50",
        "schedule.name": "constant",
    },
    "moco_cifar": {
        "method.name": "moco",
        "model.name": "resnet18",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.06,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 5e-4,
        "optimizer.scale_lr": False,
        "batch_size": 512,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 0,
        "schedule.final": 0,
        "m": 4096,
        "temperature": 0.1,
        "momentum": 0.99,
        "feature_dim": 128,
        "method.head_layers": 1,
        "method.splits": 8,
        "method.symmetric": False,
        "augment.crop": [0.08, 1.0],
        "augment.flip": 0.5,
        "augment.jitter": [0.4, 0.4, 0.4, 0.1],
        "augment.jitter_p": 0.8,
        "augment.gray": 0.2,
        "augment.blur": 0,
        "k": 200,
        "knn_temperature": 0.1,
        "epochs": 200,
    },
    "moco_cifar_symmetric": {"method.symmetric": True, "method.splits": 8, "epochs": 800, "optimizer.lr": 0.06},
    "simclr_cifar": {
        "method.name": "simclr",
        "model.name": "resnet18",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.03,
        "optimizer.scale_lr": True,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 5e-4,
        "batch_size": 512,
        "schedule.name": "cosine",
        "temperature": 0.5,
        "method.head_layers": 2,
        "method.hidden_dim": 1024,
        "method.head_norm": False,
        "feature_dim": 128,
        "augment.crop": [0.2, 1.0],
        "augment.gray": 0.1,
        "augment.jitter": [0.4, 0.4, 0.4, 0.1],
        "augment.jitter_p": 0.8,
        "augment.normalize": False,
        "k": 10,
        "epochs": 500,
    },
    "moco_v2plus": {
        "method.name": "moco",
        "model.name": "resnet18",
        "optimizer.name": "sgd",
        "optimizer.scale_lr": True,
        # The source's 0.3 and 1e-4 belong to the mean of both directions, this loss is their sum: half the rate, and
        # twice the decay, for which the rate times decay stays.
        "optimizer.lr": 0.3 / 2,
        "optimizer.weight_decay": 1e-4 * 2,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 10,
        "m": 32768,
        "temperature": 0.2,
        "momentum": 0.99,
        "method.momentum_end": 0.999,
        "method.hidden_dim": 2048,
        "feature_dim": 256,
        "method.symmetric": True,
        "epochs": 1000,
    },
    "npid_paper": {
        "method.name": "npid",
        "model.name": "resnet18",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.03,
        "optimizer.weight_decay": 5e-4,
        "batch_size": 128,
        "temperature": 0.1,
        "momentum": 0.5,
        "augment.crop": [0.2, 1.0],
        "schedule.name": "step",
        "schedule.milestones": [120, 160],
        "schedule.gamma": 0.1,
        "epochs": 200,
    },
    "moco_v1_imagenet": {
        **MOCO_IMAGENET,
        "temperature": 0.07,
        "method.head_layers": 1,
        "schedule.name": "step",
        "schedule.milestones": [120, 160],
        "schedule.gamma": 0.1,
        "augment.jitter": [0.4, 0.4, 0.4, 0.4],
        "augment.jitter_p": 1.0,
        "augment.blur": 0,
    },
    "moco_v2_imagenet": {
        **MOCO_IMAGENET,
        "temperature": 0.2,
        "method.head_layers": 2,
        "method.hidden_dim": None,  # as wide as the features, 2048
        "schedule.name": "cosine",
        "augment.jitter": [0.4, 0.4, 0.4, 0.1],
        "augment.jitter_p": 0.8,
        "augment.blur": 0.5,
        "augment.blur_sigma": [0.1, 2.0],
    },
    "simclr_imagenet": {
        **IMAGENET,
        "method.name": "simclr",
        "temperature": 0.1,
        "batch_size": 4096,
        "epochs": 1000,
        "method.splits": 1,
        "method.head_layers": 2,
        "method.hidden_dim": None,
        "method.head_norm": True,
        "method.head_out_norm": True,
        "model.zero_init_residual": True,
        "optimizer.name": "lars",
        "optimizer.lr": 0.3,
        "optimizer.weight_decay": 1e-6,
        "optimizer.trust_coefficient": 1e-3,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 10,
        "augment.crop": [0.08, 1.0],
        "augment.jitter": [0.8, 0.8, 0.8, 0.2],
        "augment.jitter_p": 0.8,
        "augment.blur": 0.5,
        "augment.blur_sigma": [0.1, 2.0],
        "augment.normalize": False,
        "probe.name": "simclr",
    },
}
SMALLER = ["augment.size=32", "augment.eval_size=32"]  # of images for a test


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Random images in the downloaded data sets' place (as many as the recipes' m asks for), and a folder of a few."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (5000, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(5000) % 10
    fake = Dataset(pixels, labels, pixels[:20], labels[:20], [str(c) for c in range(10)])
    monkeypatch.setattr("moco.data.load_torchvision", lambda dataset, root: fake)
    for i in range(32):
        path = tmp_path / "images" / ("train" if i < 24 else "test") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i].permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "images"


@pytest.fixture
def train_one_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Config], dict[str, Any]]:
    """Ends training after one step on 16 images; train_one_step(config) -> what it saw."""
    seen: dict[str, Any] = {}

    def fit(trainer: Trainer, lease: Lease, signals: Signals) -> None:
        first = next(trainer.method.encoder.parameters())
        before = first.detach().clone()
        trainer.batches.batch_size = 16
        seen["loss"], seen["lr"] = float(trainer.train_step()), trainer.lr
        trained = [p for p in trainer.method.parameters() if p.requires_grad]
        seen["gradients"] = [p.grad is not None and bool(p.grad.isfinite().all()) for p in trained]
        seen["moved"] = bool((first.grad != 0).all()) and not torch.equal(first, before)
        raise Stopped("one step is enough")

    monkeypatch.setattr(Trainer, "fit", fit)

    def run(config: Config) -> dict[str, Any]:
        with pytest.raises(Stopped):
            # fp32 on every machine: in bf16 the terms of a few gradients cancel
            changes = {"runs_dir": str(tmp_path / "runs"), "device": "cpu", "precision": "fp32"}
            train(config.model_copy(update=changes))
        return seen

    return run


def test_groups_are_those_of_the_folder():
    assert sorted({group for group, _ in CHOICES}) == sorted(GROUPS)


@pytest.mark.parametrize("group, choice", CHOICES)
def test_each_choice_trains_a_step(group: str, choice: str, images: Path, train_one_step, monkeypatch):
    if group == "recipe":  # those on folders of images find the random ones too
        monkeypatch.setattr("moco.data.load_image_folder", lambda root, **others: data.load_torchvision("", ""))
    overrides = [f"{group}={choice}", *(need.format(folder=images) for need in NEEDS.get(choice, ()))]
    overrides += [] if group == "tracker" else ["tracker=none"]
    overrides += [] if group in ("model", "recipe") else ["model=small"]
    overrides += SMALLER if choice.endswith("_imagenet") else []
    overrides += ["batch_size=16", "k=5"] if group == "data" else []
    config = checked(*overrides)
    assert getattr(config, group).name in {choice, "images", config.model.architecture}

    seen = train_one_step(config)

    assert math.isfinite(seen["loss"]) and seen["loss"] > 0
    assert all(seen["gradients"]) and seen["moved"]
    scale = config.batch_size / 256 if config.optimizer.scale_lr else 1
    per_epoch = {"digits": 1437, "image_folder": 24, "imagenet": 24, "huggingface": 24}.get(
        choice, 5000
    ) // config.batch_size
    warmup = round(config.schedule.warmup_epochs * per_epoch)
    assert seen["lr"] == pytest.approx(config.optimizer.lr * scale / (warmup or 1))


@pytest.mark.parametrize("probe", [choice for group, choice in CHOICES if group == "probe"])
def test_linear_evaluation_composes(probe: str):
    asked = check_linear_eval(composed("run=abc", f"probe={probe}", "tracker=none", entry="linear_eval"))
    assert (asked.run, asked.probe.name, asked.tracker.name) == ("abc", probe, "none")
    assert LINEAR_PROTOCOLS[probe].probe == probe


def test_each_recipe_has_its_numbers_here():
    sourced = {choice for group, choice in CHOICES if group == "recipe" and _recipe(choice).get("source")}
    assert sourced == set(RECIPES)


def _recipe(name: str) -> dict:
    return yaml.safe_load((CONF / "recipe" / f"{name}.yaml").read_text())["recipe"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_as_published(name: str):
    config = checked(f"recipe={name}")
    flat = flatten(config.frozen())
    assert {key: flat[key] for key in RECIPES[name]} == RECIPES[name]
    assert config.recipe and config.recipe.name == name
    assert config.data.name == RECIPES[name].get("data.name", "cifar10")
    assert (config.recipe.knn, config.recipe.linear) == PUBLISHED.get(name, (None, None))


@pytest.mark.parametrize("path", sorted((CONF / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_open_with_their_command_and_their_number(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python train.py recipe={path.stem}")
    comment = " ".join(line for line in lines if line.startswith("#"))
    recipe = _recipe(path.stem)
    for number in [*(recipe.get("knn") or []), *(recipe.get("linear") or [])]:
        assert number is None or str(number) in comment
