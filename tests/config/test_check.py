"""What is refused, in one line each, before anything is built; what is dropped; what --help prints."""

import re

import pytest
from common import checked, composed

from moco.config.check import check, check_words, thaw, typed_keys
from moco.config.help import help_text
from moco.config.schema import Config, LinearEval
from moco.errors import UserError
from moco.runs.identity import identity


def problems(*words: str, **changes: object) -> list[str]:
    """The lines that refuse these words."""
    with pytest.raises(UserError) as caught:
        check(composed(*words) | changes, typed_keys(words))
    return str(caught.value).splitlines()


def test_what_is_typed_wins_over_method_and_recipe():
    assert checked("method=npid", "momentum=0.9", "batch_size=64").momentum == 0.9
    config = checked("recipe=moco_cifar", "temperature=0.3", "method.splits=2")
    assert config.temperature == config.method.temperature == 0.3 and config.method.splits == 2
    assert (checked("method=npid").momentum, checked("method=npid").batch_size) == (0.5, 128)
    assert checked().momentum == 0.99 and checked().batch_size == 512


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
        ("temperature=null", ["method=moco needs a value for temperature"]),
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
        assert checked(f"device='{name}'").device == name
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
    folded = check(composed(*words), fold=True)
    assert folded.m is None and folded.momentum is None
    assert identity(folded) == identity(checked("method=simclr"))
    # A key that the method uses is left alone.
    assert check(composed("m=64"), fold=True).m == 64


def test_the_methods_own_group_stays_typed():
    assert problems(method="moco") == ["method=moco should be a valid dictionary or instance of Method"]


def test_command_line_words():
    check_words(["temperature=0.1", "+method.x=1", "~tracker", "hydra.job.num=1", "sweeps=a", "-m", "model@x=y"])
    with pytest.raises(UserError) as caught:
        check_words(["temprature=0.1", "+sed=3", "m=3", "optimiser.lr=2", "hydra/launcher=slurm"])
    assert str(caught.value).splitlines() == [
        "unknown key temprature: did you mean temperature?",
        "unknown key sed: did you mean seed?",
        "unknown key optimiser: did you mean optimizer?",
    ]
    with pytest.raises(UserError, match=r"^sweeps/wandb/moco.yaml is W&B's: `wandb sweep sweeps/wandb/moco.yaml`"):
        check_words(["sweeps=wandb/moco"])
    check_words(["run=abc"], LinearEval)
    with pytest.raises(UserError, match="unknown key sweeps"):
        check_words(["sweeps=abc"], LinearEval)


def test_help_lists_each_root_key_with_range_and_default():
    lines = help_text(composed()).partition("\n\n")[0].splitlines()
    keys = [name for name in Config.model_fields if Config.model_fields[name].description]
    assert [re.split(r"[ =]+", line)[1] for line in lines[1:]] == keys
    rows = {line.split("=")[0].strip(): re.split(r"  +", line.strip()) for line in lines[1:]}
    assert rows["temperature"] == ["temperature=0.1", "float >0", "softmax temperature of the contrastive loss"]
    assert rows["momentum"][:2] == ["momentum=0.99", "float >=0 <=1"]
    assert rows["m"][:2] == ["m=4096", "int >=0"]
    assert rows["precision"][:2] == ["precision=auto", "auto|fp32|bf16"]
    assert rows["compile"][:2] == ["compile=false", "bool"]


# What is typed and unused is refused, what a file brings along is dropped


def test_what_a_recipe_brings_along_and_the_method_does_not_use_is_dropped():
    config = checked("recipe=quickstart", "method=simclr")  # the recipe sets m for MoCo
    assert config.m is None and config.method.splits == 1 and config.method.name == "simclr"
    assert config.epochs == 20 and config.method.temperature == 0.5
    other = checked("recipe=quickstart", "model=resnet18")  # and widths and stem_stride, for the small ResNet
    assert set(other.model.arguments()) == {"_target_", "architecture", "stem", "pretrained", "zero_init_residual"}
    # timm's models take options of any name, of which those that were typed and those of nobody else stay.
    timm = checked("recipe=quickstart", "model=timm", "+model.stem=cifar", "+model.depths=[1,1]")
    assert set(timm.model.arguments()) == {"_target_", "architecture", "pretrained", "stem", "depths"}


def test_a_method_may_do_without_a_temperature():
    config = checked("recipe=quickstart", "method=barlow_twins")
    assert config.temperature is None and config.m is None and config.momentum is None
    assert set(config.method.arguments()) >= {"feature_dim", "off_diagonal"} and config.method.temperature is None
    assert checked("recipe=simclr_cifar", "method=barlow_twins").temperature is None  # the recipe brings one along
    assert problems("method=barlow_twins", "temperature=0.1") == [
        "temperature=0.1 is not used by method=barlow_twins: leave temperature out"
    ]
    assert problems("method=barlow_twins", "+method.symmetric=true")[0].startswith(
        "barlow_twins has no setting symmetric: it takes"
    )
    assert problems("feature_dim=null") == ["method=moco needs a value for feature_dim"]


def test_no_more_stages_are_pooled_than_there_are():
    small = ("model=small", "model.widths=[8,16,32]")
    assert problems(*small, "model.pooled=4") == [
        "model.pooled=4 should be 1 to 3, the number of stages (model.widths)"
    ]
    assert problems(*small, "model.pooled=0") == ["model.pooled=0 should be greater than or equal to 1"]
    assert checked(*small, "model.pooled=3").model.pooled == 3


def test_a_mean_needs_a_deviation_above_0():
    assert problems("data.mean=null") == ["data.std is given without data.mean: give both, or neither"]
    assert problems("data=digits", "data.mean=[0.5,0.5,0.5]") == [
        "data.mean is given without data.std: give both, or neither"
    ]
    for word in ("data.std=[0.2,0,0.2]", "data.std=[0.2,-0.1,0.2]", "data.mean=[125,123,114]", "data.std=[63,62,67]"):
        [line] = problems(word)
        assert line.startswith("data.mean=[") and "a std is at least 0.001" in line
    assert checked("data.mean=[0,0,0]", "data.std=[1,1,1]").data.std == [1, 1, 1]


def test_moments_that_are_typed_and_not_used_are_refused_and_those_of_a_file_are_not():
    given = ("data.mean=[0.5,0.5,0.5]", "data.std=[0.2,0.2,0.2]")
    for words in (("augment.normalize=false",), ("recipe=simclr_cifar",)):
        assert problems(*words, *given) == [
            "data.mean and data.std are not used with augment.normalize=false: leave them out"
        ]
        assert problems(*words, given[0]) == ["data.mean is not used with augment.normalize=false: leave it out"]
        assert checked(*words).data.mean == [0.4914, 0.4822, 0.4465]
        assert checked(*words, "data.mean=null", "data.std=null").data.mean is None


@pytest.mark.parametrize(
    "words, line",
    [
        (["method=simclr", "m=64"], "m=64 is not used by method=simclr: leave m out"),
        (
            ["method=simclr", "+method.symmetric=true"],
            "simclr has no setting symmetric: it takes encoder, feature_dim, temperature",
        ),
        (["model=resnet18", "model.widths=[8,16]"], "resnet18 has no setting widths: it takes architecture, stem"),
    ],
)
def test_what_is_typed_and_not_used_is_refused_beside_a_recipe_too(words: list[str], line: str):
    [said] = problems("recipe=quickstart", *words)
    assert said.startswith(line)


def test_a_target_of_the_users_keeps_the_projects_own_keys():
    words = ["optimizer._target_=torch.optim.Adadelta", "optimizer.scale_lr=true", "+optimizer.rho=0.8"]
    optimizer = checked(*words).optimizer
    assert (optimizer.name, optimizer.scale_lr, optimizer.arguments()["rho"]) == ("sgd", True, 0.8)
    assert "momentum" not in optimizer.arguments()  # sgd.yaml brought it along, and Adadelta has none


def test_typed_keys_are_those_of_the_words():
    words = ["temperature=0.1", "+method.splits=2", "~augment.blur", "++m=3", "model@x=y", "data.root='a=b'"]
    assert typed_keys(words) == {"temperature", "method.splits", "augment.blur", "m", "model", "data.root"}


# Frozen configurations


def test_a_frozen_configuration_is_validated_when_it_is_read_back():
    config = checked("recipe=quickstart")
    frozen = config.frozen()
    assert thaw(frozen) == config and frozen["version"] == 1 and frozen["rerun"] is False
    with pytest.raises(UserError, match="its schema has version 7, this code reads version 1"):
        thaw(frozen | {"version": 7})
    with pytest.raises(UserError, match="temperature=-1 should be greater than 0"):
        thaw(frozen | {"temperature": -1})


# Rules over several keys, each in its one place


@pytest.mark.parametrize(
    "words, line",
    [
        (["batch_size=60"], "batch_size=60 is not a multiple of method.splits=8: give another, or method.splits=1"),
        (["m=0"], "m=0 leaves method=moco without a queue: give at least 1 (npid takes 0 for its whole bank)"),
        (["schedule.warmup_epochs=200"], "schedule.warmup_epochs=200.0 leaves nothing of epochs=200"),
        (["schedule=step", "schedule.warmup_epochs=130"], "schedule.milestones=[120.0, 160.0] should come after the"),
        (["method.hidden_dim=64"], "method.hidden_dim and method.head_norm are settings of a hidden layer"),
        (["augment.crop=[0.5,0.2]"], "augment.crop=[0.5, 0.2] should be [least, largest] share of the image"),
        (["augment.crop=[0,1]"], "augment.crop=[0.0, 1.0] should be [least, largest] share of the image"),
        (
            ["augment.blur_sigma=[2,1]"],
            "augment.blur_sigma=[2.0, 1.0] should be [least, largest] in pixels, from 0.001 to 1e6",
        ),
        (["augment.jitter=[0.4,0.4,0.4,0.7]"], "augment.jitter=[0.4, 0.4, 0.4, 0.7] should be four strengths"),
        (["method.momentum_end=1.5"], "method.momentum_end=1.5 should be less than or equal to 1"),
        (["schedule.final=1.5"], "schedule.final=1.5 should be less than or equal to 1"),
        (["schedule=step", "schedule.gamma=0"], "schedule.gamma=0 should be greater than 0"),
        (["optimizer.momentum=1"], "optimizer.momentum=1 should be less than 1"),
        (["knn_temperature=0"], "knn_temperature=0 should be greater than 0"),
        (["method=npid", "m=-1"], "m=-1 should be greater than or equal to 0"),
    ],
)
def test_each_rule_is_one_line(words: list[str], line: str):
    [said] = problems(*words)
    assert said.startswith(line)


@pytest.mark.parametrize(
    "words", [["m=0", "method=npid"], ["augment.crop=[1,1]"], ["method.hidden_dim=64", "method.head_layers=2"]]
)
def test_what_lies_on_the_edge_is_taken(words: list[str]):
    assert checked(*words)
