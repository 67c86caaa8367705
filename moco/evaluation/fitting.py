"""Classifiers in training on frozen features: how they are fitted, and the loop that fits them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.data.pixels import early
from moco.errors import UserError
from moco.evaluation.accuracy import Accuracy, topk_accuracy
from moco.seeding import step_seed

AHEAD = 2  # batches that are begun before their turn


@dataclass(frozen=True)
class ProbeSettings:
    """How a classifier is fitted.

    Attributes:
        seed: of the order of the images, of the views, and of the first weights where they are drawn.
        momentum: of SGD; None: Adam.
        nesterov: whether that momentum is Nesterov's.
        schedule: of the lr: constant, half a cosine to 0, or step, a tenth from each milestone on.
        milestones: in epochs.
        init_std: deviation of the normal distribution that the first weights are drawn from; 0: they are 0. The problem is
            convex, so any start will do.
    """

    num_classes: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    seed: int
    momentum: float | None = None
    nesterov: bool = False
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[float, ...] = ()
    init_std: float = 0.0

    def factor(self, step: int, per_epoch: int) -> float:
        """The share of the lr at a step, of so many in an epoch."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * step / (self.epochs * per_epoch))) / 2
        return 0.1 ** sum(step >= milestone * per_epoch for milestone in self.milestones)

    def optimizer(self, classifier: nn.Module) -> torch.optim.Optimizer:
        """What trains the classifier."""
        parameters, decay = classifier.parameters(), self.weight_decay
        if self.momentum is None:
            return torch.optim.Adam(parameters, lr=self.lr, weight_decay=decay)
        return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=decay, nesterov=self.nesterov)


FittingState: TypeAlias = dict[str, Any]  # what a checkpoint of a fitting holds


class Fitting(ABC):
    """Classifiers in training, as `on_step` sees them after each step.

    Args:
        n: images that are fitted to.

    Attributes:
        step: how many steps have been taken, of `steps` in all.
        per_epoch: steps in an epoch.
        loss: of the last step, a scalar on the device.
        also: what else a checkpoint is to hold.
    """

    def __init__(self, n: int, device: torch.device, settings: ProbeSettings):
        self.settings, self.step, self.per_epoch = settings, 0, math.ceil(n / settings.batch_size)
        self.steps, self.loss = settings.epochs * self.per_epoch, torch.zeros((), device=device)
        self.also: FittingState = {}

    @abstractmethod
    def train_step(self, x: Tensor, labels: Tensor) -> None:
        """One step on features [B, D] and labels int64 [B]."""

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The weights and biases."""

    @abstractmethod
    def state(self) -> FittingState:
        """What `load` continues from, bit for bit."""

    @abstractmethod
    def load(self, state: FittingState) -> None:
        """Continues from an earlier `state`."""

    def check_finite(self, *others: Tensor) -> None:
        """Waits for the device.

        Raises:
            UserError: the last loss, a weight or a number of the others is infinite or NaN.
        """
        if not all(bool(x.isfinite().all()) for x in (self.loss, *self.parameters(), *others)):
            raise UserError(f"the linear classifier became infinite or NaN by step {self.step}: give a lower probe.lr")


class LinearFitting(Fitting):
    """One classifier, by the optimizer of its settings."""

    def __init__(self, num_features: int, n: int, device: torch.device, settings: ProbeSettings):
        super().__init__(n, device, settings)
        self.classifier = nn.Linear(num_features, settings.num_classes, device=device)
        for p in self.classifier.parameters():
            nn.init.zeros_(p)
        if settings.init_std:  # drawn on the CPU, so that every device begins alike
            generator = torch.Generator().manual_seed(step_seed(settings.seed, "probe start", 0))
            drawn = torch.empty(settings.num_classes, num_features).normal_(0, settings.init_std, generator=generator)
            self.classifier.weight.data.copy_(drawn)
        self.optimizer = settings.optimizer(self.classifier)

    def train_step(self, x: Tensor, labels: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.settings.factor(self.step, self.per_epoch)
        loss = F.cross_entropy(self.classifier(x), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step, self.loss = self.step + 1, loss.detach()

    def parameters(self) -> list[Tensor]:
        return list(self.classifier.parameters())

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Tensor) -> Accuracy:
        """On features [N, D] with labels int [N].

        Raises:
            UserError: as check_finite, of the scores too.
        """
        scores = self.classifier(x)  # [N, C]
        self.check_finite(scores)
        return Accuracy(*topk_accuracy(scores, labels, (1, 5)))

    def state(self) -> FittingState:
        weights, moments = self.classifier.state_dict(), self.optimizer.state_dict()
        return {"step": self.step, "classifier": weights, "optimizer": moments, **self.also}

    def load(self, state: FittingState) -> None:
        self.step = state["step"]
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])


OnStep: TypeAlias = Callable[[Fitting], None]  # what it raises ends the training


class Batch(NamedTuple):
    """The images of a step, int64 [B]: on the CPU, and the same on the device of the labels."""

    on_cpu: Tensor
    on_device: Tensor


Ready: TypeAlias = Callable[[int], Tensor]  # the features [B, D] of a batch that has been begun, at its step


def fit(
    fitting: Fitting,
    labels: Tensor,
    *,
    begin: Callable[[Batch], Ready],
    on_step: OnStep | None = None,
    start: FittingState | None = None,
) -> None:
    """Trains to the last step.

    Args:
        labels: int [N].
        begin: begins to make the features of a batch, some steps before they are needed.
        on_step: called after each step.
        start: the `Fitting.state` to continue from, of a call with the same arguments.

    Raises:
        UserError: it diverges.
    """
    labels = labels.long()
    if start:
        fitting.load(start)
    for batch, ready in early(((batch, begin(batch)) for batch in _batches(fitting, labels)), AHEAD):
        fitting.train_step(ready(fitting.step), labels[batch.on_device])
        if on_step:
            on_step(fitting)
        if fitting.step % fitting.per_epoch == 0:
            fitting.check_finite()


def _batches(fitting: Fitting, labels: Tensor) -> Iterator[Batch]:
    """The batches of the steps that are left."""
    settings, begun = fitting.settings, fitting.step
    for epoch in range(begun // fitting.per_epoch, settings.epochs):
        generator = torch.Generator().manual_seed(step_seed(settings.seed, "probe order", epoch))
        order = torch.randperm(len(labels), generator=generator)  # [N]
        size, skipped = min(settings.batch_size, len(order)), max(0, begun - epoch * fitting.per_epoch)
        pairs = zip(torch.split(order, size), torch.split(order.to(labels.device), size))
        yield from [Batch(*pair) for pair in pairs][skipped:]
