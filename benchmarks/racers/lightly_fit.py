"""What both contestants of lightly share: its data set and views in a DataLoader, a schedule, and Lightning's Trainer."""

import pytorch_lightning as pl
import torch
from common import Race
from lightly.data import LightlyDataset
from lightly.transforms import SimCLRTransform


def fit(module: pl.LightningModule, race: Race) -> None:
    """Trains the module, batch 128, on views of 32 pixels without blur and with colours at strength 0.5."""
    views = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    loader = torch.utils.data.DataLoader(
        LightlyDataset(f"{race.images}/train", transform=views),
        batch_size=128,
        **race.loading,
    )
    pl.Trainer(**race.training(pl.Callback)).fit(module, loader)


def cosine(optimizer: torch.optim.Optimizer, race: Race) -> object:
    """The benchmark's cosine, which moves at every step: an epoch is a large part of this training."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, race.steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
