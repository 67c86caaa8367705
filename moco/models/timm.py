"""The backbones of timm."""

import difflib
from typing import Any

from torch import nn

from moco.errors import UserError


def timm_backbone(architecture: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """A backbone of timm with pooling and without classifier: images [B, 3, H, W] -> features.

    Args:
        architecture: its name in timm.
        pretrained: with the weights that timm has for it, which are downloaded once; else drawn at random.
        options: for its constructor.

    Raises:
        UserError: timm is not installed, it has no such architecture or no weights for it, they cannot be downloaded, or the
            architecture has no such option.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError("model=timm needs timm: pip install timm") from error
    if not timm.is_model(architecture):
        near = ", ".join(difflib.get_close_matches(architecture, timm.list_models(), 5)) or "timm.list_models()"
        raise UserError(f"model.architecture={architecture} is not in timm: see {near}")
    if pretrained and not timm.models.is_model_pretrained(architecture):
        raise UserError(f"timm has no weights for model.architecture={architecture}: give model.pretrained=false")
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=0, **options)
        model.num_features = model.head_hidden_size  # differs where a hidden layer follows the pooling (MobileNetV3)
    except (MemoryError, RuntimeError) as error:
        if "allocate" in str(error):  # see moco.training.memory
            raise
        raise _refusal(architecture, pretrained, error) from error
    except Exception as error:  # each constructor says no to an option in its own way, each hub to a download
        raise _refusal(architecture, pretrained, error) from error
    return model


def _refusal(architecture: str, pretrained: bool, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if pretrained and not isinstance(error, TypeError):
        return UserError(
            f"model.pretrained=true: timm's weights of {architecture} cannot be loaded ({reason}): connect to the network "
            "once, or copy the cache of Hugging Face (HF_HOME) from where the weights are"
        )
    return UserError(f"model.architecture={architecture} has no such setting: {reason}")
