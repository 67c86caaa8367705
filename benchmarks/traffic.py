"""What the processes of a run send each other in a step, by arithmetic.

For distributed.py, which counts it too, and on paper for 8 and 64 GPUs: bytes and seconds of a step of two recipes with
ResNet-50, `python benchmarks/distributed.py --paper`. A collective in which a rank sends n bytes takes n / bandwidth, the "bus
bandwidth" of https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md, and a start.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from moco.config.schema import Config

GRADIENTS, ROWS, STATISTICS, DECISION = "gradients", "rows of the batch", "statistics of BatchNorm", "decision"

# NVLink of an A100 has 600 GB/s in both directions, https://www.nvidia.com/en-us/data-center/nvlink/. A DGX A100 has
# a port of 200 Gbit/s InfiniBand for each GPU, https://developer.nvidia.com/blog/defining-ai-innovation-with-dgx-a100. In bf16
# an A100 computes 312e12 operations a second, https://www.nvidia.com/en-us/data-center/a100/.
PORT = 200e9 / 8  # bytes a second
LINKS = {
    "8, NVLink": (8, 300e9, 20e-6),
    "64, eight ports a node": (64, 8 * PORT, 50e-6),
    "64, one port a node": (64, PORT, 50e-6),
}  # GPUs, bytes a second, and seconds that a collective takes to start, which are assumed
NVLINK = LINKS["8, NVLink"][1:]
PEAK, SHARE = 312e12, 0.3  # operations a second, and how much of it a step is assumed to reach


def ring_reduce(n: float, ranks: int) -> float:
    """Bytes that a rank sends to sum n bytes over all ranks."""
    return 2 * (ranks - 1) / ranks * n


def ring_gather(n: float, ranks: int) -> float:
    """Bytes that a rank sends where each has n for all others."""
    return (ranks - 1) * n


def channels(network: nn.Module) -> list[int]:
    """Of each BatchNorm."""
    return [m.num_features for m in network.modules() if isinstance(m, _BatchNorm)]


def sent(config: "Config", trained: nn.Module, ranks: int) -> dict[str, tuple[int, float]]:
    """Messages and bytes that a rank sends in a step, by what they are for.

    Args:
        trained: backbone and head, once.
    """
    batch, dim, splits = config.batch_size, config.feature_dim or 0, config.method.splits or 1
    parameters = sum(p.numel() for p in trained.parameters())
    row, share = 4 * dim, batch // ranks
    rows = {
        "moco": (1, ring_gather(share * row, ranks)),  # keys
        "simclr": (4, 2 * ring_gather(share * row, ranks) + 2 * ring_reduce(batch * row, ranks)),  # z, and its gradient
        "npid": (3, ring_gather(share * (row + 8) + 4, ranks)),  # f and index, and a number for log Z
    }[config.method.name]
    found = {
        GRADIENTS: (1 + 4 * parameters // (25 << 20), ring_reduce(4 * parameters, ranks)),  # buckets of 25 MiB
        ROWS: rows,
        DECISION: (1, ring_reduce(16, ranks)),
    }
    if splits < ranks:
        group, norms = ranks // splits, channels(trained)
        forward = sum(ring_gather(4 * 2 * c, group) for c in norms)
        backward = sum(ring_reduce(4 * 2 * c, group) for c in norms)
        passes = 2 if config.method.name == "moco" else 1  # of keys, too; both views of SimCLR are one
        found[STATISTICS] = (len(norms) * (passes + 1), passes * forward + backward)
    return found


def on_paper() -> Iterator[dict[str, Any]]:
    """A step of each recipe for each kind of link."""
    from moco.config.check import check
    from moco.config.components import instantiate
    from moco.config.compose import composed
    from moco.models.cost import count

    for recipe, passes in (
        ("moco_v2_imagenet", 4),
        ("simclr_imagenet", 6),
    ):  # forward 1, backward 2, of keys 1; of views
        config = check(composed([f"recipe={recipe}", "data.root=imagenet"]))
        method: nn.Module = instantiate(config.method, encoder=instantiate(config.model), num_images=1_281_167, steps=1)
        trained = nn.ModuleList([method.encoder, method.head])
        operations = 2 * passes * count(method.encoder, (224, 224)).multiply_adds
        for link, (gpus, speed, start) in LINKS.items():
            messages = sent(config, trained, gpus)
            # Groups of ranks that lie on one node talk over its own links.
            near = STATISTICS if gpus // (config.method.splits or 1) <= 8 else ""
            ms = {
                kind: 1e3
                * (n / (NVLINK[0] if kind == near else speed) + calls * (NVLINK[1] if kind == near else start))
                for kind, (calls, n) in messages.items()
                if kind != DECISION
            }
            images = config.batch_size // gpus
            step = 1e3 * images * operations / (PEAK * SHARE)
            yield {
                "recipe": recipe,
                "GPUs": link,
                "images a GPU": images,
                "MB sent": {kind: round(n / 1e6, 3) for kind, (_, n) in messages.items() if kind != DECISION},
                "messages": {kind: calls for kind, (calls, _) in messages.items() if kind != DECISION},
                "ms": {kind: round(value, 2) for kind, value in ms.items()},
                "ms of the passes": round(step, 1),
                "ms that nothing hides": round(sum(value for kind, value in ms.items() if kind != GRADIENTS), 2),
            }
