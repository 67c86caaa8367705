"""Data sets as uint8 tensors, small enough to be held on the device: images reach their views without a data loader."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moco.data.fingerprint import fingerprint


@dataclass
class Dataset:
    """Images uint8 [N, 3, H, W] with labels int64 [N]; a training label of -1 marks an image without a label (STL-10).

    Attributes:
        bank_images, bank_labels: labelled images that are not trained on, where the training images have no labels.
        files: see moco.data.files.Files.fingerprint; None where the images are not files of the user's.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: list[str]
    bank_images: Tensor | None = None
    bank_labels: Tensor | None = None
    files: str | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> "Dataset":
        """The same data set with its tensors on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return Dataset(classes=self.classes, files=self.files, **moved)

    def fingerprint(self) -> str:
        """A word that tells this data set, on the CPU, from one with other images, labels or classes."""
        return fingerprint([*self.tensors().values()], [*self.classes])

    def labelled(self) -> tuple[Tensor, Tensor]:
        """The labelled images and their labels: the bank of kNN and the training set of linear evaluation."""
        if self.bank_images is not None and self.bank_labels is not None:
            return self.bank_images, self.bank_labels
        known = self.train_labels >= 0  # [N]
        if bool(known.all()):
            return self.train_images, self.train_labels
        return self.train_images[known], self.train_labels[known]

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the training pixels in [0, 1], per channel."""
        channels = self.train_images.transpose(0, 1)  # [3, N, H, W]
        # Pixels are counted where the images are. The rest is done on the CPU, since not every device has float64.
        count = torch.stack([torch.bincount(channel.flatten(), minlength=256).cpu() for channel in channels])
        share = count.double() / count.sum(1, keepdim=True)  # [3, 256]
        level = torch.arange(256, dtype=torch.float64, device=count.device) / 255  # [256]
        mean = share @ level  # [3]
        std = (share @ level**2 - mean**2).sqrt()  # [3]
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
        kept = {f"{part}_images": x[~held], f"{part}_labels": y[~held]}
        test = {"test_images": x[held], "test_labels": y[held]}
        return Dataset(classes=self.classes, files=self.files, **self.tensors() | kept | test)
