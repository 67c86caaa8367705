"""What is drawn for views, apart from the images: drawn for a whole batch, it can be computed in any pieces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from moco.augment.blur import Blur
from moco.augment.colours import Jitter


class DrawnViews(Protocol):
    """Random views of images whose parameters are drawn for the whole batch; see moco.augment.Augment."""

    def draw(self, n: int, size: tuple[int, int], device: torch.device, sizes: Tensor | None = None) -> Any: ...
    def apply(self, images: Tensor, draws: Any, at: float = ...) -> Tensor: ...


@dataclass(frozen=True)
class Draws:
    """What is drawn for n views; None for a step that the augmentation does not have.

    Attributes:
        boxes: (top, left, height, width) of the crops in pixels of the images, whole numbers, float [n, 4].
        flip, gray, solarize: which views are, bool [n].
    """

    boxes: Tensor
    flip: Tensor
    jitter: Jitter | None
    gray: Tensor | None
    blur: Blur | None
    solarize: Tensor | None

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """The draws of these rows, a slice or an index [m]."""
        return self._each(lambda value: value[rows], [self])

    @classmethod
    def cat(cls, parts: "Sequence[Draws]") -> Self:
        """One after another."""
        return cls._each(lambda *values: torch.cat(values), parts)

    @classmethod
    def _each(cls, make: Callable[..., Tensor], parts: "Sequence[Draws]") -> Self:
        """`make` of every tensor of the parts."""
        return cls(*(_each(make, *(getattr(part, field.name) for part in parts)) for field in fields(cls)))


def _each(make: Callable[..., Tensor], *values: Any) -> Any:
    """`make` of the values, or of their members where they are tuples; None of None."""
    first = values[0]
    if isinstance(first, tuple):
        return type(first)(*(_each(make, *members) for members in zip(*values)))
    return None if first is None else make(*values)
