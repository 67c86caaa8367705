"""Data sets as uint8 tensors, small enough to be held on the device."""

from moco.data.dataset import Dataset
from moco.data.digits import load_digits
from moco.data.image_folder import load_image_folder
from moco.data.torchvision import load_torchvision

__all__ = ["Dataset", "load_digits", "load_image_folder", "load_torchvision"]
