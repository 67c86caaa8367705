"""What a network cannot take is one line, before anything is written; what it costs is counted at the evaluated size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import METHODS, TINY
from PIL import Image
from torch import nn

from moco.config.schema import Config
from moco.errors import UserError
from moco.models import SmallResNet
from moco.models.cost import count
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.training.components import Components
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train
from moco.training.trial import try_backbone, try_method

Make = Callable[..., Config]


@pytest.mark.parametrize(
    "words, line",
    [
        (
            ["model.architecture=vit_tiny_patch16_224"],
            r"does not take training views \(augment.size\) of 8x8 pixels .*224",
        ),
        (
            ["model.architecture=vit_tiny_patch16_224", "augment.size=16", "+model.img_size=16"],
            r"does not take images of evaluation \(augment.eval_size\) of 8x8 pixels",
        ),
        (["model.architecture=resnet10t", "+model.in_chans=1"], "does not take training views .*channels"),
        (["model.architecture=resnet10t", "+model.global_pool=''"], r"gives \[2, 512, .*it should be \[2, 512\]"),
        (
            ["model.architecture=resnet10t", "+model.output_stride=5"],
            "model.architecture=resnet10t has no such setting",
        ),
        (["model.architecture=resnet10t", "+model.features_only=true"], "model.architecture=resnet10t has no such"),
    ],
)
def test_a_model_that_does_not_take_its_images_writes_nothing(
    words: list[str], line: str, checked: Make, tmp_path: Path
) -> None:
    others = [word for word in TINY if not word.startswith("model")]
    config = checked("method=simclr", *others, "model=timm", *words)
    with pytest.raises(UserError, match=line) as error:
        train(config)
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


def test_a_group_of_one_image_leaves_no_variance(tiny: Make, tmp_path: Path) -> None:
    words = ["method.splits=64", "m=64", "model.widths=[8,8,8,8]", "precision=fp32"]  # maps of one pixel
    with pytest.raises(UserError, match="batch_size=64 leaves one image to each of method.splits=64 groups") as error:
        train(tiny("moco", *words))
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()
    train(tiny("moco", *words, "method.splits=32", "epochs=1"))


class Plain(nn.Flatten):
    num_features = 12


def test_a_backbone_stays_as_it_was_and_says_its_features() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="model=own does not say how many features it gives: .* num_features"):
        try_backbone(network, "own", {})
    network.num_features = 4
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try_backbone(network, "own", {"views": torch.randn(2, 3, 8, 6)})
    assert network.training and all(m.training for m in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.num_features = 5
    with pytest.raises(UserError, match=r"model=own gives \[2, 4\] for views: it should be \[2, 5\], features"):
        try_backbone(network, "own", {"views": torch.randn(2, 3, 8, 6)})


def test_a_full_memory_is_not_the_networks_fault() -> None:
    class Full(Plain):
        def forward(self, x: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        try_backbone(Full(), "own", {"views": torch.randn(2, 3, 2, 2)})


@pytest.mark.parametrize("lacking", ["encoder", "head", "views"])
def test_a_method_says_what_it_needs(lacking: str, tiny: Make) -> None:
    method: Any = nn.Module()
    method.encoder, method.head, method.views = Plain(), nn.Linear(12, 4), 2
    x, autocast = torch.randn(2, 3, 2, 2), torch.autocast("cpu", torch.bfloat16)
    assert try_method(method, tiny(), autocast, x, x)["params"] == 12 * 4 + 4
    delattr(method, lacking)
    with pytest.raises(UserError, match="method=moco needs modules .encoder and .head and a number of .views"):
        try_method(method, tiny(), autocast, x, x)
    method.encoder, method.head, method.views = Plain(), nn.Linear(13, 4), 2
    with pytest.raises(UserError, match="method=moco: its head does not take the features .*mend the head"):
        try_method(method, tiny(), autocast, x, x)


def test_costs_are_counted_at_the_size_that_is_evaluated(tiny: Make) -> None:
    config = tiny("simclr", "augment.eval_size=12", "epochs=1")
    train(config)
    [folder] = (p.parent for p in Path(config.runs_dir).glob("*/result.json"))
    from moco.runs.run import Run

    result = Run(folder).result
    assert result and result["image_size"] == [12, 12]
    encoder = Components(config, "cpu").encoder
    assert result["multiply_adds_backbone"] == count(encoder, 12).multiply_adds > count(encoder, 8).multiply_adds
    assert (
        result["mean"] == [pytest.approx(0.305, abs=0.01)] * 3 and result["std"] == [pytest.approx(0.37, abs=0.02)] * 3
    )


def test_a_data_set_without_images_is_refused_for_probes_too(tiny: Make) -> None:
    with pytest.raises(UserError, match="data.validation=0.999 leaves no image to train on: give less"):
        train(tiny("moco", "data.validation=0.999"))
    with pytest.raises(UserError, match="data.validation=1e-05 leaves no image to evaluate on: give more"):
        train(tiny("moco", "data.validation=0.00001"))


def test_a_probe_needs_no_pretrained_weights(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be replaced by those of the checkpoint."""
    config = tiny("simclr", "epochs=1", "probe=cached", "probe.epochs=1")
    train(config)
    [folder] = (p.parent for p in Path(config.runs_dir).glob("*/result.json"))
    from moco.runs.run import Run

    seen = []
    make = Components.__init__
    monkeypatch.setattr(Components, "__init__", lambda self, *a, **k: (seen.append(k), make(self, *a, **k))[1])
    linear_eval(Run(folder), config.evaluation())
    assert seen == [{"pretrained": False}]


def test_images_that_are_not_square_are_counted_as_they_are(checked: Make, tmp_path: Path) -> None:
    for split, n in (("train", 32), ("test", 4)):
        (tmp_path / "wide" / split / "a").mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "wide" / split / "a" / f"{i}.bmp")
    words = [word for word in TINY if not word.startswith(("data", "batch_size"))]
    folder = ["data=image_folder", f"data.root={tmp_path}/wide", "batch_size=16"]
    config = checked(*METHODS["simclr"], *words, *folder)
    train(config)
    result = Run(Path(config.runs_dir) / folder_name(config)).result
    assert result and result["image_size"] == [8, 16]
    assert result["multiply_adds_backbone"] == count(SmallResNet([8, 16], stem_stride=2), (8, 16)).multiply_adds
