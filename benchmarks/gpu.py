"""Images per second on a GPU, what each part of a step costs, and how far from the card's limits that is.

    python benchmarks/gpu.py                    # MoCo, symmetric MoCo, SimCLR and NPID with ResNet-18 and ResNet-50
    python benchmarks/gpu.py --only simclr      # what has this in its name, for example "moco resnet18 reference"
    python benchmarks/gpu.py --tiny             # the same path on a CPU in seconds; its figures mean nothing

`ours` is Trainer.train_step on configurations from conf/: images and views on the device, bf16, channels_last and a fused
optimizer. `foreach` has the optimizer that torch takes by default, `compiled` has compile=true, `graph` has each backbone as a
CUDA graph, which holds one pass and so is not for symmetric MoCo. `reference` is the way of the published code: the same method
in fp32, images one by one through torchvision's transforms in a DataLoader, the loss read at every step. All have the same
batch size; images are random, or those of --data.

Rates are compared with those of a large matrix product and of a large copy on this card in the same run. Operations are
counted, two for a multiply-add; bytes are the least that a part must move. `host ms` is the time to ask the device for a part:
where it comes near `ms`, the device waits for the host. Prints JSON; exits with 1 where something failed.
"""

import argparse
import copy
import functools
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from views import TwoViews

sys.path.insert(0, str(Path(__file__).parents[1]))
from moco.config.check import check
from moco.config.compose import composed
from moco.config.schema import Config
from moco.data import Dataset
from moco.methods.moco import shuffle
from moco.runs.run import Run
from moco.tracking.tracker import Tracker
from moco.training.components import Components
from moco.training.pretrain import trainable, trainer_of

EPOCH, WARM = 50_000, 5  # images of an epoch; steps before the clock starts
METHODS = {
    "moco": ["method=moco"],
    "moco symmetric": ["method=moco", "method.symmetric=true"],
    "simclr": ["method=simclr"],
    "npid": ["method=npid"],
}
# In this order, each with the share of the time after which it does not begin any more: compiling takes long, and a failed
# capture of a graph can leave the random generator unusable, so these two come last.
# `fused` is true on a GPU unless it is given; null leaves the choice to torch, which takes foreach; false takes its slow loop.
VARIANTS = {
    "ours": (0.95, []),
    "foreach": (0.95, ["+optimizer.fused=null"]),
    "reference": (0.95, ["+optimizer.fused=null", "precision=fp32"]),
    "compiled": (0.65, ["compile=true"]),
    "graph": (0.9, []),
}
RATIOS = [("ours", "reference"), ("ours", "foreach"), ("compiled", "ours"), ("graph", "ours")]


@functools.cache
def dataset(size: int, images: int, root: str | None = None) -> Dataset:
    """The data set packed in the file `root`, or random images."""
    if root:
        return Dataset(**torch.load(root, mmap=True, weights_only=True))
    x = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    return Dataset(x, torch.zeros(images, dtype=torch.long), x[:8], torch.zeros(8, dtype=torch.long), ["random"])


def sync() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def clock(call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Seconds of a call among many, and the seconds that the host takes to ask for one."""
    host = []
    for _ in range(3):
        sync()
        started = time.monotonic()
        call()
        host.append(time.monotonic() - started)
    sync()
    started, calls = time.monotonic(), 0
    while time.monotonic() - started < seconds or not calls:
        call()
        calls += 1
    sync()
    return (time.monotonic() - started) / calls, min(host)


def limits(tiny: bool) -> tuple[float, float]:
    """Operations per second of a large matrix product, bytes per second of a large copy (read and written)."""
    side, size, seconds, device = (256, 2**22, 0.1, "cpu") if tiny else (8192, 2**30, 1.0, "cuda")
    a = torch.randn(side, side, device=device, dtype=torch.float32 if tiny else torch.bfloat16)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * side**3 / clock(lambda: a @ a, seconds)[0], 2 * size / clock(lambda: target.copy_(source), seconds)[0]


def loop(parts: Components, method: Any, optimizer: Any, schedule: Callable[[int], float], seconds: float) -> float:
    """Seconds of a step of the Trainer."""
    trainer = trainer_of(parts, Run("not written"), (method, optimizer, schedule), dict, Tracker())
    method.train()
    for _ in range(WARM):
        trainer.train_step()
    return clock(trainer.train_step, seconds)[0]


def pieces(parts: Components, method: Any, optimizer: Any, views: Any) -> dict[str, tuple[Callable[[], Any], float]]:
    """What a step consists of: for each part a call, and the least bytes that it must move (0: no plain figure)."""
    config, images = parts.config, parts.data.train_images
    index = torch.randperm(len(images), device=images.device)[: config.batch_size]
    x = [views(images[index]) for _ in range(method.views)]
    inputs = [torch.cat(x)] if config.method.name == "simclr" else x[: 1 + bool(config.method.symmetric)]
    features = [torch.randn(len(v), config.feature_dim, device=v.device, requires_grad=True) for v in x]
    bare = copy.deepcopy(method)  # with the networks taken out, what is left is the loss and the queue or bank
    for name in {"encoder", "head", "key_encoder", "key_head"} & {name for name, _ in bare.named_children()}:
        setattr(bare, name, torch.nn.Identity())
    bare.update_keys = lambda: None

    def make_views() -> None:
        originals = images[index]
        for _ in range(method.views):
            views(originals)

    def query() -> None:
        optimizer.zero_grad()
        for v in inputs:
            with parts.autocast():
                out = F.normalize(method.head(method.encoder(v)).float(), dim=1)
            out.backward(torch.ones_like(out))

    def keys() -> None:
        with parts.autocast():
            for v in inputs:
                method.keys(v, *[shuffle(v)] * bool(method.shuffles))

    def loss() -> None:
        with parts.autocast():
            value = bare(features[0], features[-1], index)
        value.backward()

    query()
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the same gradient again and again must not lead anywhere
    optimizer.step()  # makes its state
    trained = [p for p in method.parameters() if p.requires_grad]
    weights, pixels = 4 * sum(p.numel() for p in trained), method.views * images[index].numel()
    states = sum(torch.is_tensor(v) and v.ndim > 0 for v in optimizer.state[trained[0]].values())
    calls: dict[str, tuple[Callable[[], Any], float]] = {"views": (make_views, 5 * pixels)}  # uint8 in, float32 out
    calls["query forward + backward"] = query, 0
    if hasattr(method, "update_keys"):
        calls |= {"key forward": (keys, 0), "EMA": (method.update_keys, 3 * weights)}
    calls["loss, queue or bank"] = loss, 0
    calls["optimizer"] = optimizer.step, (3 + 2 * states) * weights  # weight and state in and out, gradient in
    return calls


def graph_backbones(parts: Components, method: Any, views: Any) -> None:
    """Replaces the forward and backward pass of each backbone by a CUDA graph."""
    x = views(parts.data.train_images[: parts.config.batch_size])
    x = torch.cat([x, x]) if parts.config.method.name == "simclr" else x
    method.train()
    with torch.autocast(parts.device.type, torch.bfloat16, cache_enabled=False):  # a cached cast would miss the graph
        for name, part in method.named_children():
            if name.endswith("encoder"):
                torch.cuda.make_graphed_callables(part, (x,))


class Samples(TwoViews):
    """An image's index and its views, made by torchvision's transforms of MoCo."""

    def __init__(self, images: torch.Tensor, views: int):
        super().__init__(images)
        self.views = views
        self.transform.transforms[0] = transforms.RandomResizedCrop(images.shape[-1])

    def __getitem__(self, i: int) -> Any:
        image = Image.fromarray(self.images[i])
        return i, *(self.transform(image) for _ in range(self.views))


def reference(parts: Components, method: Any, optimizer: Any, seconds: float, workers: int) -> float:
    """Seconds of a step of the plain loop, after the batches that were made in advance are used up."""
    method.train().to(memory_format=torch.contiguous_format)
    loader = torch.utils.data.DataLoader(
        Samples(parts.data.train_images.cpu(), method.views),
        batch_size=parts.config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=parts.device.type == "cuda",
    )
    skipped, began, total = 2 * workers + 1, 0.0, 0.0
    for i, batch in enumerate(itertools.chain.from_iterable(itertools.repeat(loader))):  # epoch after epoch
        index, *x = (v.to(parts.device, non_blocking=True) for v in batch)
        loss = method(x[0], x[-1], index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()  # waits for the device
        if i == skipped:
            began = time.monotonic()
        elif i > skipped and time.monotonic() - began > seconds:
            break
    return (time.monotonic() - began) / (i - skipped)


def measure(config: Config, variant: str, peak: float, rate: float, seconds: float, workers: int) -> dict[str, Any]:
    """What there is to say of one variant of one configuration."""
    parts = Components(config, config.device)
    method, optimizer, schedule = trainable(parts)
    views = parts.views()
    if parts.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if variant == "graph":
        graph_backbones(parts, method, views)
    if variant == "reference":
        step = reference(parts, method, optimizer, seconds, workers)
    else:
        step = loop(parts, method, optimizer, schedule, seconds)
    speed = config.batch_size / step
    found: dict[str, Any] = {"images/s": speed, "ms per step": 1e3 * step}
    found[f"seconds per epoch of {EPOCH} images"] = EPOCH / speed
    if parts.device.type == "cuda":
        found["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    if variant not in ("ours", "compiled"):
        return found
    found |= {"parts": {}, "operations per step": 0}
    for name, (call, moved) in pieces(parts, method, optimizer, views).items():
        took, host = clock(call, seconds / 4)
        found["parts"][name] = part = {"ms": 1e3 * took, "host ms": 1e3 * host}
        if moved:
            part["least bytes per second / copy"] = moved / took / rate
        else:
            with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
                call()
            part["operations per second / matrix product"] = counter.get_total_flops() / took / peak
            found["operations per step"] += counter.get_total_flops()
    found["operations per second / matrix product"] = found["operations per step"] / step / peak
    return found | {"sum of parts / step": sum(part["ms"] for part in found["parts"].values()) / (1e3 * step)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="the same path on the CPU, in fp32, nothing compiled")
    parser.add_argument("--seconds", type=float, help="of each measurement (2; --tiny: 0.05)")
    parser.add_argument("--minutes", type=float, default=8, help="what cannot begin in time is left out")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="what has this in its name; all of several"
    )
    parser.add_argument("--batch", type=int, help="images in a step (512; --tiny: 16)")
    parser.add_argument("--data", metavar="FILE", help="what torch.save made of the vars of a moco.data.Dataset")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if not args.tiny and not torch.cuda.is_available():
        print("error: no GPU here: this measures a CUDA card; --tiny runs the same path on the CPU", file=sys.stderr)
        return 1
    started, workers = time.monotonic(), 0 if args.tiny else min(16, os.cpu_count() or 1)
    seconds, batch = args.seconds or (0.05 if args.tiny else 2.0), args.batch or (16 if args.tiny else 512)
    models = {"resnet18": ["model=resnet18"], "resnet50": ["model=resnet50"]}
    words = ["device=cuda", "precision=bf16", f"+data.images={EPOCH}"]
    if args.tiny:
        models = {"small": ["model=small", "model.widths=[8,16]", "feature_dim=16"]}
        words = ["device=cpu", "precision=fp32", "+data.images=100"]
        torch.compiler.set_stance("force_eager")
    words += [
        "data=digits",
        "data.name=random",
        f"data._target_={__name__}.dataset",
        "data.size=32",
        f"batch_size={batch}",
        "tracker=none",
        "epochs=1000",
        "eval_every=1000",
        "checkpoint_minutes=1000",
        *([f"+data.root='{os.path.abspath(args.data)}'"] if args.data else []),
    ]
    peak, rate = limits(args.tiny)
    results: dict[str, dict[str, Any]] = {}
    left_out, failed = [], False
    for variant, model, method in itertools.product(VARIANTS, models, METHODS):
        point, name = f"{method} {model}", f"{method} {model} {variant}"
        latest, changes = VARIANTS[variant]
        no_graph = variant == "graph" and (args.tiny or method == "moco symmetric")
        if no_graph or not all(only in name for only in args.only):
            continue
        if time.monotonic() - started > 60 * latest * args.minutes:
            left_out.append(name)
            continue
        bank = ["m=50"] * (args.tiny and method != "simclr")
        config = check(composed([*words, *models[model], *METHODS[method], *bank, *changes]))
        try:
            found = measure(config, variant, peak, rate, seconds, workers)
        except Exception as error:  # the others are still worth having
            found, failed = {"error": f"{type(error).__name__}: {error}"[:300]}, True
        results.setdefault(point, {})[variant] = found
        print(f"{name}: {found.get('error') or round(found['images/s'])}", file=sys.stderr, flush=True)
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    for found in results.values():
        for a, b in RATIOS:
            if all("images/s" in found.get(name, {}) for name in (a, b)):
                found[f"{a} / {b}"] = found[a]["images/s"] / found[b]["images/s"]
    report = {
        "card": None if args.tiny else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "precision": "fp32" if args.tiny else "bf16",
        "batch": batch,
        "workers of the reference": workers,
        "precision of the reference": "fp32" + ", TF32 in convolutions" * torch.backends.cudnn.allow_tf32,
        "matrix product, TFLOP/s": peak / 1e12,
        "copy, GB/s": rate / 1e9,
        "results": results,
        "left out, the time was over": left_out,
        "seconds": time.monotonic() - started,
    }
    print(json.dumps(json.loads(json.dumps(report), parse_float=lambda text: float(f"{float(text):.4g}")), indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
