"""Images before they are packed, and what is to be done with them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import PIL
from torch import Tensor

from moco.data.decode import DECODER


class How(NamedTuple):
    """What is done with images.

    Attributes:
        kind: raw, or jpeg.
        size: of the shorter side; None keeps it.
        skip_corrupt: whether files that are not readable images are left out.
    """

    kind: Literal["raw", "jpeg"] = "raw"
    size: int | None = None
    skip_corrupt: bool = False

    @property
    def name(self) -> str:
        """Of the pack."""
        return f"{self.size or 'whole'}-{self.kind}{'-skip' * self.skip_corrupt}.pack"

    def word(self) -> bytes:
        """What an image in a pack depends on beside its file. JPEG stays, whatever Pillow is installed later."""
        if self.kind == "jpeg":
            return f"jpeg {self.size} {DECODER} ".encode()
        return f"{self.size} {DECODER} {PIL.__version__} ".encode()


@dataclass
class Source:
    """Images to be packed: rows for training, then those that only vote in kNN, then those for evaluation.

    Attributes:
        root: where they are from; a folder, or a name.
        states: what changes whenever an image does, of each row.
        labels: int64 [N], -1 for none.
        parts: how many rows each part has.
        open: what Pillow opens, of a row.
        called: a row's name in a message.
        bad: what cannot be read, known before, with the reasons.
        said: lines about what was left out.
        part: which images these are of those under the root, for the name of their pack; "" where there are no others.
    """

    root: Path
    states: Iterable[bytes]
    labels: Tensor
    classes: list[str]
    parts: list[int]
    open: Callable[[int], str | BinaryIO]
    called: Callable[[int], str]
    bad: list[tuple[str, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    part: str = ""
