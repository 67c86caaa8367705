"""Backbones, images [B, 3, H, W] -> features [B, num_features], and projection heads."""

from moco.models.resnet import SmallResNet, timm_backbone, torchvision_resnet

__all__ = ["SmallResNet", "timm_backbone", "torchvision_resnet"]
