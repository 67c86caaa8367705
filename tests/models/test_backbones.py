"""Backbones: what they compute, and what they refuse."""

import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet

from moco.errors import UserError
from moco.models import SmallResNet, timm_backbone, torchvision_resnet


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


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


def test_blocks_that_begin_as_their_shortcuts():
    model = torchvision_resnet("resnet18", "imagenet", zero_init_residual=True)
    block = model.layer2[1]  # without a convolution in its shortcut
    x = torch.randn(2, 128, 4, 4).relu()
    assert torch.equal(block(x), x) and not torch.equal(torchvision_resnet("resnet18", "imagenet").layer2[1](x), x)


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


def test_small_network_pools_its_last_stages():
    torch.manual_seed(0)
    model, maps = SmallResNet([8, 16, 32], stem_stride=1, pooled=2), []
    for stage in list(model.stages)[-2:]:
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output))
    features = model(torch.randn(2, 3, 16, 16))
    assert features.shape == (2, model.num_features) == (2, 16 + 32)
    assert torch.equal(features, torch.cat([each.mean((2, 3)) for each in maps], 1))


@pytest.mark.parametrize("architecture", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_timm_backbones_give_as_many_features_as_they_say(architecture: str):
    model = timm_backbone(architecture)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, model.num_features)


def test_timm_options_reach_the_constructor():
    assert timm_backbone("convnext_atto", depths=(1, 1, 1, 1)).num_features == 320
    assert parameters(timm_backbone("convnext_atto", depths=(1, 1, 1, 1))) < parameters(timm_backbone("convnext_atto"))


def test_unknown_architectures_and_options():
    for name in ("resnet19", "ResNet", "vgg11", "conv3x3"):
        with pytest.raises(UserError, match=f"model.architecture={name} is not a ResNet of torchvision: try resnet18"):
            torchvision_resnet(name, "cifar")
    with pytest.raises(UserError, match="model.architecture=resnet10 is not in timm: see .*resnet10t"):
        timm_backbone("resnet10")
    with pytest.raises(UserError, match="model.architecture=resnet10t has no such setting: .*widht"):
        timm_backbone("resnet10t", widht=3)


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="model=timm needs timm: pip install timm"):
        timm_backbone("resnet10t")


# Weights that somebody else trained


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What torchvision would download for a resnet18; `asked` of it is in the test's hands."""
    torch.manual_seed(7)
    weights = resnet.resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **options: weights)
    return weights


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_pretrained_resnets_have_torchvisions_weights(stem: str, downloaded, capsys: pytest.CaptureFixture[str]):
    model = torchvision_resnet("resnet18", stem, pretrained=True)
    said = capsys.readouterr().err
    assert "the weights are ResNet18_Weights.IMAGENET1K_V1" in said
    assert ("but for the first convolution" in said) == (stem == "cifar")
    state = model.state_dict()
    same = [name for name, value in state.items() if torch.equal(value, downloaded.get(name, torch.zeros(0)))]
    assert set(state) - set(same) == ({"conv1.weight"} if stem == "cifar" else set())
    assert state["conv1.weight"].shape[-1] == (3 if stem == "cifar" else 7)


@pytest.mark.parametrize(
    "error",
    [
        OSError("<urlopen error [Errno -2] Name or service not known>"),
        RuntimeError('invalid hash value (expected "f37072fd")'),
    ],
)
def test_weights_of_torchvision_that_cannot_be_downloaded(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fails(url: str, **options: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fails)
    with pytest.raises(
        UserError, match=r"^model.pretrained=true: https://.*resnet18-.*.pth cannot be downloaded .*checkpoints$"
    ):
        torchvision_resnet("resnet18", "cifar", pretrained=True)


def test_pretrained_timm_backbones_have_timms_weights(monkeypatch: pytest.MonkeyPatch):
    timm = pytest.importorskip("timm")
    other = timm.create_model("resnet10t", num_classes=0).state_dict()
    loaded = []

    def load(model: nn.Module, **options: object) -> None:
        loaded.append(options["pretrained_cfg"])
        model.load_state_dict(other)

    monkeypatch.setattr("timm.models._builder.load_pretrained", load)
    model = timm_backbone("resnet10t", pretrained=True)
    assert len(loaded) == 1 and all(torch.equal(value, other[name]) for name, value in model.state_dict().items())
    timm_backbone("resnet10t")
    assert len(loaded) == 1


def test_weights_of_timm_that_are_not_there(monkeypatch: pytest.MonkeyPatch):
    def fails(model: nn.Module, **options: object) -> None:
        raise ConnectionError("Cannot reach\nhuggingface.co")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fails)
    with pytest.raises(
        UserError, match=r"resnet10t cannot be loaded .*\(ConnectionError: Cannot reach huggingface.co\): connect"
    ):
        timm_backbone("resnet10t", pretrained=True)
    with pytest.raises(UserError, match="resnet10t has no such setting: .*widht"):
        timm_backbone("resnet10t", pretrained=True, widht=3)
    with pytest.raises(
        UserError, match="timm has no weights for model.architecture=resnet34s: give model.pretrained=false"
    ):
        monkeypatch.setattr("timm.is_model", lambda name: True)
        timm_backbone("resnet34s", pretrained=True)
