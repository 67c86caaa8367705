"""Data sets as uint8 tensors, small enough to live on the device."""

from moco.data.dataset import Dataset, load_digits, load_image_folder, load_torchvision

__all__ = ["Dataset", "load_digits", "load_image_folder", "load_torchvision"]
