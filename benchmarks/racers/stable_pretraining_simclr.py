"""SimCLR by stable-pretraining: its transforms, data set, forward function, loss, LARS and schedule, trained by its module.

Batch 256, LARS with lr 5 and weight decay 1e-6, a cosine after a warm-up, temperature 0.5, the projector of three layers and
the views are those of its CIFAR-10 benchmark. The schedule moves at every step, as its module has it.
"""

import lightning as pl
import stable_pretraining as spt
import torch
import torchvision
from common import Race
from stable_pretraining import forward
from stable_pretraining.data import transforms
from torch import nn

race = Race.of_environment()


def view() -> object:
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((32, 32)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.ToImage(**spt.data.static.CIFAR10),
    )


if __name__ == "__main__":
    backbone = race.network()
    width = 2048
    projector = nn.Sequential(
        nn.Linear(backbone.num_features, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, 256),
    )
    module = spt.Module(
        backbone=backbone,
        projector=projector,
        forward=forward.simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.5),
        optim={
            "optimizer": {"type": "LARS", "lr": 5, "weight_decay": 1e-6},
            "scheduler": {"type": "LinearWarmupCosineAnnealing"},
            "interval": "step",
        },
    )
    images = spt.data.FromTorchDataset(
        torchvision.datasets.ImageFolder(f"{race.images}/train"),
        names=["image", "label"],
        transform=transforms.MultiViewTransform([view(), view()]),
    )
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=256,
        **race.loading,
    )
    pl.Trainer(**race.training(pl.Callback)).fit(module, spt.data.DataModule(train=loader))
