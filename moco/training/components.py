"""What training and linear evaluation build alike from a configuration, on the device."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from moco.augment.draws import DrawnViews
from moco.config.components import instantiate
from moco.config.schema import Config
from moco.data import Dataset
from moco.data.pixels import AnyImages, fetch
from moco.errors import UserError
from moco.models.cpu_kernels import guard_convolutions
from moco.models.modes import channels_last
from moco.ranks import ranks
from moco.training import memory
from moco.training.device import choose_bf16, choose_device
from moco.training.same_data import described
from moco.training.trial import try_backbone


class Views(Protocol):
    """Random views of images, and the whole images for evaluation; see moco.augment.Augment."""

    def __call__(self, images: Tensor, sizes: Tensor | None = None) -> Tensor: ...
    def clean(self, images: Tensor, sizes: Tensor | None = None) -> Tensor: ...


class Undrawn:
    """Views that are drawn and computed at once, for a batch that is not shared."""

    def __init__(self, views: Views):
        self.views = views

    def draw(self, n: int, size: tuple[int, int], device: torch.device, sizes: Tensor | None = None) -> range | Tensor:
        return range(n) if sizes is None else sizes

    def apply(self, images: Tensor, draws: range | Tensor, at: float = 1.0) -> Tensor:
        return self.views(images, draws) if isinstance(draws, Tensor) else self.views(images)


class Images:
    """Data, on the CPU at first, and its views.

    Attributes:
        data_described: what the run keeps of its data.

    Raises:
        UserError: there is no such data set, it lacks images, or it does not fit the memory.
    """

    def __init__(self, config: Config):
        self.config = config
        with memory.allocating(f"data={config.data.name}"):
            data: Dataset = instantiate(config.data)
        self.data_described = described(data)
        if config.data.validation:
            data = data.hold_out(config.data.validation)
        _check_images(config, data)
        self.data = data

    @functools.cached_property
    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel by which images are normalised: given ones, or the data set's own."""
        given = self.config.data
        if not self.config.augment.normalize:
            return [0.0] * 3, [1.0] * 3
        return (given.mean, given.std) if given.mean and given.std else self.data.moments()

    def views(self, **changes: object) -> Views:
        """The augmentation of the configuration, or with other values.

        Raises:
            UserError: it is somebody else's and takes images of one size alone, where these have several.
        """
        section = self.config.augment.model_copy(update=changes)
        mean, std = self.moments
        views = cast(Views, instantiate(section, mean=mean, std=std))
        if self.config.data.packed == "jpeg" and not (_takes_sizes(views) and _takes_sizes(views.clean)):
            raise UserError(
                f"augment={section.name} takes no sizes of images: give data.packed=raw, or see docs/extend.md"
            )
        return views

    def drawn_views(self, views: Views | None = None) -> DrawnViews:
        """Views as a training takes them: what is drawn apart from what is computed.

        Args:
            views: None: those of the augmentation.

        Raises:
            UserError: it is somebody else's and does both at once, which several ranks cannot share.
        """
        views = views or self.views()
        if hasattr(views, "draw") and hasattr(views, "apply"):
            return cast(DrawnViews, views)
        if ranks() > 1:
            raise UserError(
                f"augment={self.config.augment.name} has no draw() and apply(), so {ranks()} processes would not make the "
                "views of one: start one process, or see docs/extend.md"
            )
        return Undrawn(views)

    def probe_views(self) -> Views:
        """Random resized crops and flips of linear evaluation on augmented images (leftthomas/SimCLR, linear.py).

        They are as large as the images of evaluation: a classifier fitted to features of another size loses points.
        """
        size = self.config.augment.eval_size
        return self.views(size=size, crop=[0.08, 1.0], flip=0.5, jitter=[0.0] * 4, gray=0.0, blur=0.0, solarize=0.0)


class Components(Images):
    """Data on the device, backbone, views and precision.

    Attributes:
        encoder: images [B, 3, H, W] -> features [B, D], weights drawn by the seed, on the CPU. It has seen two images of
            each kind: views of training, of evaluation and of linear evaluation.

    Args:
        pretrained: whether the backbone gets the weights that model.pretrained asks for.

    Raises:
        UserError: there is no such device, data set or architecture, or they do not fit each other or the memory.
    """

    def __init__(self, config: Config, device: str, *, pretrained: bool = True):
        self.device = choose_device(device)
        super().__init__(config)
        data = self.data
        side = _side(data.train_images)
        for pixels, _ in config.augment.smaller or ():
            if pixels >= (final := config.augment.size or side):
                raise UserError(
                    f"augment.smaller has views of {pixels} pixels, and those after them {final}: give fewer"
                )
        steps = memory.views_and_backbone(config, side)
        memory.refuse(steps, self.device)
        torch.manual_seed(config.seed)
        with memory.allocating(f"model={config.model.name}"):
            self.encoder: nn.Module = channels_last(
                instantiate(config.model if pretrained else config.model.unweighted())
            )
        self.data = data.to(self.device)
        if data.on_disk and memory.on_device(config.data, data.on_disk, steps, self.device):
            self.data = self.data.loaded()
        self.bf16 = choose_bf16(config.precision, self.device)
        try_backbone(self.encoder, config.model.name, self._samples(two_images(data)))
        if self.device.type == "cpu":
            sides = [config.augment.size or side, *(pixels for pixels, _ in config.augment.smaller or ())]
            if said := guard_convolutions(self.encoder, sides, bf16=self.bf16):
                print(f"model={config.model.name}: {said}", file=sys.stderr, flush=True)

    def _samples(self, images: Tensor) -> dict[str, Tensor]:
        """Of uint8 images on the CPU each kind of view that the backbone is to take."""
        views = self.views()
        return {
            "training views (augment.size)": views(images),
            **{
                f"training views (augment.smaller) of {pixels}": self.views(size=pixels)(images)
                for pixels, _ in self.config.augment.smaller or ()
            },
            "images of evaluation (augment.eval_size)": views.clean(images),
            "views of linear evaluation (augment.eval_size)": self.probe_views()(images),
        }

    def autocast(self) -> torch.autocast:
        """The context that forward passes are computed in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def encode(self, x: Tensor) -> Tensor:
        """The backbone's features of images, [B, 3, H, W] -> [B, D]."""
        with self.autocast():
            h: Tensor = self.encoder(x)
            return h

    def check_sizes(self, ranked: bool = False) -> None:
        """Refuses numbers that the data set is too small for.

        Args:
            ranked: whether the run is compared with others by its kNN top-1.

        Raises:
            UserError: a line for each.
        """
        config, data = self.config, self.data
        n, bank = len(data.train_images), len(data.labelled()[1])
        problems = []
        if config.batch_size > n:
            remedy = f"give at most {n}" if n > 1 else "a batch needs two, so add images"
            problems.append(f"batch_size={config.batch_size} is more than the {n} training images: {remedy}")
        if config.k > bank and data.classes:
            problems.append(
                f"k={config.k} is more than the {bank} labelled training images that vote: give at most {bank}"
            )
        if config.linear_eval and not data.classes:
            problems.append(f"linear_eval=true needs labels, and data={config.data.name} has none: leave it out")
        if ranked and not data.classes:
            problems.append(
                f"hydra.launcher.halving ranks by kNN, which needs labels, and data={config.data.name} has none: leave it out"
            )
        if problems:
            raise UserError("\n".join(problems))
        num_features = cast(int, self.encoder.num_features)
        memory.refuse(memory.heads_and_memories(config, num_features, n), self.device)


def two_images(data: Dataset) -> Tensor:
    """Two images for training, uint8 [2, 3, H, W], for a first try of what takes such images."""
    return fetch(data.train_images, slice(0, 2))().x


def _side(images: AnyImages) -> int:
    """Of images, in pixels; the longest where they have several sizes."""
    return images.shape[-1] if isinstance(images, Tensor) else images.side


def _takes_sizes(function: Callable[..., Tensor]) -> bool:
    """Whether it takes images of several sizes, given as `sizes`."""
    return "sizes" in inspect.signature(function).parameters


def _check_images(config: Config, data: Dataset) -> None:
    """Refuses a data set that lacks images.

    Raises:
        UserError: there is none to train or to evaluate on.
    """
    share = config.data.validation
    for images, what, remedy, otherwise in (
        (data.train_images, "to train on", "give less", "look at data.root"),
        (
            data.test_images,
            "to evaluate on",
            "give more",
            "add test/<class>/ to data.root, or give data.validation=0.1",
        ),
    ):
        if len(images) == 0 and (data.classes or images is data.train_images):
            raise UserError(
                f"data.validation={share} leaves no image {what}: {remedy}"
                if share
                else f"data={config.data.name} has no image {what}: {otherwise}"
            )
