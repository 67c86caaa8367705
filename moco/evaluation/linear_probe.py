"""Linear evaluation: a linear classifier on frozen features, fitted with or without augmentation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

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
        lr, weight_decay: of Adam.
        seed: of the order of the images, and of the views.
    """

    num_classes: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    seed: int


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
            nn.init.zeros_(p)  # the problem is convex, so any start will do, and this one is the same for every seed
        self.optimizer = torch.optim.Adam(
            self.classifier.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.step, self.per_epoch, self.steps = 0, steps_per_epoch, settings.epochs * steps_per_epoch
        self.loss = torch.zeros((), device=device)

    def train_step(self, x: Tensor, labels: Tensor, lr: float) -> None:
        """One step on features [B, D] and labels int64 [B]."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
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
    backbone; a linear classifier can undo this. The learning rate falls to 0 along a cosine, so that Adam settles.

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
    fitting = Fitting(x.shape[1], x.device, math.ceil(len(x) / settings.batch_size), settings)
    _fit(
        fitting,
        train.labels,
        settings,
        batch=lambda index: x.index_select(0, index),
        factor=lambda step: (1 + math.cos(math.pi * step / fitting.steps)) / 2,
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
    """Test accuracy of a linear classifier trained on augmented views, the backbone frozen (leftthomas/SimCLR, linear.py).

    The backbone gets no gradient, and the caller sets its eval mode (moco.models.modes). Adam, at a constant learning rate,
    updates only the classifier.

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
        factor=lambda step: 1.0,
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
    factor: Callable[[int], float],
    on_step: OnStep | None,
    start: FittingState | None,
) -> None:
    """Trains the classifier to the end. `batch`: indices [B] -> features [B, D]; `factor`: step -> share of the lr.

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
            fitting.train_step(batch(index), labels[index], settings.lr * factor(fitting.step))
            if on_step:
                on_step(fitting)
        fitting.check_finite()
