"""Backbones: images [B, 3, H, W] -> features [B, num_features]. The projection head belongs to the method."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def torchvision_resnet(architecture: str, stem: str) -> nn.Module:
    """A ResNet of torchvision without its classifier (arXiv 1512.03385).

    Args:
        architecture: resnet18, resnet34, resnet50, or any other ResNet name of torchvision.
        stem: "imagenet" (7x7 stride 2, max-pooling) or "cifar" (3x3 stride 1, no pooling; SimCLR, appendix B.9).

    Raises:
        ValueError: torchvision has no such ResNet, or another stem.
    """
    from torchvision.models import resnet  # takes seconds to load, which the small ResNet does without

    make = getattr(resnet, architecture, None)
    if not architecture.startswith(("resnet", "wide_resnet", "resnext")) or make is None:
        raise ValueError(f"model.architecture={architecture} is no ResNet of torchvision: try resnet18 or resnet50")
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"model.stem={stem} is unknown: give cifar (small images) or imagenet")
    model = make(zero_init_residual=False)
    model.num_features = model.fc.in_features
    model.fc = nn.Identity()
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (arXiv 1512.03385, figure 2), under torchvision's names."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu_()
        return self.bn2(self.conv2(out)).add_(self.downsample(x)).relu_()


class SmallResNet(nn.Module):
    """One basic block a stage: a ResNet small enough to train on two CPU cores.

    Args:
        widths: channels of each stage; every stage but the first halves the side.
        stem_stride: 2 halves the side at once, which buys wider stages for the same work.
        pooled: of how many last stages the feature is made, each averaged over the image.

    Raises:
        ValueError: `pooled` is no number of stages.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), stem_stride: int = 2, pooled: int = 1):
        super().__init__()
        if not 1 <= pooled <= len(widths):
            raise ValueError(f"model.pooled={pooled} must be 1 to {len(widths)}, the number of stages")
        self.num_features, self.pooled = sum(widths[-pooled:]), pooled
        stem = [nn.Conv2d(3, widths[0], 3, stem_stride, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(True)]
        blocks: list[nn.Module] = []
        for before, width in zip([widths[0], *widths], widths):
            blocks.append(BasicBlock(before, width, 2 if blocks else 1))
        self.stages = nn.Sequential(*stem, *blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        whole = len(self.stages) - self.pooled
        x = self.stages[:whole](x)
        features = []
        for stage in self.stages[whole:]:
            x = stage(x)
            features.append(x.mean((2, 3)))
        return torch.cat(features, 1)


def timm_backbone(architecture: str, **options: Any) -> nn.Module:
    """Any backbone of timm, pooled, without classifier and without pretrained weights; `options` go to its constructor.

    Raises:
        ValueError: timm is not installed, or knows no such architecture, or the architecture no such option.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError("model=timm needs timm: pip install timm") from error
    if not timm.is_model(architecture):
        near = ", ".join(difflib.get_close_matches(architecture, timm.list_models(), 5)) or "timm.list_models()"
        raise ValueError(f"model.architecture={architecture} is not in timm: see {near}")
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        raise ValueError(f"model.architecture={architecture} has no such setting: {error}") from error
    model.num_features = model.head_hidden_size  # what comes out where a hidden layer follows the pooling (MobileNetV3)
    return model


def channels_last(model: nn.Module) -> nn.Module:
    """The model with its convolutions in channels_last, the faster layout on CPUs and on tensor cores."""
    return model.to(memory_format=torch.channels_last)
