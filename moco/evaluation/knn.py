"""What frozen features are worth: weighted kNN, and linear evaluation with or without augmentation."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.seeding import step_seed


class Fitting:
    """A classifier in training: what `on_step` hears of after each step, and what a checkpoint of it holds."""

    def __init__(self, classifier: nn.Linear, optimizer: torch.optim.Optimizer, epochs: int, per_epoch: int):
        self.classifier, self.optimizer = classifier, optimizer
        self.step, self.steps, self.per_epoch = 0, epochs * per_epoch, per_epoch
        self.loss = torch.zeros((), device=classifier.weight.device)  # of the last step

    def state(self) -> dict[str, Any]:
        """What `load` goes on from, bit for bit."""
        parts = {"classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"step": self.step, **parts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from an earlier `state`."""
        self.step = state["step"]
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])


OnStep = Callable[[Fitting], None]  # what it raises ends the training


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode; afterwards each of its modules has the training flag that it had."""
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in flags:
            m.training = training


@torch.no_grad()
def features(
    encode: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    images: Tensor,
    preprocess: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 500,
) -> tuple[Tensor, ...]:
    """Features of all images, batch by batch, without gradients. Eval mode is up to the caller: see `eval_mode`.

    Args:
        encode: preprocessed images [B, ...] -> features [B, D], or a tuple of such.
        images: uint8 [N, C, H, W], at least one.
        preprocess: uint8 batch -> what `encode` takes.

    Returns:
        For each tensor that `encode` gives: float32 [N, D] on its device.
    """
    assert len(images) > 0
    storage: tuple[Tensor, ...] = ()
    for start in range(0, len(images), batch_size):
        encoded = encode(preprocess(images[start : start + batch_size]))
        encoded = (encoded,) if isinstance(encoded, Tensor) else encoded
        if not storage:
            storage = tuple(z.new_empty((len(images), z.shape[1]), dtype=torch.float32) for z in encoded)
        for whole, z in zip(storage, encoded):
            whole[start : start + len(z)] = z
    return storage


def topk_accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> tuple[float, ...]:
    """For each k the percentage of rows whose label is among the k best scores.

    Args:
        scores: [N, C], higher is better; of equal scores the lower class comes first, and NaN is wrong.
        labels: int [N] in [0, C).
    """
    return _percent(_ranks(scores, labels), ks)


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the label's. int64 [N]"""
    labels = labels.long().unsqueeze(1)  # [N, 1]
    own = scores.gather(1, labels)  # [N, 1]
    after = torch.arange(scores.shape[1], device=scores.device) > labels  # [N, C]
    behind = (scores < own) | ((scores == own) & after)
    return scores.shape[1] - 1 - behind.sum(1)


def _percent(ranks: Tensor, ks: Sequence[int]) -> tuple[float, ...]:
    return tuple(100 * int((ranks < k).sum()) / len(ranks) for k in ks)


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
    query_block: int = 1000,
    bank_block: int = 50_000,
) -> tuple[float, float]:
    """Weighted k-nearest-neighbour classification (Wu et al., arXiv 1805.01978, section 3.4).

    The k bank rows of the highest cosine similarity s vote for their labels with weight exp(s / temperature): as the
    temperature goes to infinity they vote equally, as it goes to 0 the nearest decides. Equal votes go to the lower
    class; classes without a vote come last. At 512 dimensions, a bank of a million rows takes half a GB beyond its own.

    Args:
        bank: features [N, D] of any length, on any device.
        bank_labels: int [N] in [0, num_classes).
        queries, labels: as the bank, [Q, D] and [Q].
        query_block, bank_block: rows whose similarities are held at a time; they change speed and memory only.

    Returns:
        Top-1 and top-5 accuracy in percent; with fewer than five classes, top-5 is of them all.

    Raises:
        ValueError: k is below 1 or above the rows of the bank, or the temperature is not positive.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} neighbours from a bank of {len(bank)}: give k from 1 to {len(bank)}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive: 0.1 is usual, and a large one votes equally")
    similarity, rows = _neighbours(bank, queries, k, query_block, bank_block)
    # The votes are cast on the CPU: there scatter_add_ adds in a fixed order, and every device's float64 is at hand.
    votes_for = bank_labels.to(rows.device)[rows].cpu().long()  # [Q, k]
    similarity = similarity.cpu().double()  # [Q, k]
    # Divided by the largest weight, which cancels in the comparison and keeps exp finite at small temperatures.
    weights = ((similarity - similarity.amax(1, keepdim=True)) / temperature).exp()
    ranks = []
    for weight, voted, label in zip(*(x.split(query_block) for x in (weights, votes_for, labels.cpu()))):
        scores = weight.new_zeros(len(label), num_classes).scatter_add_(1, voted, weight)  # [block, C]
        ranks.append(_ranks(scores, label))
    top1, top5 = _percent(torch.cat(ranks), (1, 5))
    return top1, top5


def _neighbours(bank: Tensor, queries: Tensor, k: int, query_block: int, bank_block: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity and bank row of each query's k nearest, in no order: float32 [Q, k] and int64 [Q, k]."""
    query_block, bank_block = min(query_block, len(queries)), min(bank_block, len(bank))
    best = queries.new_full((len(queries), k), -torch.inf, dtype=torch.float32)  # [Q, k]
    rows = torch.zeros_like(best, dtype=torch.long)  # [Q, k]
    # One buffer for all products: the pages of a fresh one for each cost a seventh of the time on a CPU.
    space = best.new_empty(query_block * bank_block)
    for start in range(0, len(bank), bank_block):
        part = F.normalize(bank[start : start + bank_block].float(), dim=1)  # [P, D]
        for query, best_so_far, rows_so_far in zip(*(x.split(query_block) for x in (queries, best, rows))):
            query = F.normalize(query.float(), dim=1)
            out = space[: len(query) * len(part)].view(len(query), len(part))
            new, index = torch.mm(query, part.T, out=out).topk(min(k, len(part)), sorted=False)
            merged, kept = torch.cat([best_so_far, new], 1).topk(k, sorted=False)
            best_so_far.copy_(merged)
            rows_so_far.copy_(torch.cat([rows_so_far, index + start], 1).gather(1, kept))
    return best, rows


def linear_probe_cached(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    on_step: OnStep | None = None,
    start: Mapping[str, Any] | None = None,
) -> tuple[float, float]:
    """Test accuracy of a linear classifier on features computed once: logistic regression, without augmentation.

    Features are standardised by the training features' mean and deviation, which a linear classifier can absorb, so that
    one learning rate serves every backbone; the learning rate falls to 0 along a cosine, so that Adam settles.

    Args:
        train_features, test_features: [N, D].
        train_labels, test_labels: int [N] in [0, num_classes).
        lr, weight_decay: of Adam.
        seed: of the order of the batches.
        start: the `Fitting.state` to go on from, of a call with equal arguments.

    Returns:
        Top-1 and top-5 accuracy in percent after the last epoch.
    """
    deviation, mean = torch.std_mean(train_features, 0, correction=0)  # [D]
    # A feature that never varies but by rounding stays unscaled.
    deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1)
    train, test = ((x - mean) / deviation for x in (train_features, test_features))
    steps = epochs * math.ceil(len(train) / batch_size)
    classifier = _train_classifier(
        lambda index, step: train.index_select(0, index),
        train_labels,
        train.shape[1],
        num_classes=num_classes,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        factor=lambda step: (1 + math.cos(math.pi * step / steps)) / 2,
        on_step=on_step,
        start=start,
    )
    return _score(classifier, test, test_labels)


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
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    on_step: OnStep | None = None,
    start: Mapping[str, Any] | None = None,
) -> tuple[float, float]:
    """Test accuracy of a linear classifier trained on augmented views, the backbone frozen (leftthomas/SimCLR, linear.py).

    The backbone, whose eval mode is up to the caller (see `eval_mode`), gets no gradient; Adam at a constant learning
    rate holds the classifier alone.

    Args:
        encode: images [B, C, H, W] -> features [B, num_features].
        views: uint8 batch -> an augmented float batch, random by torch's global generator, which is seeded at each step.
        preprocess: uint8 batch -> float batch, for the test images.
        train_images, test_images: uint8 [N, C, H, W].

    The other arguments and the result are those of `linear_probe_cached`.
    """

    @torch.no_grad()
    def encode_views(index: Tensor, step: int) -> Tensor:
        torch.manual_seed(step_seed(seed, "probe step", step))
        return encode(views(train_images[index])).float()

    classifier = _train_classifier(
        encode_views,
        train_labels,
        num_features,
        num_classes=num_classes,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        factor=lambda step: 1.0,
        on_step=on_step,
        start=start,
    )
    (test,) = features(encode, test_images, preprocess)
    return _score(classifier, test, test_labels)


def _train_classifier(
    batch: Callable[[Tensor, int], Tensor],
    labels: Tensor,
    num_features: int,
    *,
    num_classes: int,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    factor: Callable[[int], float],
    on_step: OnStep | None,
    start: Mapping[str, Any] | None,
) -> nn.Linear:
    """A softmax classifier fitted by Adam. `batch`: indices [B], step -> features [B, D]; `factor`: step -> share of lr."""
    labels = labels.long()
    classifier = nn.Linear(num_features, num_classes, device=labels.device)
    for p in classifier.parameters():
        nn.init.zeros_(p)  # the problem is convex: any start will do, and this one is the same for every seed
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr, weight_decay=weight_decay)
    fitting = Fitting(classifier, optimizer, epochs, math.ceil(len(labels) / batch_size))
    if start:
        fitting.load(start)
    for epoch in range(fitting.step // fitting.per_epoch, epochs):
        generator = torch.Generator().manual_seed(step_seed(seed, "probe order", epoch))
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        for index in order.split(batch_size)[fitting.step % fitting.per_epoch :]:
            x = batch(index, fitting.step)
            for group in optimizer.param_groups:
                group["lr"] = lr * factor(fitting.step)
            loss = F.cross_entropy(classifier(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            fitting.step, fitting.loss = fitting.step + 1, loss.detach()
            if on_step:
                on_step(fitting)
    return classifier


@torch.no_grad()
def _score(classifier: nn.Linear, x: Tensor, labels: Tensor) -> tuple[float, float]:
    top1, top5 = topk_accuracy(classifier(x), labels, (1, 5))
    return top1, top5


def count(encoder: nn.Module, image_size: int, channels: int = 3) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image's forward pass in eval mode; the module stays as it was.

    Multiply-adds are those of convolutions and matrix products, half of what torch's FLOP counter gives.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads triton, which takes its time

    parameters = list(encoder.parameters())
    x = torch.zeros(1, channels, image_size, image_size)
    if parameters:
        x = x.to(parameters[0])
    with eval_mode(encoder), torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(x)
    return sum(p.numel() for p in parameters), counter.get_total_flops() // 2
