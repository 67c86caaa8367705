"""A training step of MoCo with ResNet-18 at batch 128, against the published way and against the bare network's passes.

    python benchmarks/step.py [--tiny]

reference: the usual loop written plainly, PIL images through torchvision's transforms in a DataLoader (views.py), fp32, Adam; a
    worker a core, as people set it.
ours: moco.training.fit as train.py calls it, from images to the metrics line, in the precision that the hardware chooses.
bare: query forward and backward and key forward of the same network in the same precision and layout on images that are there
    already; what is above it is the cost of views, loss, queue, EMA, optimizer and logging.

The three take turns, and the medians count. Prints JSON; the ratios' names say the precision, since cores without bf16 are not
to be compared with cores that have it. tests/test_benchmarks.py holds that reference and ours give the same losses and weights
on the same views.
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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from views import MEAN, STD, TwoViews

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
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


def configuration(batch: int, tiny: bool) -> dict[str, Any]:
    """The same in this project's words."""
    from moco.config import schema as config
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
        *(f"{key}={v}" for key, v in SETTINGS.items()),
    ]
    words += ["model=small", "model.widths=[8,16]"] if tiny else ["model=resnet18"]
    return config.check(composed(words))


def on_images(cfg: dict[str, Any], images: Tensor) -> dict[str, Any]:
    """The configuration with these images in place of a data set's."""
    labels = torch.zeros(len(images), dtype=torch.long)
    held = {"train_images": images, "train_labels": labels, "test_images": images[:1], "test_labels": labels[:1]}
    data = {
        "_target_": "moco.data.dataset.Dataset",
        "validation": 0.0,
        "mean": MEAN,
        "std": STD,
        "classes": ["all"],
        **held,
    }
    return {**cfg, "data": data}


def reference(images: Tensor, batch: int, cfg: dict[str, Any]) -> float:
    """Images a second, the workers' start and the first step apart."""
    from moco.config.schema import build

    encoder = build(cfg["model"])
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


def ours(images: Tensor, batch: int, cfg: dict[str, Any]) -> float:
    """Images a second of fit, from its first image to its metrics line."""
    from moco.runs.run import Run
    from moco.tracking.wandb_mirror import NoTracker
    from moco.training import pretrain as jobs
    from moco.training.components import Parts
    from moco.training.trainer import Signals, fit

    with tempfile.TemporaryDirectory() as folder, Signals() as signals:
        run = Run(Path(folder) / "moco")
        parts = Parts(on_images(cfg, images), "cpu")
        method, optimizer, factor = jobs._trainable(cfg, parts)
        with run.claim(what="benchmark") as claim:
            fit(
                cfg,
                run,
                claim,
                parts.data.train_images,
                method,
                optimizer,
                factor,
                parts.views(),
                lambda: {"knn/top1": 0.0},
                parts.autocast,
                NoTracker(),
                signals,
            )
        [line] = run.metrics()
    return line["step"] * batch / line["seconds"]


def bare(images: Tensor, batch: int, cfg: dict[str, Any]) -> float:
    """Images a second of the passes alone."""
    from moco.training.components import Parts

    parts = Parts(on_images(cfg, images), "cpu")
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
    cfg = configuration(batch, tiny)
    for i in range(n):
        found = {"reference": reference(images, batch, cfg)}
        found |= {"ours": ours(images, batch, cfg), "bare": bare(images, batch, cfg)}
        print(f"round {i + 1} of {n}, images a second: {found}", file=sys.stderr, flush=True)
        yield found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small network for a few steps: shows that it runs")
    tiny = parser.parse_args().tiny
    from moco.training.components import choose_bf16

    precision = "bf16" if choose_bf16("auto", torch.device("cpu")) else "fp32"
    torch.set_num_threads(os.cpu_count() or 1)
    measured = list(rounds(1, 3, 16, True) if tiny else rounds(3, 8, 128, False))
    speed = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    print(
        json.dumps(
            {
                "images a second": {name: round(value, 1) for name, value in speed.items()},
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
