"""SimCLR by lightly: its data set, views, projection head and loss, trained by Lightning as in its examples.

Batch 128, SGD with lr 0.06, momentum 0.9, weight decay 5e-4 and a cosine, temperature 0.5 and views without blur
are those of its CIFAR-10 benchmark, colours at strength 0.5 those that its documentation has for CIFAR.
"""

import pytorch_lightning as pl
import torch
from common import Race
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly_fit import cosine, fit

race = Race.of_environment()


class SimCLR(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = race.network()
        width = self.backbone.num_features
        self.projection_head = SimCLRProjectionHead(width, width, 128)
        self.criterion = NTXentLoss()

    def training_step(self, batch: list[list[torch.Tensor]], index: int) -> torch.Tensor:
        x0, x1 = batch[0]
        z0, z1 = (self.projection_head(self.backbone(x)) for x in (x0, x1))
        loss: torch.Tensor = self.criterion(z0, z1)
        return loss

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.SGD(self.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4)
        return cosine(optimizer, race)


if __name__ == "__main__":
    fit(SimCLR(), race)
