"""A training step of MoCo with ResNet-18 at batch 128, against the published way and against the bare network's passes.

    python benchmarks/step.py [--tiny]

reference: the usual loop written plainly, PIL images through torchvision's transforms in a DataLoader (views.py), fp32, Adam;
    one worker per core, as people set it.
ours: moco.training.trainer.Trainer as train.py uses it, from images to the metrics line, in the precision that the hardware
    chooses.
bare: query forward and backward and key forward of the same network in the same precision and layout on images that are there
    already; what is above it is the cost of views, loss, queue, EMA, optimizer and logging.

The three take turns, and the medians count. Prints JSON; the ratios' names include the precision, since cores without bf16
cannot be compared with cores that have it. tests/test_benchmarks.py checks that reference and ours give the same losses and
weights on the same views.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from views import MEAN, STD, TwoViews

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from moco.config.schema import Config
    from moco.training.components import Components

SETTINGS = {"feature_dim": 128, "m": 4096, "temperature": 0.1, "momentum": 0.99}


class Reference:
    """The loop of the published code: eq. 1 and 2 of the paper, line by line."""

    def __init__(self, query: nn.Module, queue: Tensor, optimizer: Any, temperature: float, momentum: float):
        self.query, self.key, self.queue = query, copy.deepcopy(query).requires_grad_(False), queue
        self.optimizer, self.temperature, self.momentum = optimizer, temperature, momentum

    def step(self, x1: Tensor, x2: Tensor) -> float:
        for q, k in zip(self.query.parameters(), self.key.parameters()):
            k.data = k.data * self.momentum + q.data * (1 - self.momentum)
        q = F.normalize(self.query(x1), dim=1)
        with torch.no_grad():
            k = F.normalize(self.key(x2), dim=1)
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ self.queue.T], 1) / self.temperature  # [B, 1+m]
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.queue = torch.cat([self.queue, k])[len(k) :]
        return loss.item()


def configuration(batch: int, tiny: bool) -> "Config":
    """The same in this project's words."""
    from moco.config.check import check
    from moco.config.compose import composed

    words = [
        "method=moco",
        "method.splits=1",
        "augment=moco",
        "optimizer=adam",
        "schedule=constant",
        "epochs=1",
        "k=1",
        "tracker=none",
        f"batch_size={batch}",
        "data=digits",  # in whose place the images are put
        f"data.mean={list(MEAN)}",
        f"data.std={list(STD)}",
        *(f"{key}={v}" for key, v in SETTINGS.items()),
    ]
    words += ["model=small", "model.widths=[8,16]"] if tiny else ["model=resnet18"]
    return check(composed(words))


def components(config: "Config", images: Tensor) -> "Components":
    """What the configuration builds, with these images in place of its data set's."""
    from moco.data import Dataset
    from moco.training.components import Components

    parts = Components(config, "cpu")
    labels = torch.zeros(len(images), dtype=torch.long)
    parts.data = Dataset(images, labels, images[:1], labels[:1], ["all"])
    return parts


def reference(images: Tensor, batch: int, config: "Config") -> float:
    """Images per second, without the start of the workers and the first step."""
    from moco.config.components import instantiate

    encoder = instantiate(config.model)
    network = nn.Sequential(encoder, nn.Linear(encoder.num_features, SETTINGS["feature_dim"]))
    queue = F.normalize(torch.randn(int(SETTINGS["m"]), int(SETTINGS["feature_dim"])), dim=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-6)
    loop = Reference(network, queue, optimizer, SETTINGS["temperature"], SETTINGS["momentum"])
    loader = torch.utils.data.DataLoader(
        TwoViews(images), batch, shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True
    )
    batches = iter(loader)
    loop.step(*next(batches))
    started, n = time.monotonic(), 0
    for x1, x2 in batches:
        loop.step(x1, x2)
        n += len(x1)
    return n / (time.monotonic() - started)


def ours(images: Tensor, batch: int, config: "Config") -> float:
    """Images per second of a training, from its first image to its line of metrics."""
    from moco.runs.run import Run
    from moco.tracking.tracker import Tracker
    from moco.training.pretrain import trainable, trainer_of
    from moco.training.signals import Signals

    with tempfile.TemporaryDirectory() as folder, Signals() as signals:
        run = Run(Path(folder) / "moco")
        parts = components(config, images)
        with run.lease("benchmark") as lease:
            trainer = trainer_of(parts, run, trainable(parts), lambda: {"knn/top1": 0.0}, Tracker())
            trainer.fit(lease, signals)
        [line] = run.metrics()
    return line["step"] * batch / line["seconds"]


def bare(images: Tensor, batch: int, config: "Config") -> float:
    """Images per second of the passes alone."""
    parts = components(config, images)
    query = parts.encoder.to(parts.device).train()
    key = copy.deepcopy(query).requires_grad_(False)
    x = torch.randn(batch, 3, 32, 32, device=parts.device).contiguous(memory_format=torch.channels_last)
    steps = len(images) // batch

    def step() -> None:
        with parts.autocast():
            with torch.no_grad():
                key(x)
            out = query(x)
        out.float().square().mean().backward()
        query.zero_grad()

    step()
    started = time.monotonic()
    for _ in range(steps):
        step()
    return steps * batch / (time.monotonic() - started)


def rounds(n: int, steps: int, batch: int, tiny: bool) -> Iterator[dict[str, float]]:
    images = torch.randint(0, 256, (steps * batch, 3, 32, 32), dtype=torch.uint8)
    config = configuration(batch, tiny)
    for i in range(n):
        found = {"reference": reference(images, batch, config)}
        found |= {"ours": ours(images, batch, config), "bare": bare(images, batch, config)}
        print(f"round {i + 1} of {n}, images per second: {found}", file=sys.stderr, flush=True)
        yield found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small network for a few steps: shows that it runs")
    tiny = parser.parse_args().tiny
    from moco.training.device import choose_bf16

    precision = "bf16" if choose_bf16("auto", torch.device("cpu")) else "fp32"
    torch.set_num_threads(os.cpu_count() or 1)
    measured = list(rounds(1, 3, 16, True) if tiny else rounds(3, 8, 128, False))
    speed = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    print(
        json.dumps(
            {
                "images per second": {name: round(value, 1) for name, value in speed.items()},
                "times as fast": {
                    f"step in {precision} as {name}": round(speed["ours"] / speed[name], 3)
                    for name in ("reference", "bare")
                },
                "batch": 16 if tiny else 128,
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            },
            indent=1,
        )
    )
