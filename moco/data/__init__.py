"""Data sets as uint8 tensors on the device or packed on disk. Loads torch where one is asked for, not before."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moco.data.dataset import Dataset
    from moco.data.digits import load_digits
    from moco.data.huggingface import load_huggingface
    from moco.data.image_folder import load_image_folder
    from moco.data.torchvision import load_torchvision

__all__ = ["Dataset", "load_digits", "load_huggingface", "load_image_folder", "load_torchvision"]
FILES = {"Dataset": "dataset", **{name: name.removeprefix("load_") for name in __all__[1:]}}


def __getattr__(name: str) -> object:
    """A public name from its file (PEP 562): moco.data.files is for processes that never load torch."""
    if name not in FILES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{FILES[name]}"), name)
