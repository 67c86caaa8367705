"""Small methods, and their losses by slow loops in float64."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from moco.methods import NPID, BarlowTwins, MoCo, SimCLR


class Flat(nn.Flatten):
    """Images that are their own features."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features


class ConvNet(nn.Sequential):
    num_features = 8

    def __init__(self):
        convs = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
        super().__init__(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def flat(method, dim, **settings):
    """A method whose features are its images: no backbone, and the identity for a head."""
    model = method(Flat(dim), feature_dim=dim, **settings)
    for head in (model.head, getattr(model, "key_head", model.head)):
        nn.init.eye_(head.weight), nn.init.zeros_(head.bias)
    return model


def flat_moco(dim, m, temperature=0.1, **settings):
    return flat(MoCo, dim, **{"m": m, "temperature": temperature, "momentum": 0.99, "splits": 1} | settings)


def flat_npid(dim, num_images, m, temperature=0.1, momentum=0.5):
    return flat(NPID, dim, num_images=num_images, m=m, temperature=temperature, momentum=momentum)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=1)


METHODS = {
    "moco": lambda: MoCo(ConvNet(), feature_dim=4, m=12, temperature=0.1, momentum=0.9, splits=4),
    "moco-symmetric": lambda: MoCo(
        ConvNet(),
        feature_dim=4,
        m=5,
        temperature=0.1,
        momentum=0.9,
        momentum_end=1.0,
        steps=4,
        symmetric=True,
        splits=2,
        head_layers=2,
        head_norm=True,
    ),
    "simclr": lambda: SimCLR(ConvNet(), feature_dim=4, temperature=0.5, head_norm=True),
    "simclr-split": lambda: SimCLR(ConvNet(), feature_dim=4, temperature=0.5, splits=4, head_norm=True),
    "barlow_twins": lambda: BarlowTwins(ConvNet(), feature_dim=4, hidden_dim=6),
    "barlow_twins-split": lambda: BarlowTwins(ConvNet(), feature_dim=4, hidden_dim=6, splits=2),
    "npid": lambda: NPID(ConvNet(), num_images=20, feature_dim=4, m=6, temperature=0.1, momentum=0.5),
    "npid-softmax": lambda: NPID(ConvNet(), num_images=20, feature_dim=4, m=0, temperature=0.1, momentum=0.5),
    "npid-split": lambda: NPID(
        ConvNet(),
        num_images=20,
        feature_dim=4,
        m=6,
        temperature=0.1,
        momentum=0.5,
        splits=2,
        head_layers=2,
        head_norm=True,
    ),
}


def slow_moco(q, k, queue, temperature):
    """Eq. 1, a query at a time."""
    q, k, queue = (F.normalize(t.detach().double(), dim=1) for t in (q, k, queue))
    losses = []
    for i in range(len(q)):
        positive = math.exp(float(q[i] @ k[i]) / temperature)
        negatives = sum(math.exp(float(q[i] @ row) / temperature) for row in queue)
        losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def slow_nt_xent(x1, x2, temperature):
    """Eq. 1 over both directions, a pair at a time, with the largest exponential taken out of the sum."""
    z = F.normalize(torch.cat([x1, x2]).detach().double(), dim=1)
    losses = []
    for i in range(len(z)):
        s = [float(z[i] @ z[k]) / temperature for k in range(len(z))]
        others = [s[k] for k in range(len(z)) if k != i]
        log_sum = max(others) + math.log(sum(math.exp(v - max(others)) for v in others))
        losses.append(log_sum - s[(i + len(x1)) % len(z)])
    return sum(losses) / len(losses)


def slow_npid(x, bank, rows, m, temperature, z):
    """Noise-contrastive estimation as the paper writes it (eq. 7): exponentials, and a product of probabilities."""
    f, bank = F.normalize(x.double(), dim=1), bank.double()
    losses = []
    for i in range(len(f)):
        p = [math.exp(float(f[i] @ bank[r]) / temperature) / z for r in rows[i].tolist()]
        noise = m / len(bank)
        losses.append(-math.log(p[0] / (p[0] + noise)) - sum(math.log(noise / (v + noise)) for v in p[1:]))
    return sum(losses) / len(losses)


def slow_barlow_twins(z1, z2, off_diagonal):
    """Eq. 1 and 2, a pair of dimensions at a time; 1e-5 is added to each variance, as BatchNorm does."""
    z1, z2 = z1.detach().double(), z2.detach().double()
    loss = 0.0
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            a, b = z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean()
            c = float((a @ b) / len(a)) / math.sqrt((float(a @ a) / len(a) + 1e-5) * (float(b @ b) / len(b) + 1e-5))
            loss += (1 - c) ** 2 if i == j else off_diagonal * c**2
    return loss
