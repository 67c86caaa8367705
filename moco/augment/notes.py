"""What an augmentation drew: each step notes it where it draws it. Noting computes nothing, so views stay as they are."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Note(Protocol):
    """Takes the name of what was drawn, and its value for each image of a batch."""

    def __call__(self, name: str, value: Tensor) -> object: ...


def unnoted(name: str, value: Tensor) -> None:
    """Where nobody wants to know."""


class Draw(NamedTuple):
    """What was drawn for one view; None for a step that the augmentation does not have, or that spared this view.

    Attributes:
        crop: (top, left, height, width) in pixels of the image.
        jitter: factors of brightness, contrast and saturation, and the turn of the hue as a share of the circle.
        blur: standard deviation in pixels of the view.
    """

    crop: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[float, float, float, float] | None
    gray: bool
    blur: float | None
    solarize: bool


class Notebook:
    """Keeps what was noted, chunk by chunk."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[Tensor]] = {}

    def __call__(self, name: str, value: Tensor) -> None:
        self.chunks.setdefault(name, []).append(value)

    def draws(self) -> list[Draw]:
        """One for each image, in order."""
        noted = {
            name: torch.cat([value.reshape(len(value), -1) for value in values]).cpu()
            for name, values in self.chunks.items()
        }
        n = len(noted["top"])
        never = torch.zeros(n, 1)
        flips, grays, solarized = (noted.get(name, never).bool() for name in ("flip", "gray", "solarize"))
        jittered, blurred = (noted.get(name, never).bool() for name in ("jitter", "blur"))
        factors, sigmas = noted.get("factors", torch.zeros(n, 4)), noted.get("sigma", never)
        found = []
        for i in range(n):
            top, left, height, width = (int(noted[name][i]) for name in ("top", "left", "height", "width"))
            brightness, contrast, saturation, hue = factors[i].tolist()
            found.append(
                Draw(
                    crop=(top, left, height, width),
                    flip=bool(flips[i]),
                    jitter=(brightness, contrast, saturation, hue) if jittered[i] else None,
                    gray=bool(grays[i]),
                    blur=float(sigmas[i]) if blurred[i] else None,
                    solarize=bool(solarized[i]),
                )
            )
        return found
