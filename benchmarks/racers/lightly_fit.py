"""What both contestants of lightly share: its data set and views in a DataLoader, and Lightning's Trainer."""

import pytorch_lightning as pl
import torch
from common import Race, stop_when_over
from lightly.data import LightlyDataset
from lightly.transforms import SimCLRTransform


def fit(module: pl.LightningModule, race: Race) -> None:
    """Trains the module, batch 128, on views of 32 pixels without blur and with colours at strength 0.5."""
    views = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    loader = torch.utils.data.DataLoader(
        LightlyDataset(f"{race.images}/train", transform=views),
        batch_size=128,
        shuffle=True,
        drop_last=True,
        num_workers=race.workers,
        persistent_workers=race.workers > 0,
    )
    pl.Trainer(
        max_epochs=race.epochs,
        accelerator="cpu",
        precision="bf16-mixed" if race.bf16 else "32-true",
        callbacks=[stop_when_over(race, pl.Callback)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(module, loader)
