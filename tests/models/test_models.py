"""Backbones by the sizes that are known of them, and exports that load strictly into the plain model."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torchvision.models import resnet

from moco import export
from moco.config.schema import build
from moco.errors import UserError
from moco.evaluation.knn import count
from moco.methods import MoCo
from moco.models.heads import projection_head
from moco.models.resnet import SmallResNet, channels_last, timm_backbone, torchvision_resnet
from moco.runs.run import Run


def million(parameters: int) -> float:
    return round(parameters / 1e6, 2)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Sizes


def test_resnet18_has_the_known_size():
    size, multiply_adds = count(torchvision_resnet("resnet18", "cifar"), 32)
    assert (million(size), round(multiply_adds / 1e9, 3)) == (11.17, 0.555)


def test_resnet50_has_the_known_sizes_with_classifier_and_with_the_seeds_head(checked):
    backbone = torchvision_resnet("resnet50", "cifar")
    size, multiply_adds = count(backbone, 32)
    assert round(multiply_adds / 1e9, 3) == 1.298
    assert million(size + parameters(nn.Linear(backbone.num_features, 10))) == 23.52
    for recipe in ("simclr_seed", "moco_leftthomas"):
        cfg = checked(f"recipe={recipe}")
        method = cfg["method"]
        head = projection_head(
            2048,
            cfg["feature_dim"],
            layers=method["head_layers"],
            hidden_dim=method["hidden_dim"],
            norm=method["head_norm"],
        )
        assert million(size + parameters(head)) == 24.62


def test_multiply_adds_of_the_small_network_by_hand():
    # 8x8 pixels, stem of stride 2: 4x4 from there on, 2x2 in the second stage
    model = SmallResNet([4, 6], stem_stride=2)
    stem, first = 16 * 3 * 4 * 9, 2 * 16 * 4 * 4 * 9
    second = 4 * 4 * 6 * 9 + 4 * 6 * 6 * 9 + 4 * 4 * 6
    convolutions = 3 * 4 * 9 + 2 * 4 * 4 * 9 + 4 * 6 * 9 + 6 * 6 * 9 + 4 * 6
    norms = 2 * (4 + 4 + 4 + 6 + 6 + 6)
    assert count(model, 8) == (convolutions + norms, stem + first + second)


# What they compute


@pytest.mark.parametrize("stem, side", [("cifar", 4), ("imagenet", 1)])
def test_stems(stem: str, side: int):
    model = torchvision_resnet("resnet18", stem)
    maps = []
    model.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, model.num_features) == (2, 512)
    assert maps == [(2, 512, side, side)]
    assert (model.conv1.kernel_size, model.conv1.stride) == (((3, 3), (1, 1)) if stem == "cifar" else ((7, 7), (2, 2)))


def test_imagenet_stem_is_torchvisions_own_network():
    torch.manual_seed(0)
    ours = torchvision_resnet("resnet34", "imagenet")
    torch.manual_seed(0)
    theirs = resnet.resnet34()
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


def test_cifar_stem_is_initialised_as_torchvision_initialises():
    weight = torchvision_resnet("resnet18", "cifar").conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_small_network():
    model = SmallResNet([8, 16, 32], stem_stride=1)
    maps = []
    for stage in list(model.stages)[3:]:
        stage.register_forward_hook(lambda module, inputs, output: maps.append(tuple(output.shape[1:])))
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, model.num_features) == (2, 32)
    assert maps == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]


def test_channels_last_changes_the_layout_alone():
    x = torch.randn(4, 3, 16, 16)
    model = SmallResNet([8, 16]).eval()
    before = model(x)
    channels_last(model)
    assert model.stages[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("architecture", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_timm_backbones_give_as_many_features_as_they_say(architecture: str):
    model = timm_backbone(architecture)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, model.num_features)


def test_timm_options_reach_the_constructor():
    assert timm_backbone("convnext_atto", depths=(1, 1, 1, 1)).num_features == 320
    assert parameters(timm_backbone("convnext_atto", depths=(1, 1, 1, 1))) < parameters(timm_backbone("convnext_atto"))


def test_a_norm_that_holds_an_activation_is_not_split():
    settings = dict(feature_dim=4, m=8, temperature=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="BatchNormAct2d.*choose splits=1"):
        MoCo(timm_backbone("mobilenetv3_small_050"), splits=2, **settings)
    loss = MoCo(timm_backbone("mobilenetv3_small_050"), splits=1, **settings)(
        torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.arange(4)
    )
    assert loss.isfinite()


def test_unknown_architectures_and_stems():
    for name in ("resnet19", "ResNet", "vgg11", "conv3x3"):
        with pytest.raises(ValueError, match=f"model.architecture={name} is no ResNet of torchvision: try resnet18"):
            torchvision_resnet(name, "cifar")
    with pytest.raises(ValueError, match="model.stem=stl is unknown: give cifar"):
        torchvision_resnet("resnet18", "stl")
    with pytest.raises(ValueError, match="model.architecture=resnet10 is not in timm: see .*resnet10t"):
        timm_backbone("resnet10")
    with pytest.raises(ValueError, match="model.architecture=resnet10t has no such setting: .*widht"):
        timm_backbone("resnet10t", widht=3)


# Exports


@pytest.fixture
def trained(tmp_path: Path, checked, monkeypatch: pytest.MonkeyPatch):
    """trained("model=...", ...) -> a finished run's folder whose checkpoint holds that backbone, its statistics moved."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str) -> tuple[Run, nn.Module]:
        cfg = checked(*overrides)
        torch.manual_seed(1)
        method = MoCo(build(cfg["model"]), feature_dim=4, m=8, temperature=0.1, momentum=0.9, splits=2)
        for _ in range(2):
            method(torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32), torch.arange(8))
        run = Run(tmp_path / "runs" / "moco-x-y-abcdefghij")
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_text(yaml.safe_dump(cfg))
        run.write_result({"knn/top1": 50.0})
        torch.save({"method": method.state_dict()}, run.checkpoint)
        return run, method.encoder.eval()

    return make


@pytest.mark.parametrize("form", ["torchvision", "safetensors"])
@pytest.mark.parametrize(
    "model, plain",
    [
        (["model=resnet18"], "ResNet"),
        (["model=resnet18", "model.stem=imagenet"], "ResNet"),
        (["model=timm"], "ResNet"),
        (["model=timm", "model.architecture=convnext_atto", "+model.depths=[1,1,1,1]"], "ConvNeXt"),
        (["model=small", "model.widths=[8,16]"], "SmallResNet"),
    ],
    ids=["cifar", "imagenet", "timm", "timm-options", "small"],
)
def test_exports_load_strictly_by_the_lines_they_come_with(trained, tmp_path: Path, model, plain: str, form: str):
    run, encoder = trained(*model)
    path, lines = export(run, form, None)
    assert path == Path(f"moco-x-y-abcdefghij.{'safetensors' if form == 'safetensors' else 'pth'}") and path.exists()
    names: dict = {}
    exec(lines, names)
    loaded = names["model"].eval()
    assert type(loaded).__name__ == plain and not isinstance(loaded, MoCo)
    assert "moco" not in lines.replace(path.name, "") or plain == "SmallResNet"
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(loaded(x), encoder(x))
    assert int(loaded.state_dict().get("bn1.num_batches_tracked", 2)) == 2
    assert loaded.load_state_dict(names["weights"], strict=True).missing_keys == []


def test_export_goes_where_it_is_told(trained, tmp_path: Path):
    run, _ = trained("model=small", "model.widths=[8,16]")
    path, lines = export(run, "torchvision", tmp_path / "it's mine.pth")
    names: dict = {}
    exec(lines, names)
    assert path == tmp_path / "it's mine.pth" and set(names["weights"]) == set(names["model"].state_dict())


def test_what_cannot_be_exported(trained):
    run, _ = trained("model=small", "model.widths=[8,16]")
    whole = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(whole[:500])
    with pytest.raises(UserError, match="checkpoint.pt is damaged .*: it is kept"):
        export(run, "torchvision", None)
    assert run.checkpoint.stat().st_size == 500
    run.checkpoint.write_bytes(whole)
    changed = run.config["model"] | {"widths": [4, 16]}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(run.config | {"model": changed}))
    with pytest.raises(UserError, match="checkpoint.pt does not fit its config.yaml .*: it is kept"):
        export(run, "torchvision", None)
    run.checkpoint.unlink()
    with pytest.raises(UserError, match="checkpoint.pt is absent"):
        export(run, "torchvision", None)
    (run.folder / "result.json").unlink()
    with pytest.raises(UserError, match="is pending, not done: train it to its end first"):
        export(run, "torchvision", None)
    assert not list(Path.cwd().glob("*.pth"))
