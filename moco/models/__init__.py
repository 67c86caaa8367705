"""Backbones, images [B, 3, H, W] -> features [B, num_features], and projection heads, which belong to the methods."""

from moco.models.resnet import torchvision_resnet
from moco.models.small_resnet import SmallResNet
from moco.models.timm import timm_backbone

__all__ = ["SmallResNet", "timm_backbone", "torchvision_resnet"]
