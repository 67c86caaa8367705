"""A ResNet of few layers, for two CPU cores."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (arXiv 1512.03385, figure 2), with torchvision's names of the parts."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, width, H / stride, W / stride]"""
        out: Tensor = self.bn1(self.conv1(x)).relu_()
        out = self.bn2(self.conv2(out)).add_(self.downsample(x))
        return out.relu_()


class SmallResNet(nn.Module):
    """One basic block per stage: a ResNet small enough to train on two CPU cores.

    Args:
        widths: channels of each stage; every stage but the first halves the side.
        stem_stride: 2 halves the side at once, which allows wider stages for the same work.
        pooled: how many of the last stages contribute to the feature, each averaged over the image.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), stem_stride: int = 2, pooled: int = 1):
        super().__init__()
        assert 1 <= pooled <= len(widths)
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
        """Images [B, 3, H, W] -> features [B, num_features]"""
        unpooled = len(self.stages) - self.pooled
        x = self.stages[:unpooled](x)
        features = []
        for stage in self.stages[unpooled:]:
            x = stage(x)
            features.append(x.mean((2, 3)))  # [B, width]
        return torch.cat(features, 1)
