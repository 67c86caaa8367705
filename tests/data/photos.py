"""Folders of small pictures of several sizes."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(24, 36), (36, 24), (30, 30), (24, 80)]  # heights and widths, one after another


def picture(seed: int, height: int, width: int) -> Image.Image:
    """Smooth colours with an edge, as photographs have them."""
    draw = np.random.default_rng(seed)
    levels = draw.integers(40, 216, (4, 5, 1)) + draw.integers(-25, 25, (4, 5, 3))  # brightness varies more than colour
    whole = Image.fromarray(levels.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    whole.paste(tuple(draw.integers(90, 160, 3).tolist()), (0, 0, width // 3, height // 2))
    return whole


def folder(root: Path, train: int, test: int, classes: str = "abc") -> Path:
    """root/train/<class> and root/test/<class> with so many pictures each."""
    for split, n in (("train", train), ("test", test)):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                seed = 1000 * c + i + 500 * (split == "test")
                picture(seed, *SIZES[i % len(SIZES)]).save(root / split / name / f"{i:02d}.png")
    return root
