"""The ResNets of torchvision."""

from typing import Literal, cast

from torch import nn

from moco.errors import UserError


def torchvision_resnet(architecture: str, stem: Literal["cifar", "imagenet"]) -> nn.Module:
    """A ResNet of torchvision without its classifier (arXiv 1512.03385), from images [B, 3, H, W] to features.

    Args:
        architecture: resnet18, resnet34, resnet50, or any other ResNet that torchvision names.
        stem: "imagenet" (7x7 stride 2, max-pooling) or "cifar" (3x3 stride 1, no pooling; arXiv 2002.05709, appendix B.9).

    Raises:
        UserError: torchvision has no such ResNet.
    """
    from torchvision.models import resnet  # takes seconds to load, and SmallResNet does not need it

    make = getattr(resnet, architecture, None)
    if not architecture.startswith(("resnet", "wide_resnet", "resnext")) or make is None:
        raise UserError(
            f"model.architecture={architecture} is not a ResNet of torchvision: try resnet18, resnet34 or resnet50"
        )
    model = make(zero_init_residual=False)
    model.num_features = model.fc.in_features
    model.fc = nn.Identity()
    if stem == "cifar":
        conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")
        model.conv1, model.maxpool = conv1, nn.Identity()
    return cast(nn.Module, model)
