"""MoCo by lightly: its data set, views, projection head, loss with a memory bank and momentum, trained by Lightning.

Batch 128, SGD with lr 0.06, momentum 0.9, weight decay 5e-4 and a cosine, temperature 0.1, 4096 negatives, encoder momentum
0.99 and the symmetric loss are those of its CIFAR-10 benchmark. Its BatchNorm in eight groups there belongs to a network of
its own; here it goes over the whole batch, so that the shuffle of the keys, which its examples have without groups too,
changes nothing.
"""

import copy

import pytorch_lightning as pl
import torch
from common import Race
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
from lightly_fit import cosine, fit

race = Race.of_environment()


class MoCo(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = race.network()
        width = self.backbone.num_features
        self.projection_head = MoCoProjectionHead(width, width, 128)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128))

    def one_direction(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        q = self.projection_head(self.backbone(query))
        with torch.no_grad():
            key, order = batch_shuffle(key)
            k = self.projection_head_momentum(self.backbone_momentum(key))
            k = batch_unshuffle(k, order)
        loss: torch.Tensor = self.criterion(q, k)
        return loss

    def training_step(self, batch: list[list[torch.Tensor]], index: int) -> torch.Tensor:
        x0, x1 = batch[0]
        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)
        return 0.5 * (self.one_direction(x0, x1) + self.one_direction(x1, x0))

    def configure_optimizers(self) -> object:
        trained = [*self.backbone.parameters(), *self.projection_head.parameters()]
        optimizer = torch.optim.SGD(trained, lr=6e-2, momentum=0.9, weight_decay=5e-4)
        return cosine(optimizer, race)


if __name__ == "__main__":
    fit(MoCo(), race)
