"""Data sets: images as uint8 tensors on the device, or on disk where they are too large for it, with their labels."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moco.data.fingerprint import fingerprint
from moco.data.packed_images import PackedImages
from moco.data.pixels import AnyImages


@dataclass
class Dataset:
    """Images uint8 [N, 3, H, W] with labels int64 [N]; a training label of -1 marks an image without a label (STL-10).

    Attributes:
        bank_images, bank_labels: labelled images that are not trained on, where the training images have no labels.
        files: see moco.data.files.Files.fingerprint and tree_fingerprint; None where the images are not files of the user's.
    """

    train_images: AnyImages
    train_labels: Tensor
    test_images: AnyImages
    test_labels: Tensor
    classes: list[str]
    bank_images: AnyImages | None = None
    bank_labels: Tensor | None = None
    files: str | None = None

    def parts(self) -> dict[str, AnyImages]:
        """Images and labels that there are, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor | PackedImages)}

    @property
    def on_disk(self) -> list[PackedImages]:
        """The images that are on disk."""
        return [part for part in self.parts().values() if isinstance(part, PackedImages)]

    def to(self, device: torch.device) -> "Dataset":
        """The same data set with its tensors on `device`; pixels of images on disk will go there."""
        moved: dict[str, Any] = {name: part.to(device) for name, part in self.parts().items()}
        return replace(self, **moved)

    def loaded(self) -> "Dataset":
        """The same data set with the images on its device that are on disk.

        Raises:
            UserError: one of them cannot be read.
        """
        images: dict[str, Any] = {
            n: part.loaded() for n, part in self.parts().items() if isinstance(part, PackedImages)
        }
        return replace(self, **images)

    def fingerprint(self) -> str:
        """A word that tells this data set, on the CPU, from one with other images, labels or classes."""
        contents = ([part] if isinstance(part, Tensor) else part.contents() for part in self.parts().values())
        return fingerprint([tensor for tensors in contents for tensor in tensors], [*self.classes])

    def labelled(self) -> tuple[AnyImages, Tensor]:
        """The labelled images and their labels: the bank of kNN and the training set of linear evaluation."""
        if self.bank_images is not None and self.bank_labels is not None:
            return self.bank_images, self.bank_labels
        known = self.train_labels >= 0  # [N]
        if bool(known.all()):
            return self.train_images, self.train_labels
        return self.train_images[known], self.train_labels[known]

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the training pixels in [0, 1], per channel."""
        if isinstance(self.train_images, Tensor):
            channels = self.train_images.transpose(0, 1)  # [3, N, H, W]
            # Pixels are counted where the images are. The rest is done on the CPU, since not every device has float64.
            count = torch.stack([torch.bincount(channel.flatten(), minlength=256).cpu() for channel in channels])
            level = torch.arange(256)
            sums = torch.stack([count @ level, count @ level**2])  # [2, 3]
            pixels = int(count[0].sum())
        else:
            sums, pixels = self.train_images.sums(), self.train_images.nbytes // 3
        mean, square = sums.double() / (pixels * torch.tensor([[255], [255**2]]))  # [3] each
        std = (square - mean**2).clamp(min=0).sqrt()
        return [round(v, 4) for v in mean.tolist()], [round(v, 4) for v in std.clamp(min=1e-3).tolist()]

    def hold_out(self, share: float) -> "Dataset":
        """The data set whose test images are a stratified `share` of the labelled images, the same for every seed."""
        apart = self.bank_images is not None and self.bank_labels is not None
        x, y = self.labelled() if apart else (self.train_images, self.train_labels)
        generator = torch.Generator().manual_seed(0)
        held = torch.zeros(len(y), dtype=torch.bool)  # [N]
        for c in range(len(self.classes)):
            members = (y == c).nonzero().squeeze(1)
            chosen = torch.randperm(len(members), generator=generator)[: round(share * len(members))]
            held[members[chosen]] = True
        part = "bank" if apart else "train"
        kept: dict[str, Any] = {f"{part}_images": x[~held], f"{part}_labels": y[~held]}
        return replace(self, test_images=x[held], test_labels=y[held], **kept)
