"""An augmentation of the user's that only makes views: it trains on one device; where more is needed it is refused."""

from pathlib import Path

import pytest
import torch
from common import METHODS, TINY, checked
from PIL import Image

from moco.errors import UserError
from moco.training.components import Images
from moco.training.pretrain import train

OWN = [f"augment._target_={__name__}.Noise", "augment.name=noise"]


class Noise:
    """Takes neither sizes nor a part of a batch."""

    def __init__(self, **settings: object):
        pass

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.clean(images) + 0.1 * torch.randn(images.shape, device=images.device)

    def clean(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255


class Whole(Noise):
    """Shrinks images of several sizes, without drawing apart from computing."""

    def __call__(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        return super().__call__(images) if sizes is None else self.clean(images, sizes)

    def clean(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        if sizes is None:
            return super().clean(images)
        own = [image[:, :height, :width] for image, (height, width) in zip(images, sizes.tolist())]
        return torch.stack([torch.nn.functional.adaptive_avg_pool2d(image / 255, 8) for image in own])


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """The words for images of two sizes."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (12 + 4 * (i % 2), 12), (i * 30, 90, 200)).save(tmp_path / part / name / f"{i}.png")
    words = ["data=image_folder", f"data.root={tmp_path}", "data.packed=jpeg", "data.size=12", "data.name=pets"]
    return [*words, "augment.size=8", "augment.eval_size=8", "batch_size=8"]


def test_it_trains(tmp_path: Path) -> None:
    assert train(checked(*METHODS["simclr"], *TINY, *OWN, "epochs=1", f"runs_dir={tmp_path}")) > 10


def test_it_trains_on_images_of_several_sizes_if_it_takes_sizes(tmp_path: Path, folder: list[str]) -> None:
    own = [f"augment._target_={__name__}.Whole", "augment.name=whole"]
    assert train(checked(*METHODS["simclr"], *TINY, *folder, *own, "epochs=1", f"runs_dir={tmp_path}/runs")) >= 0


def test_images_of_several_sizes_and_several_processes_are_refused(
    folder: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="augment=noise takes no sizes of images: give data.packed=raw"):
        Images(checked(*METHODS["simclr"], *TINY, *folder, *OWN)).views()
    monkeypatch.setattr("moco.training.components.ranks", lambda: 2)
    with pytest.raises(UserError, match=r"augment=noise has no draw\(\) and apply\(\), so 2 processes"):
        Images(checked(*METHODS["simclr"], *TINY, *OWN)).drawn_views()
