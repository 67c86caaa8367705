"""Every choice of every config group composes, builds and trains a step; errors in one line; what makes a run."""

import copy
import functools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from hydra_plugins.moco import composing
from moco.config import schema as config
from moco.data import dataset as data
from moco.data.dataset import Dataset
from moco.errors import UserError
from moco.runs.lease import Stopped
from moco.runs.run import folder_name, identity
from moco.training import pretrain as jobs

CONF = Path(__file__).parents[2] / "conf"
GROUPS = sorted(f for f in CONF.iterdir() if f.is_dir() and f.name not in ("hydra", "sweeps"))
CHOICES = [(folder.name, file.stem) for folder in GROUPS for file in sorted(folder.glob("*.yaml"))]
CHECKED = "augment data method model optimizer probe recipe schedule tracker".split()
# What a choice needs beside its name.
NEEDS = {"image_folder": ["data.root={folder}"]}
PUBLISHED = {
    "moco_leftthomas": ([80.9, 99.1], [86.3, 99.6]),
    "simclr_seed": ([89.1, 99.6], [92.0, 99.8]),
    "moco_cifar": ([82.6, None], None),
    "moco_cifar_symmetric": ([89.7, None], [90.7, None]),
    "simclr_cifar": ([90.3, None], [91.9, None]),
    "moco_v2plus": (None, [92.94, None]),
    "npid_paper": ([80.8, None], None),
}
RECIPES = {
    "npid_seed": {
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
    "simclr_seed": {
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
}


@functools.cache
def _composed(*overrides: str, entry: str) -> dict:
    return composing.composed(overrides, entry)


def composed(*overrides: str, entry: str = "train") -> dict:
    return copy.deepcopy(_composed(*overrides, entry=entry))


def checked(*overrides: str) -> dict:
    return config.named(config.check(composed(*overrides)))


def problems(*overrides: str, **changes: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        config.check(composed(*overrides) | changes)
    return str(caught.value).splitlines()


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
def train_one_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Puts one step on 16 images in the training loop's place; train_one_step(cfg) -> what it saw."""
    seen = {}

    def step(cfg, run, claim, images, method, optimizer, factor, views, evaluate, autocast, tracker, signals):
        index = torch.arange(16)
        first = next(method.encoder.parameters())
        before = first.detach().clone()
        for group in optimizer.param_groups:
            group["lr"] *= factor(0)
        x1, x2 = views(images[index]), views(images[index])
        with autocast():
            loss = method(x1, x2, index)
        loss.backward()
        optimizer.step()
        trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        seen["loss"], seen["lr"] = float(loss.detach()), optimizer.param_groups[0]["lr"]
        seen["gradients"] = {name: p.grad is not None and bool(p.grad.isfinite().all()) for name, p in trained.items()}
        seen["moved"] = bool((first.grad != 0).all()) and not torch.equal(first, before)
        raise Stopped("one step is enough")

    monkeypatch.setattr("moco.training.trainer.fit", step)

    def run(cfg):
        with pytest.raises(Stopped):
            # fp32 on every machine: in bf16 the terms of a few gradients cancel
            jobs.train(cfg | {"runs_dir": str(tmp_path / "runs"), "device": "cpu", "precision": "fp32"})
        return seen

    return run


def test_groups_are_those_of_the_folder():
    assert sorted({group for group, _ in CHOICES}) == sorted(CHECKED)


@pytest.mark.parametrize("group, choice", CHOICES)
def test_each_choice_trains_a_step(group: str, choice: str, images: Path, train_one_step, monkeypatch):
    if group == "recipe":  # those on folders of images find the random ones too
        monkeypatch.setattr("moco.data.load_image_folder", lambda root, size: data.load_torchvision("", ""))
    overrides = [f"{group}={choice}", *(need.format(folder=images) for need in NEEDS.get(choice, ()))]
    overrides += [] if group == "tracker" else ["tracker=none"]
    overrides += [] if group in ("model", "recipe") else ["model=small"]
    overrides += ["batch_size=16", "k=5"] if group == "data" else []
    cfg = checked(*overrides)
    assert (cfg[group] or {}).get("name") in {choice, "images", cfg["model"].get("architecture")}

    seen = train_one_step(cfg)

    assert math.isfinite(seen["loss"]) and seen["loss"] > 0
    assert all(seen["gradients"].values()) and seen["moved"]
    scale = cfg["batch_size"] / 256 if cfg["optimizer"]["scale_lr"] else 1
    per_epoch = {"digits": 1437, "image_folder": 24}.get(choice, 5000) // cfg["batch_size"]
    warmup = round(cfg["schedule"]["warmup_epochs"] * per_epoch)
    assert seen["lr"] == pytest.approx(cfg["optimizer"]["lr"] * scale / (warmup or 1))


@pytest.mark.parametrize("probe", ["augmented", "cached"])
@pytest.mark.parametrize("tracker", ["wandb", "none"])
def test_linear_evaluation_composes(probe: str, tracker: str):
    words = ["run=abc", f"probe={probe}", f"tracker={tracker}"]
    cfg = config.check(composed(*words, entry="linear_eval"), config.LinearEval)
    assert (cfg["run"], cfg["probe"]["name"], cfg["tracker"]["name"]) == ("abc", probe, tracker)


def test_each_recipe_has_its_numbers_here():
    sourced = {choice for group, choice in CHOICES if group == "recipe" and _recipe(choice).get("source")}
    assert sourced == set(RECIPES)


def _recipe(name: str) -> dict:
    return yaml.safe_load((CONF / "recipe" / f"{name}.yaml").read_text())["recipe"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_as_published(name: str):
    cfg = OmegaConf.create(checked(f"recipe={name}"))
    assert {key: OmegaConf.select(cfg, key) for key in RECIPES[name]} == RECIPES[name]
    assert cfg.recipe.name == name and cfg.data.name == "cifar10"
    assert (cfg.recipe.knn, cfg.recipe.linear) == PUBLISHED.get(name, (None, None))


@pytest.mark.parametrize("path", sorted((CONF / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_open_with_their_command_and_their_number(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python train.py recipe={path.stem}")
    comment = " ".join(line for line in lines if line.startswith("#"))
    recipe = _recipe(path.stem)
    for number in [*(recipe.get("knn") or []), *(recipe.get("linear") or [])]:
        assert number is None or str(number) in comment


def test_what_is_typed_wins_over_method_and_recipe():
    assert checked("method=npid", "momentum=0.9", "batch_size=64")["momentum"] == 0.9
    cfg = checked("recipe=moco_cifar", "temperature=0.3", "method.splits=2")
    assert cfg["temperature"] == cfg["method"]["temperature"] == 0.3 and cfg["method"]["splits"] == 2
    assert (checked("method=npid")["momentum"], checked("method=npid")["batch_size"]) == (0.5, 128)
    assert checked()["momentum"] == 0.99 and checked()["batch_size"] == 512


# What check() refuses


@pytest.mark.parametrize(
    "word, lines",
    [
        ("+temprature=3", ["unknown key temprature: did you mean temperature?"]),
        ("+augment.blurr=0.5", ["unknown key augment.blurr: did you mean augment.blur?"]),
        ("+tracker.grop=x", ["unknown key tracker.grop: did you mean tracker.group?"]),
        ("augment.size=8.5", ["augment.size=8.5 should be a valid integer, got a number with a fractional part"]),
        ("augment.size=big", ["augment.size=big should be a valid integer, unable to parse string as an integer"]),
        ("k=0", ["k=0 should be greater than or equal to 1 (neighbours that vote in kNN)"]),
        ("temperature=0", ["temperature=0 should be greater than 0 (softmax temperature of the contrastive loss)"]),
        (
            "temperature=inf",
            ["temperature=inf should be a finite number (softmax temperature of the contrastive loss)"],
        ),
        (
            "precision=fp8",
            ["precision=fp8 should be 'auto', 'fp32' or 'bf16' (auto: bf16 where the hardware is fast at it)"],
        ),
        ("augment.flip=1.5", ["augment.flip=1.5 should be less than or equal to 1"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1 should be greater than 0"]),
        ("data.validation=1", ["data.validation=1 should be less than 1"]),
        ("method.splits=0", ["method.splits=0 should be greater than or equal to 1"]),
        ("~epochs", ["epochs is missing: give epochs=..."]),
        (
            "temperature=null",
            [
                "temperature=None should be a valid number (softmax temperature of the contrastive loss)",
                "method=moco needs a value for temperature",
            ],
        ),
        ("m=null", ["method=moco needs a value for m"]),
    ],
)
def test_one_wrong_value_is_one_line(word: str, lines: list[str]):
    assert problems(word) == lines


def test_unlike_any_key_lists_what_there_is():
    [line] = problems("+qqqq=1")
    assert line.startswith("unknown key qqqq: there are temperature, m, feature_dim, momentum, k,")


def test_device_names():
    for name in ("auto", "cpu", "cuda", "cuda:11", "mps"):
        assert checked(f"device='{name}'")["device"] == name
    [line] = problems("device=gpu")
    assert line.startswith("device=gpu should match pattern") and line.endswith("(auto, cpu, cuda, cuda:1 or mps)")


def test_all_problems_are_said_at_once():
    lines = problems("+temprature=3", "epochs=0", "augment.gray=2", "method=simclr", "m=7")
    starts = ["epochs=0 should", "augment.gray=2 should", "unknown key temprature", "m=7 is not used by method=simclr"]
    assert len(lines) == 4 and all(any(line.startswith(start) for line in lines) for start in starts)


def test_a_key_that_the_method_lacks_is_refused_or_folded():
    words = ("method=simclr", "m=64", "momentum=0.9")
    assert problems(*words) == [
        "m=64 is not used by method=simclr: leave m out",
        "momentum=0.9 is not used by method=simclr: leave momentum out",
    ]
    folded = config.check(composed(*words), fold=True)
    assert folded["m"] is None and folded["momentum"] is None
    assert identity(folded) == identity(checked("method=simclr"))
    # A key that the method uses is left alone.
    assert config.check(composed("m=64"), fold=True)["m"] == 64


def test_the_methods_own_group_stays_typed():
    assert problems(method="moco") == ["method=moco should be a valid dictionary or instance of Method"]


def test_command_line_words():
    config.check_words(["temperature=0.1", "+method.x=1", "~tracker", "hydra.job.num=1", "sweeps=a", "-m", "model@x=y"])
    with pytest.raises(UserError) as caught:
        config.check_words(["temprature=0.1", "+sed=3", "m=3", "optimiser.lr=2", "hydra/launcher=slurm"])
    assert str(caught.value).splitlines() == [
        "unknown key temprature: did you mean temperature?",
        "unknown key sed: did you mean seed?",
        "unknown key optimiser: did you mean optimizer?",
    ]
    with pytest.raises(UserError, match=r"^sweeps/wandb/moco.yaml is W&B's: `wandb sweep sweeps/wandb/moco.yaml`"):
        config.check_words(["sweeps=wandb/moco"])
    config.check_words(["run=abc"], config.LinearEval)
    with pytest.raises(UserError, match="unknown key sweeps"):
        config.check_words(["sweeps=abc"], config.LinearEval)


def test_build_refuses_what_its_target_does_not_take():
    sgd = checked()["optimizer"] | {"scale_lr": None}
    with pytest.raises(UserError, match="^sgd has no setting lrr: it takes params, lr, momentum, "):
        config.build(sgd | {"lrr": 1}, params=[torch.zeros(1, requires_grad=True)])
    with pytest.raises(UserError, match="^_target_: torch.optim.SDG cannot be imported"):
        config.build(sgd | {"_target_": "torch.optim.SDG"})
    with pytest.raises(UserError, match="^_target_: no.such.place cannot be imported"):
        config.build(sgd | {"_target_": "no.such.place"})


def test_build_hands_over_only_what_is_asked_for():
    section = {"name": "a dictionary", "_target_": "fractions.Fraction", "numerator": 3, "unused": None}
    assert config.build(section, denominator=4, epochs=9) == 0.75


def test_help_lists_each_root_key_with_range_and_default():
    lines = config.help_text(composed()).partition("\n\n")[0].splitlines()
    keys = [name for name in config.Config.model_fields if name not in CHECKED]
    assert [re.split(r"[ =]+", line)[1] for line in lines[1:]] == keys
    rows = {line.split("=")[0].strip(): re.split(r"  +", line.strip()) for line in lines[1:]}
    assert rows["temperature"] == ["temperature=0.1", "float >0", "softmax temperature of the contrastive loss"]
    assert rows["momentum"][:2] == ["momentum=0.99", "float >=0 <=1"]
    assert rows["m"][:2] == ["m=4096", "int >=0"]
    assert rows["precision"][:2] == ["precision=auto", "auto|fp32|bf16"]
    assert rows["compile"][:2] == ["compile=false", "bool"]


# What makes a run the same run


@pytest.mark.parametrize(
    "one, other",
    [
        (["temperature=0.2"], ["temperature=0.20"]),
        (["knn_temperature=1"], ["knn_temperature=1.0"]),
        ([], ["temperature=0.1"]),
        ([], ["model=resnet18", "epochs=200", "augment.gray=0.2"]),
        (["seed=1", "m=64"], ["m=64", "seed=1"]),
        ([], ["tracker=none"]),
        ([], ["tracker.mode=online", "tracker.project=other"]),
        ([], ["device=cpu"]),
        ([], ["runs_dir=/elsewhere"]),
        ([], ["data.root=/elsewhere"]),
        ([], ["checkpoint_minutes=1"]),
        ([], ["linear_eval=true", "probe=cached"]),
        ([], ["recipe=moco_cifar"]),  # whose settings are the defaults
        (["recipe=simclr_seed"], ["recipe=simclr_seed", "temperature=0.5"]),
    ],
)
def test_same_run(one: list[str], other: list[str]):
    assert folder_name(checked(*one)) == folder_name(checked(*other))


def test_copies_of_root_keys_have_their_types_and_their_values():
    method = checked("temperature=1", "m=1e3", "momentum=0")["method"]
    assert [type(method[key]) for key in ("temperature", "m", "momentum")] == [float, int, float]
    assert folder_name(checked("temperature=1")) == folder_name(checked("temperature=1.0"))
    with pytest.raises(UserError, match="method.m=64 is a copy of the root key: give m=64"):
        checked("method.m=64")


def test_another_run():
    variants = [
        [],
        ["temperature=0.2"],
        ["seed=1"],
        ["m=64"],
        ["epochs=3"],
        ["data=cifar100"],
        ["model=small"],
        ["model=small", "model.widths=[8,16]"],
        ["augment=flip"],
        ["augment.gray=0.1"],
        ["optimizer.lr=0.05"],
        ["method.symmetric=true"],
        ["schedule.warmup_epochs=1"],
        ["data.validation=0.1"],
        ["method=npid"],
        *([f"recipe={choice}"] for group, choice in CHOICES if group == "recipe" and choice != "moco_cifar"),
    ]
    assert len({identity(checked(*words)) for words in variants}) == len(variants)


def test_a_recipes_settings_make_the_run(monkeypatch: pytest.MonkeyPatch):
    cfg = checked("recipe=simclr_cifar")
    assert identity(cfg | {"recipe": None}) == identity(cfg)  # its name and published numbers do not
    changed = cfg | {"method": cfg["method"] | {"hidden_dim": 512}}
    assert identity(changed) != identity(cfg)


def test_folder_names_its_parts(tmp_path: Path):
    assert re.fullmatch(
        r"simclr-small-digits-[a-p]{10}", folder_name(checked("method=simclr", "model=small", "data=digits"))
    )
    folder = checked("data=image_folder", f"data.root='{tmp_path}/my birds'")
    assert re.fullmatch(r"moco-resnet18-my_birds-[a-p]{10}", folder_name(folder))


def test_no_id_is_taken_for_a_number():
    cfg = checked()
    ids = [identity(cfg | {"seed": seed}) for seed in range(300)]
    parsed = OverridesParser.create().parse_overrides([f"run={name}" for name in ids])
    assert [p.value() for p in parsed] == ids and len(set(ids)) == 300
    assert [yaml.safe_load(name) for name in ids] == ids
