"""python -m moco views: images beside random views of them, as the network sees them, with what was drawn for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moco.config.schema import Augmentation
from moco.errors import UserError
from moco.io import replacing
from moco.runs.run import Run
from moco.runs.settings import plain
from moco.seeding import step_seed

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from moco.augment import Draws
    from moco.training.components import Images

ROWS, VIEWS = 6, 4  # images, and views of each


class Drawn(NamedTuple):
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


class View(NamedTuple):
    """A view as the network gets it, less the normalisation. `drawn`: where its crop lay and what else was drawn for it;
    None where views are made by somebody else's code, which does not tell."""

    picture: "Image"
    drawn: Drawn | None

    @property
    def lines(self) -> list[str]:
        """What was drawn, in words."""
        return described(self.drawn) if self.drawn else []


class Row(NamedTuple):
    """An image, its class or "" where it has none, and views of it."""

    picture: "Image"
    label: str
    views: list[View]


def each_drawn(draws: "Draws") -> list[Drawn]:
    """What was drawn, view by view."""
    found = []
    for i, box in enumerate(draws.boxes.tolist()):
        top, left, height, width = map(int, box)
        jitter = None
        if draws.jitter is not None and draws.jitter.applied[i]:
            brightness, contrast, saturation, hue = draws.jitter.factors[i].tolist()
            jitter = brightness, contrast, saturation, hue
        found.append(
            Drawn(
                crop=(top, left, height, width),
                flip=bool(draws.flip[i]),
                jitter=jitter,
                gray=draws.gray is not None and bool(draws.gray[i]),
                blur=float(draws.blur.sigma[i]) if draws.blur is not None and draws.blur.applied[i] else None,
                solarize=draws.solarize is not None and bool(draws.solarize[i]),
            )
        )
    return found


def described(draw: Drawn) -> list[str]:
    """What was drawn for a view, in up to four short lines; what spared it is left out."""
    top, left, height, width = draw.crop
    lines = [f"crop {width}x{height} at {left},{top}" + (", flipped" if draw.flip else "")]
    if draw.jitter:
        brightness, contrast, saturation, hue = draw.jitter
        lines.append(f"brightness {brightness:.2f}, contrast {contrast:.2f}")
        lines.append(f"saturation {saturation:.2f}, hue {360 * hue:+.0f}°")
    last = [
        *["gray"] * draw.gray,
        *([] if draw.blur is None else [f"blur {draw.blur:.2f} px"]),
        *["solarized"] * draw.solarize,
    ]
    return [*lines, ", ".join(last)] if last else lines


def of_run(run: Run, root: str | None = None) -> "Images":
    """The images that a run is trained on.

    Args:
        root: where they are now, if they were moved.

    Raises:
        UserError: they are not there, or are other images.
    """
    from moco.training.components import Images
    from moco.training.same_data import WHERE, check_images, moved

    images = Images(moved(run, root))
    check_images(run, images.data_described, WHERE)
    return images


def rows(images: "Images") -> list[Row]:
    """Some training images with views of each, both chosen by the seed.

    Raises:
        UserError: the views do not fit into memory.
    """
    import torch

    from moco.analysis.thumbnails import picture
    from moco.data.pixels import fetch, one_by_one
    from moco.training.memory import allocating

    config, data = images.config, images.data
    generator = torch.Generator().manual_seed(config.seed)
    index = torch.randperm(len(data.train_images), generator=generator)[:ROWS]
    shown = one_by_one(data.train_images, index)
    x, sizes = fetch(data.train_images, index)()
    originals, sizes = x.cpu(), None if sizes is None else sizes.cpu()
    torch.manual_seed(step_seed(config.seed, "pictures", 0))
    make = images.views()
    with allocating("augment.size"):
        made = [_view(make, originals, sizes) for _ in range(VIEWS)]
        pictures = [[picture(one) for one in _plain(view, *images.moments)] for view, _ in made]
    labels = [
        data.classes[label] if 0 <= label < len(data.classes) else "" for label in data.train_labels[index].tolist()
    ]
    return [
        Row(
            picture(image),
            label,
            [View(made_of[i], draws[i] if draws else None) for made_of, (_, draws) in zip(pictures, made)],
        )
        for i, (image, label) in enumerate(zip(shown, labels))
    ]


def _view(make: object, images: "Tensor", sizes: "Tensor | None") -> "tuple[Tensor, list[Drawn] | None]":
    """One view of each image, and what was drawn."""
    from moco.augment import Augment

    if isinstance(make, Augment):
        draws = make.draw(len(images), images.shape[-2:], images.device, sizes)
        return make.apply(images, draws), each_drawn(draws)
    assert callable(make)
    return make(images), None


def _plain(views: "Tensor", mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Normalised views as uint8 [B, 3, S, S]."""
    import torch

    x = views.float().cpu() * torch.tensor(std).view(1, -1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1)
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def write(images: "Images", out: Path) -> str:
    """Writes the grid as a PNG; returns a line on what it holds.

    Raises:
        UserError: `out` is not a PNG, or the views do not fit into memory.
        OSError: `out` cannot be written.
    """
    from moco.analysis.views_grid import grid

    if out.suffix.lower() != ".png":
        raise UserError(f"{out} should end in .png: give it with -o")
    found = rows(images)
    picture = grid(found, settings(images.config.augment))
    with replacing(out) as aside:
        picture.save(aside, format="PNG")
    sides = " x ".join(map(str, found[0].views[0].picture.size))
    return f"{out} holds {len(found)} images with {VIEWS} views of {sides} pixels each"


def settings(section: Augmentation) -> list[str]:
    """The augmentation as it is typed, in two lines."""
    given = {
        key: value for key, value in section.model_dump().items() if key not in ("name", "target") and value is not None
    }
    texts = [f"augment={section.name}", *(f"augment.{key}={plain(value)}" for key, value in given.items())]
    half = (len(texts) + 1) // 2
    return ["  ".join(texts[:half]), "  ".join(texts[half:])]
