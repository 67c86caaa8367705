"""SimCLR as people write it down: an image folder and transforms of torchvision, a DataLoader, a loop.

Adam with lr 1e-3 and weight decay 1e-6, temperature 0.5, a head of two layers with 512 hidden units and BatchNorm, and
views without blur are those of leftthomas/SimCLR. Its batch of 512 is 128 here, and its learning rate, which is constant, a
cosine: both suit so short a training.
"""

import torch
import torchvision
from common import Race
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2 as transforms

race = Race.of_environment()


class TwoViews:
    def __init__(self) -> None:
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(32),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.PILToTensor(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
            ]
        )

    def __call__(self, image: object) -> tuple[Tensor, Tensor]:
        return self.view(image), self.view(image)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Equation 1 of arXiv 2002.05709 for two views [B, D] each."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    n = len(z1)
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


if __name__ == "__main__":
    backbone = race.network()
    head = nn.Sequential(
        nn.Linear(backbone.num_features, 512, bias=False),
        nn.BatchNorm1d(512),
        nn.ReLU(inplace=True),
        nn.Linear(512, 128),
    )
    network = nn.Sequential(backbone, head)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, race.steps)
    loader = torch.utils.data.DataLoader(
        torchvision.datasets.ImageFolder(f"{race.images}/train", TwoViews()),
        batch_size=128,
        **race.loading,
    )
    steps, over = 0, False
    while not over:
        for (x1, x2), _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=race.bf16):
                z1, z2 = network(x1), network(x2)
            loss = nt_xent(z1.float(), z2.float(), 0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            steps += 1
            if over := race.look(backbone, steps=steps):
                break
    race.finish(backbone, steps=steps)
