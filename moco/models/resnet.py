"""The ResNets of torchvision."""

import sys
from typing import Literal, cast

from torch import Tensor, nn

from moco.errors import UserError


def torchvision_resnet(
    architecture: str, stem: Literal["cifar", "imagenet"], pretrained: bool = False, zero_init_residual: bool = False
) -> nn.Module:
    """A ResNet of torchvision without its classifier (arXiv 1512.03385), from images [B, 3, H, W] to features.

    Args:
        architecture: resnet18, resnet34, resnet50, or any other ResNet that torchvision names.
        stem: "imagenet" (7x7 stride 2, max-pooling) or "cifar" (3x3 stride 1, no pooling; arXiv 2002.05709, appendix B.9).
        pretrained: with the weights of ImageNet that torchvision has by default, which are downloaded once; else drawn at
            random. The first convolution of the cifar stem has no such weights: it is drawn at random all the same.
        zero_init_residual: each block begins as its shortcut: the scale of its last BatchNorm is 0 (arXiv 1706.02677, section
            5.1).

    Raises:
        UserError: torchvision has no such ResNet, or its weights cannot be downloaded.
    """
    from torchvision.models import resnet  # takes seconds to load, and SmallResNet does not need it

    make = getattr(resnet, architecture, None)
    if not architecture.startswith(("resnet", "wide_resnet", "resnext")) or make is None:
        raise UserError(
            f"model.architecture={architecture} is not a ResNet of torchvision: try resnet18, resnet34 or resnet50"
        )
    model = make(zero_init_residual=zero_init_residual)
    model.num_features = model.fc.in_features
    if pretrained:
        model.load_state_dict(_weights(architecture, stem))
    model.fc = nn.Identity()
    if stem == "cifar":
        conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")
        model.conv1, model.maxpool = conv1, nn.Identity()
    return cast(nn.Module, model)


def _weights(architecture: str, stem: str) -> dict[str, Tensor]:
    """Torchvision's default weights of an architecture; says which they are, and what of them the stem leaves out."""
    import torch
    from torchvision.models import get_model_weights

    weights = get_model_weights(architecture).DEFAULT
    left_out = ", but for the first convolution, which model.stem=cifar draws anew" if stem == "cifar" else ""
    try:
        found: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or a file with another hash
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"model.pretrained=true: {weights.url} cannot be downloaded ({reason}): connect to the network once, or put the "
            f"file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    print(f"model.pretrained=true: the weights are {weights}{left_out}", file=sys.stderr, flush=True)
    return found
