"""The backbones of timm."""

import difflib
from typing import Any

from torch import nn

from moco.errors import UserError


def timm_backbone(architecture: str, **options: Any) -> nn.Module:
    """A backbone of timm with pooling, without classifier and without pretrained weights: images [B, 3, H, W] -> features.

    Args:
        architecture: its name in timm.
        options: for its constructor.

    Raises:
        UserError: timm is not installed, it has no such architecture, or the architecture has no such option.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError("model=timm needs timm: pip install timm") from error
    if not timm.is_model(architecture):
        near = ", ".join(difflib.get_close_matches(architecture, timm.list_models(), 5)) or "timm.list_models()"
        raise UserError(f"model.architecture={architecture} is not in timm: see {near}")
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        raise UserError(f"model.architecture={architecture} has no such setting: {error}") from error
    model.num_features = model.head_hidden_size  # differs where a hidden layer follows the pooling (MobileNetV3)
    return model
