"""Features of a frozen network, weighted kNN on them, and linear evaluation by two protocols. Accuracies in percent."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from moco.seeding import step_seed

EpochCall = Callable[[int, int, float], None]


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, each of its parts' training flag restored afterwards."""
    flags = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag


@torch.no_grad()
def features(
    encode: Callable[[Tensor], Any], images: Tensor, preprocess: Callable[[Tensor], Tensor], *, batch_size: int = 500
) -> tuple[Tensor, ...]:
    """What `encode` makes of preprocessed uint8 images [N, C, H, W]: float32 tensors [N, D], one for each it returns."""
    stores: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        out = encode(preprocess(images[start : start + batch_size]))
        parts = out if isinstance(out, tuple) else (out,)
        if not stores:
            stores = [torch.empty(len(images), part.shape[1], device=part.device) for part in parts]
        for store, part in zip(stores, parts):
            store[start : start + batch_size] = part
    return tuple(stores)


def topk_accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> tuple[float, ...]:
    """Share of rows of `scores` [N, classes] whose label is among the k highest, in percent, for each k."""
    best = scores.topk(min(max(ks), scores.shape[1]), 1).indices
    hits = best == labels.unsqueeze(1)
    return tuple(100 * hits[:, :k].any(1).double().mean().item() for k in ks)


@torch.no_grad()
def knn(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    block: int = 512,
    bank_block: int = 100_000,
) -> tuple[float, float]:
    """Top-1 and top-5 of weighted kNN: k nearest by cosine similarity vote with exp(similarity / temperature).

    NPID, arXiv 1805.01978, sec. 3.4. bank [N, D] with bank_labels [N]; queries [Q, D] with labels [Q].

    Raises:
        ValueError: k is more than the bank holds, or temperature is not positive.
    """
    if k > len(bank):
        raise ValueError(f"k={k} is more than the bank's {len(bank)} rows: give at most {len(bank)}")
    if temperature <= 0:
        raise ValueError(f"knn_temperature={temperature} must be above 0")
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    scores = []
    for query in queries.split(block):
        best, voters = torch.empty(len(query), 0, device=bank.device), torch.empty(0)
        for start in range(0, len(bank), bank_block):
            similarity = query @ bank[start : start + bank_block].T  # [block, bank_block]
            top = similarity.topk(min(k, similarity.shape[1]), 1)
            candidates = torch.cat([best, top.values], 1)
            owners = bank_labels[start + top.indices]
            owners = torch.cat([voters, owners], 1) if start else owners
            best, at = candidates.topk(min(k, candidates.shape[1]), 1)
            voters = owners.gather(1, at)
        weights = ((best - best[:, :1]) / temperature).exp()  # [block, k]
        scores.append(weights.new_zeros(len(query), num_classes).scatter_add_(1, voters, weights))
    top1, top5 = topk_accuracy(torch.cat(scores), labels)
    return top1, top5


def linear_probe_cached(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, num_classes: int, **settings: Any
) -> tuple[float, float]:
    """Top-1 and top-5 of a linear classifier on cached features [N, D], standardised by the training set's moments."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    classifier = _fit(lambda index, step: train[index], train_labels, train.shape[1], num_classes, **settings)
    with torch.no_grad():
        top1, top5 = topk_accuracy(classifier(test), test_labels)
    return top1, top5


def linear_probe_augmented(
    encode: Callable[[Tensor], Tensor],
    views: Callable[[Tensor], Tensor],
    preprocess: Callable[[Tensor], Tensor],
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    num_features: int,
    **settings: Any,
) -> tuple[float, float]:
    """Top-1 and top-5 of a linear classifier trained on augmented views, the backbone frozen and in eval mode."""

    @torch.no_grad()
    def batch(index: Tensor, step: int) -> Tensor:
        torch.manual_seed(step_seed(settings["seed"], "probe views", step))
        return encode(views(train_images[index])).float()

    classifier = _fit(batch, train_labels, num_features, num_classes, **settings)
    (test,) = features(encode, test_images, preprocess)
    with torch.no_grad():
        top1, top5 = topk_accuracy(classifier(test), test_labels)
    return top1, top5


def _fit(
    batch: Callable[[Tensor, int], Tensor],
    labels: Tensor,
    num_features: int,
    num_classes: int,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    on_epoch: EpochCall | None = None,
) -> nn.Linear:
    """A softmax classifier trained by Adam on batch(index, step) [B, D]."""
    torch.manual_seed(step_seed(seed, "probe", 0))
    classifier = nn.Linear(num_features, num_classes).to(labels.device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr, weight_decay=weight_decay)
    step = 0
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(step_seed(seed, "probe order", epoch))
        total = torch.zeros((), device=labels.device)
        for index in torch.randperm(len(labels), generator=generator).to(labels.device).split(batch_size):
            loss = F.cross_entropy(classifier(batch(index, step)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
            step += 1
        if on_epoch:
            on_epoch(epoch + 1, epochs, float(total) / len(labels))
    return classifier


def count(encoder: nn.Module, image_size: int, channels: int = 3) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image's forward pass (half of what torch's counter calls FLOPs)."""
    device = next(encoder.parameters()).device
    with eval_mode(encoder), torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, channels, image_size, image_size, device=device))
    return sum(p.numel() for p in encoder.parameters()), counter.get_total_flops() // 2
