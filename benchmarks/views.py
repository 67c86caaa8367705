"""Views per second: batched augmentation against torchvision's transforms on PIL images, on the same cores.

    python benchmarks/views.py

The reference is what the published code does: one image at a time through torchvision's transforms, in a DataLoader with one
worker per core. Both make MoCo's two views of 32 x 32 images (conf/augment/moco.yaml); tests/augment checks that their
distributions agree. Prints JSON; `chunk` is how many images the batched views work on at a time.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import yaml
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[1]))
from moco.augment import views as augment

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGES, BATCH, SECONDS = 20_480, 512, 10
CHUNKS = (64, 128, 256, 512)


class TwoViews(torch.utils.data.Dataset):
    """A PIL image through the same transforms twice, as in the official notebook."""

    def __init__(self, images: torch.Tensor):
        self.images = images.permute(0, 2, 3, 1).numpy()
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(32),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.fromarray(self.images[i])
        return self.transform(image), self.transform(image)


def reference(images: torch.Tensor) -> float:
    """Views per second of the DataLoader, without its start."""
    loader = torch.utils.data.DataLoader(TwoViews(images), batch_size=BATCH, num_workers=os.cpu_count() or 1)
    batches = iter(loader)
    next(batches)
    started, views = time.monotonic(), 0
    for x1, x2 in batches:
        views += len(x1) + len(x2)
    return views / (time.monotonic() - started)


def batched(images: torch.Tensor, chunk: int) -> float:
    """Views per second of moco.augment."""
    section = yaml.safe_load((Path(__file__).parents[1] / "conf/augment/moco.yaml").read_text())
    settings = {key: value for key, value in section.items() if key not in ("name", "_target_", "normalize")}
    make = augment.Augment(mean=MEAN, std=STD, **settings)
    augment.CPU_CHUNK = chunk
    # Freed at once, as a network's activations are: glibc keeps what is freed from then on, as it does in a training
    torch.empty(31 * 2**20, dtype=torch.uint8)
    make(images[:BATCH])
    started, views = time.monotonic(), 0
    while time.monotonic() - started < SECONDS:
        for batch in images.split(BATCH):
            make(batch), make(batch)
            views += 2 * len(batch)
    return views / (time.monotonic() - started)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    photos = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    default, theirs = augment.CPU_CHUNK, reference(photos)
    ours = {chunk: batched(photos, chunk) for chunk in sorted({*CHUNKS, default})}
    print(
        json.dumps(
            {
                "torchvision": round(theirs),
                "batched": {chunk: round(v) for chunk, v in ours.items()},
                "chunk": default,
                "times as fast": {"views as torchvision": round(ours[default] / theirs, 2)},
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            },
            indent=1,
        )
    )
