"""SimCLR by solo-learn: its transforms, data set, loader, module, LARS and loss, trained by its Lightning.

Batch 256, LARS with lr 0.4, weight decay 1e-5, eta 0.02, clipped and without biases and norms, temperature 0.2, a projector
of 2048 and 256, views without blur, and a cosine after a warm-up that takes the first hundredth are those of its
bash_files/pretrain/cifar/simclr.sh. The schedule moves at every step, since an epoch is a large part of this training.
1.0.2 is what the package index has; it needs torch 1.9, whose Lightning has no bf16.
"""

import pytorch_lightning as pl
import torchvision
from common import Race, stop_when_over
from solo.methods import SimCLR
from solo.utils.pretrain_dataloader import (
    prepare_dataloader,
    prepare_datasets,
    prepare_n_crop_transform,
    prepare_transform,
)
from torch import nn

race = Race.of_environment()


def network() -> nn.Module:
    """The network under the name that its module takes for a ResNet's width."""
    backbone = race.network()
    backbone.inplanes = backbone.num_features  # type: ignore[assignment]
    return backbone


class Module(SimCLR):  # type: ignore[misc]
    @property
    def backbone(self) -> nn.Module:
        encoder: nn.Module = self.encoder
        return encoder

    def configure_optimizers(self) -> tuple[list[object], list[object]]:
        [optimizer], [schedule] = super().configure_optimizers()
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


if __name__ == "__main__":
    torchvision.models.resnet18 = network  # where its module looks
    module = Module(
        encoder="resnet18",
        backbone_args={"cifar": False},
        num_classes=10,
        max_epochs=race.steps,
        batch_size=256,
        optimizer="sgd",
        lars=True,
        lr=0.4,
        weight_decay=1e-5,
        classifier_lr=0.1,
        exclude_bias_n_norm=True,
        eta_lars=0.02,
        grad_clip_lars=True,
        accumulate_grad_batches=1,
        extra_optimizer_args={"momentum": 0.9},
        scheduler="warmup_cosine",
        min_lr=0.0,
        warmup_start_lr=0.003,
        warmup_epochs=max(2, race.steps // 100),
        num_large_crops=2,
        num_small_crops=0,
        temperature=0.2,
        proj_hidden_dim=2048,
        proj_output_dim=256,
    )
    assert type(module.encoder).__name__ == "SmallResNet"
    view = prepare_transform("cifar10", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, gaussian_prob=0.0)
    images = prepare_datasets(
        "custom", prepare_n_crop_transform([view], [2]), data_dir=race.images, train_dir="train", no_labels=False
    )
    loader = prepare_dataloader(images, batch_size=256, num_workers=race.workers)
    pl.Trainer(
        max_epochs=1_000_000,
        max_steps=race.steps,
        callbacks=[stop_when_over(race, pl.Callback)],
        logger=False,
        checkpoint_callback=False,
        weights_summary=None,
    ).fit(module, loader)
