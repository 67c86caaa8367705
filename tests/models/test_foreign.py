"""Weights in the files of other code: each format is made here with the names that its code gives, and loaded strictly."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from moco.errors import UserError
from moco.models import torchvision_resnet
from moco.models.foreign import fitted, in_words, state_dict, stem


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """A trained ResNet-18 of torchvision: nothing in it is as it was drawn."""
    generator = torch.Generator().manual_seed(0)
    model = resnet18()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.1 + 0.01)
        else:
            value.fill_(7)
    return model


@pytest.fixture
def ours() -> nn.Module:
    return torchvision_resnet("resnet18", "imagenet")


def under(prefix, weights):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def other(weights):
    """The same names with other values, as of a momentum encoder."""
    return {name: value * 0 for name, value in weights.items()}


def without_fc(model):
    model = copy.deepcopy(model)
    model.fc = nn.Identity()
    return model


def moco_v2(model):
    """facebookresearch/moco, main_moco.py: DistributedDataParallel around moco/builder.py."""
    encoder = model.state_dict()
    whole = {**under("module.encoder_k.", other(encoder)), **under("module.encoder_q.", encoder)}
    whole |= {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 200, "arch": "resnet18", "state_dict": OrderedDict(whole), "optimizer": {"state": {}}}


def moco_v3(model):
    """facebookresearch/moco-v3, main_moco.py."""
    encoder = model.state_dict()
    whole = {**under("module.base_encoder.", encoder), **under("module.momentum_encoder.", other(encoder))}
    return {"state_dict": whole}


def lightly_example(model):
    """lightly, examples/pytorch_lightning/moco.py: nn.Sequential(*list(resnet.children())[:-1])."""
    backbone = nn.Sequential(*list(model.children())[:-1]).state_dict()
    whole = {**under("backbone.", backbone), **under("backbone_momentum.", other(backbone))}
    return {"state_dict": {**whole, "projection_head.layers.0.weight": torch.zeros(2, 2)}, "hyper_parameters": {}}


def lightly_benchmark(model):
    """lightly, benchmarks/imagenet/resnet50: self.backbone = resnet with fc = Identity()."""
    backbone = without_fc(model).state_dict()
    whole = {**under("backbone.", backbone), "online_classifier.linear.weight": torch.zeros(2, 2)}
    return {"state_dict": {**whole, **under("query_backbone.", other(backbone))}}


def solo_learn(model):
    """solo-learn, solo/methods/base.py."""
    backbone = without_fc(model).state_dict()
    whole = {**under("backbone.", backbone), "classifier.weight": torch.zeros(2, 2), "queue": torch.zeros(2, 8)}
    return {"state_dict": {**whole, **under("momentum_backbone.", other(backbone))}}


def older_solo_learn(model):
    """The same before `encoder` was renamed to `backbone`."""
    encoder = without_fc(model).state_dict()
    return {"state_dict": {**under("encoder.", encoder), **under("momentum_encoder.", other(encoder))}}


def before_counts(model):
    """A file from before BatchNorm counted its batches."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


FORMATS = {
    "torchvision": (lambda model: model.state_dict(), "", "fc.weight, fc.bias"),
    "DistributedDataParallel": (lambda model: under("module.", model.state_dict()), "module.", "module.fc (2)"),
    "moco": (moco_v2, "module.encoder_q.", "module.encoder_k (122), module.encoder_q (2), module.queue and 1 more"),
    "moco-v3": (moco_v3, "module.base_encoder.", "module.momentum_encoder (122), module.base_encoder (2)"),
    "lightly, example": (lightly_example, "backbone.", "backbone_momentum.5 (30)"),
    "lightly, benchmark": (lightly_benchmark, "backbone.", "query_backbone.layer2 (30)"),
    "solo-learn": (solo_learn, "backbone.", "momentum_backbone.layer2 (30)"),
    "older solo-learn": (older_solo_learn, "encoder.", "momentum_encoder.layer2 (30)"),
    "without counts": (before_counts, "", "fc.weight, fc.bias"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_features_of_its_own_model(name, theirs, ours):
    make, prefix, left_out = FORMATS[name]
    found = fitted(state_dict(make(theirs)), ours)
    ours.load_state_dict(found.state)
    assert found.prefix == prefix and in_words(found.left_out).startswith(left_out)
    x = torch.rand(2, 3, 32, 32)
    want = without_fc(theirs).eval()
    assert torch.equal(ours.eval()(x), want(x)) and want(x).std() > 0


def test_timm_names_fit_timm():
    timm = pytest.importorskip("timm")
    from moco.models import timm_backbone

    theirs, ours = (
        timm.create_model("vit_tiny_patch16_224", img_size=32),
        timm_backbone("vit_tiny_patch16_224", img_size=32),
    )
    found = fitted(theirs.state_dict(), ours)
    ours.load_state_dict(found.state)
    assert found.left_out == ["head.weight", "head.bias"] and torch.equal(ours.cls_token, theirs.cls_token)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, "in another shape conv1.weight (64x3x3x3, not 64x3x7x7)"),
        (lambda w: {k: v for k, v in w.items() if "layer4.1" not in k}, "lacks layer4.1.conv1.weight, layer4.1.bn1.weight, "),
        (lambda w: w | {"layer4.2.conv1.weight": torch.zeros(1)}, "has besides layer4.2.conv1.weight"),
        (lambda w: under("net.encoder.", w), "its names are none of this model's (net.encoder.bn1.bias, "),
        (lambda w: {}, "its names are none of this model's (it holds no tensor)"),
        (
            lambda w: under("backbone.", {k: v for k, v in w.items() if k != "bn1.bias"} | {"conv1.weight": torch.zeros(1)}),
            "it lacks bn1.bias and has in another shape conv1.weight (1, not 64x3x7x7), after backbone.",
        ),
    ],
)  # fmt: skip
def test_what_does_not_match_is_named(change, said, theirs, ours):
    with pytest.raises(UserError) as error:
        fitted(change(dict(theirs.state_dict())), ours)
    assert said in str(error.value) and len(str(error.value)) < 300


def test_the_stem_is_read_off_the_first_convolution(theirs):
    assert stem(theirs.state_dict()) == stem(state_dict(moco_v2(theirs))) == "imagenet"
    assert stem(torchvision_resnet("resnet18", "cifar").state_dict()) == "cifar"
