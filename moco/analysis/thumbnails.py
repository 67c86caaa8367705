"""Small pictures that lie in a page itself: alone, or many on one sheet."""

import base64
import io
from collections.abc import Sequence
from typing import TypedDict

from PIL import Image
from torch import Tensor

ALONE, TILE = 96, 40  # longest sides in pixels, of a picture alone and of one on a sheet
LOSSLESS = 40  # pictures up to this side are kept bit by bit


class Sheet(TypedDict):
    """Many pictures side by side: picture i is the tile in row i // columns and column i % columns."""

    url: str
    tile: int
    columns: int
    rows: int


def url(picture: Image.Image, lossless: bool) -> str:
    """The picture as a data URL."""
    file = io.BytesIO()
    if lossless:
        picture.save(file, format="PNG")
    else:
        picture.save(file, format="JPEG", quality=85)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] on the CPU as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def alone(shown: Image.Image, side: int = ALONE) -> str:
    """The data URL of a picture, made smaller where it is larger than that."""
    small = shown.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return url(small, lossless=max(small.size) <= LOSSLESS)


def sheet(images: Sequence[Tensor]) -> Sheet:
    """Images uint8 [3, H, W] on one sheet. Tiles are whole blocks of JPEG, so that none runs into the next."""
    columns = max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    whole = Image.new("RGB", (columns * TILE, rows * TILE))
    for i, image in enumerate(images):
        height, width = image.shape[1:]
        method = Image.Resampling.NEAREST if max(height, width) <= TILE else Image.Resampling.LANCZOS
        scale = TILE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        place = TILE * (i % columns), TILE * (i // columns)
        whole.paste(picture(image).resize(size, method), place)
    return {"url": url(whole, lossless=False), "tile": TILE, "columns": columns, "rows": rows}
