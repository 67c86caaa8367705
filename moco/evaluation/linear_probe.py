"""Linear evaluation: a linear classifier on frozen features, fitted with or without augmentation."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.errors import UserError
from moco.evaluation.accuracy import Accuracy, topk_accuracy
from moco.evaluation.features import Labelled, features
from moco.seeding import step_seed


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


class FittingState(TypedDict):
    """What a checkpoint of a classifier in training holds."""

    step: int
    classifier: dict[str, Any]
    optimizer: dict[str, Any]


class Fitting:
    """A classifier in training, as `on_step` sees it after each step.

    Attributes:
        step: how many steps have been taken, of `steps` in all.
        per_epoch: steps in an epoch.
        loss: of the last step, a scalar on the device.
    """

    def __init__(self, num_features: int, device: torch.device, steps_per_epoch: int, settings: ProbeSettings):
        self.classifier = nn.Linear(num_features, settings.num_classes, device=device)
        for p in self.classifier.parameters():
            nn.init.zeros_(p)
        if settings.init_std:  # drawn on the CPU, so that every device begins alike
            generator = torch.Generator().manual_seed(step_seed(settings.seed, "probe start", 0))
            drawn = torch.empty_like(self.classifier.weight, device="cpu").normal_(
                0, settings.init_std, generator=generator
            )
            self.classifier.weight.data.copy_(drawn)
        self.settings, self.optimizer = settings, settings.optimizer(self.classifier)
        self.step, self.per_epoch, self.steps = 0, steps_per_epoch, settings.epochs * steps_per_epoch
        self.loss = torch.zeros((), device=device)

    def train_step(self, x: Tensor, labels: Tensor) -> None:
        """One step on features [B, D] and labels int64 [B]."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.settings.factor(self.step, self.per_epoch)
        loss = F.cross_entropy(self.classifier(x), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step, self.loss = self.step + 1, loss.detach()

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Tensor) -> Accuracy:
        """On features [N, D] with labels int [N].

        Raises:
            UserError: as check_finite, of the scores too.
        """
        scores = self.classifier(x)  # [N, C]
        self.check_finite(scores)
        return Accuracy(*topk_accuracy(scores, labels, (1, 5)))

    def check_finite(self, *others: Tensor) -> None:
        """Waits for the device.

        Raises:
            UserError: the last loss, a weight or a number of the others is infinite or NaN.
        """
        if not all(bool(x.isfinite().all()) for x in (self.loss, *self.classifier.parameters(), *others)):
            raise UserError(f"the linear classifier became infinite or NaN by step {self.step}: give a lower probe.lr")

    def state(self) -> FittingState:
        """What `load` continues from, bit for bit."""
        return {
            "step": self.step,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: FittingState) -> None:
        """Continues from an earlier `state`."""
        self.step = state["step"]
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])


OnStep: TypeAlias = Callable[[Fitting], None]  # what it raises ends the training


def linear_probe_cached(
    train: Labelled,
    test: Labelled,
    settings: ProbeSettings,
    *,
    on_step: OnStep | None = None,
    start: FittingState | None = None,
) -> Accuracy:
    """Test accuracy of a linear classifier on features computed once: logistic regression, without augmentation.

    Features are standardised by the mean and deviation of the training features, so that one learning rate suits every
    backbone; a linear classifier can undo this. The learning rate falls to 0 along a cosine, so that Adam settles, whatever
    the settings' schedule.

    Args:
        train, test: features [N, D].
        on_step: called after each step.
        start: the `Fitting.state` to continue from, of a call with the same arguments.

    Returns:
        Accuracy after the last epoch.

    Raises:
        UserError: the classifier diverges.
    """
    deviation, mean = torch.std_mean(train.x, 0, correction=0)  # [D], [D]
    # A feature that varies only by rounding stays unscaled.
    deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1)
    x, test_x = ((part - mean) / deviation for part in (train.x, test.x))
    settings = replace(settings, schedule="cosine")
    fitting = Fitting(x.shape[1], x.device, math.ceil(len(x) / settings.batch_size), settings)
    _fit(
        fitting,
        train.labels,
        settings,
        batch=lambda index: x.index_select(0, index),
        on_step=on_step,
        start=start,
    )
    return fitting.accuracy(test_x, test.labels)


def linear_probe_augmented(
    encode: Callable[[Tensor], Tensor],
    views: Callable[[Tensor], Tensor],
    preprocess: Callable[[Tensor], Tensor],
    train: Labelled,
    test: Labelled,
    settings: ProbeSettings,
    *,
    on_step: OnStep | None = None,
    start: FittingState | None = None,
) -> Accuracy:
    """Test accuracy of a linear classifier trained on augmented views, the backbone frozen.

    The backbone gets no gradient, and the caller sets its eval mode (moco.models.modes); the optimizer updates the classifier
    alone. Features are taken as they are. conf/probe has the settings of several sources: leftthomas/SimCLR (linear.py),
    facebookresearch/moco (main_lincls.py) and SimCLR's paper (arXiv 2002.05709, appendix B.6).

    Args:
        encode: images [B, C, H, W] -> features [B, D].
        views: uint8 batch -> augmented float batch, random by torch's global generator, which is seeded at each step.
        preprocess: uint8 batch -> float batch, for the test images.
        train, test: images uint8 [N, C, H, W].

    The other arguments and the result are those of `linear_probe_cached`.
    """

    @torch.no_grad()
    def encoded_views(index: Tensor) -> Tensor:
        torch.manual_seed(step_seed(settings.seed, "probe step", fitting.step))
        return encode(views(train.x[index])).float()

    (one,) = features(encode, train.x[:1], preprocess)  # [1, D]
    fitting = Fitting(one.shape[1], one.device, math.ceil(len(train.x) / settings.batch_size), settings)
    _fit(
        fitting,
        train.labels,
        settings,
        batch=encoded_views,
        on_step=on_step,
        start=start,
    )
    (test_x,) = features(encode, test.x, preprocess)
    return fitting.accuracy(test_x, test.labels)


def _fit(
    fitting: Fitting,
    labels: Tensor,
    settings: ProbeSettings,
    *,
    batch: Callable[[Tensor], Tensor],
    on_step: OnStep | None,
    start: FittingState | None,
) -> None:
    """Trains the classifier to the end. `batch`: indices [B] -> features [B, D].

    Raises:
        UserError: it diverges.
    """
    labels = labels.long()
    if start:
        fitting.load(start)
    for epoch in range(fitting.step // fitting.per_epoch, settings.epochs):
        generator = torch.Generator().manual_seed(step_seed(settings.seed, "probe order", epoch))
        order = torch.randperm(len(labels), generator=generator).to(labels.device)  # [N]
        for index in torch.split(order, min(settings.batch_size, len(order)))[fitting.step % fitting.per_epoch :]:
            fitting.train_step(batch(index), labels[index])
            if on_step:
                on_step(fitting)
        fitting.check_finite()
