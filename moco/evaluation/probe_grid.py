"""A grid of linear classifiers, fitted at once on the same features; one is chosen on held-out training images."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from moco.errors import UserError
from moco.evaluation.accuracy import Accuracy
from moco.evaluation.features import Labelled
from moco.evaluation.fitting import Fitting, FittingState, OnStep, ProbeSettings, fit
from moco.evaluation.linear_probe import linear_probe_cached, looked_up, standardised
from moco.seeding import step_seed

BETAS, EPS = (0.9, 0.999), 1e-8  # of torch's Adam, which the grid's is
BLOCK = 4096  # images that are scored at a time


class Grid(NamedTuple):
    """The settings that are tried: every learning rate with every weight decay.

    Attributes:
        held_out: share of the training images that the choice is made on.
    """

    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]
    held_out: float

    def points(self) -> list[tuple[float, float]]:
        """Each learning rate with its decay."""
        return [*itertools.product(self.lrs, self.weight_decays)]


class Chosen(NamedTuple):
    """The setting that was chosen, and its top-1 on the held-out images, in percent."""

    lr: float
    weight_decay: float
    held_out_top1: float


class GridFitting(Fitting):
    """G classifiers in training by Adam, each with its own learning rate and decay, which a cosine lowers to 0.

    One product gives the scores of all, and one their gradients. Each is what torch.optim.Adam makes of it alone, up to the
    order of floating-point sums. One that diverges is left behind; that is an error where all do.

    Attributes:
        weights: [D + 1, G, C]; the last row are the biases, for features that end with a 1.
    """

    def __init__(self, x: Tensor, settings: ProbeSettings, points: Sequence[tuple[float, float]]):
        """x [N, D + 1]: the features, with a 1 at the end of each."""
        super().__init__(len(x), x.device, replace(settings, schedule="cosine"))
        self.weights = x.new_zeros(x.shape[1], len(points), settings.num_classes)
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)  # moments
        self.lrs, self.decays = x.new_tensor(points).T.unsqueeze(2)  # [G, 1] each

    @torch.no_grad()
    def train_step(self, x: Tensor, labels: Tensor) -> None:
        factor = self.settings.factor(self.step, self.per_epoch)
        self.step += 1
        log_p = self.scores(x).log_softmax(2)  # [B, G, C]
        at = labels.view(-1, 1, 1).expand(-1, log_p.shape[1], 1)  # [B, G, 1]
        self.loss = -log_p.gather(2, at).mean()
        slope = log_p.exp_().scatter_add_(2, at, log_p.new_full((), -1.0).expand(at.shape)).div_(len(x))  # [B, G, C]
        gradient = torch.mm(x.T, slope.flatten(1)).view_as(self.weights)
        gradient.addcmul_(self.weights, self.decays)
        (b1, b2), t = BETAS, self.step
        self.first.lerp_(gradient, 1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        root = self.second.sqrt().div_((1 - b2**t) ** 0.5).add_(EPS)
        self.weights.sub_(self.first.div(root).mul_(self.lrs * (factor / (1 - b1**t))))

    def scores(self, x: Tensor) -> Tensor:
        """Of features [B, D + 1] by each classifier, [B, G, C]."""
        return torch.mm(x, self.weights.flatten(1)).view(len(x), *self.weights.shape[1:])

    @torch.no_grad()
    def held_out(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Top-1 in percent and mean cross-entropy of each classifier on features [H, D + 1], float64 [G] on the CPU."""
        right, loss = torch.zeros(2, self.weights.shape[1], dtype=torch.float64)
        for features, label in zip(torch.split(x, BLOCK), torch.split(labels.long(), BLOCK)):
            scores = self.scores(features)  # [B, G, C]
            of_label = scores.log_softmax(2).gather(2, label.view(-1, 1, 1).expand(-1, scores.shape[1], 1))
            right += (scores.argmax(2) == label.unsqueeze(1)).sum(0).cpu()
            loss -= of_label.sum((0, 2)).cpu()
        return 100 * right / len(x), loss / len(x)

    def parameters(self) -> list[Tensor]:
        return [self.weights]

    def check_finite(self, *others: Tensor) -> None:
        if not bool(self.finite().any()):
            raise self.diverged()

    def diverged(self) -> UserError:
        """What is said where none is of use."""
        return UserError(f"all linear classifiers became infinite or NaN by step {self.step}: give lower probe.lrs")

    def finite(self) -> Tensor:
        """Which classifiers are, bool [G]."""
        return self.weights.isfinite().all(2).all(0)

    def state(self) -> FittingState:
        return {"step": self.step, "weights": self.weights, "first": self.first, "second": self.second, **self.also}

    def load(self, state: FittingState) -> None:
        self.step = state["step"]
        for name in ("weights", "first", "second"):
            getattr(self, name).copy_(state[name])


def linear_probe_grid(
    train: Labelled,
    test: Labelled,
    settings: ProbeSettings,
    grid: Grid,
    *,
    on_step: OnStep | None = None,
    start: FittingState | None = None,
) -> tuple[Accuracy, Chosen]:
    """Test accuracy of the linear classifier whose learning rate and decay do best on held-out training images.

    All of the grid are fitted at once without the held-out images, and scored on them; of equal top-1 the lower cross-entropy
    is better. The one that is chosen is fitted anew to all training images: what was held out is worth the price of one
    more fit where labels are few, and the outcome is that of `linear_probe_cached` with these settings, bit for bit. The
    test images are looked at once. (facebookresearch/dinov2, eval/linear.py, which fits such a grid of learning rates on
    views, picks by the images that it reports.)

    Args:
        settings: without lr and weight_decay, which are the grid's.

    The other arguments are those of `linear_probe_cached`.

    Raises:
        UserError: all classifiers diverge, or no class has two images, one of which can be held out.
    """
    if start and "chosen" in start:
        chosen = Chosen._make(start["chosen"])
    else:
        chosen, start = _choose(train, settings, grid, on_step, start), None

    def noted(fitting: Fitting) -> None:
        fitting.also = {"chosen": [*chosen]}
        if on_step:
            on_step(fitting)

    settings = replace(settings, lr=chosen.lr, weight_decay=chosen.weight_decay)
    return linear_probe_cached(train, test, settings, on_step=noted, start=start), chosen


def _choose(
    train: Labelled, settings: ProbeSettings, grid: Grid, on_step: OnStep | None, start: FittingState | None
) -> Chosen:
    """Fits the grid without the held-out images; the best on these."""
    (x,) = standardised(train.x)
    x, held = torch.cat([x, x.new_ones(len(x), 1)], 1), hold_out(train.labels, grid.held_out)
    part, labels = x[~held], train.labels[~held]
    fitting = GridFitting(part, settings, grid.points())
    fit(fitting, labels, begin=looked_up(part), on_step=on_step, start=start)
    top1, loss = fitting.held_out(x[held], train.labels[held])
    usable = fitting.finite().cpu() & loss.isfinite()
    if not usable.any():
        raise fitting.diverged()
    best = min(usable.nonzero().flatten().tolist(), key=lambda i: (-float(top1[i]), float(loss[i])))
    lr, weight_decay = grid.points()[best]
    return Chosen(lr, weight_decay, float(top1[best]))


def hold_out(labels: Tensor, share: float) -> Tensor:
    """A stratified share of the images, the same for every seed, bool [N]: of each class that has two or more some, never all.

    Args:
        labels: int [N].

    Raises:
        UserError: no class has two images.
    """
    generator = torch.Generator().manual_seed(0)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for members in _by_class(labels):
        if len(members) > 1:
            number = min(max(1, round(share * len(members))), len(members) - 1)
            held[members[torch.randperm(len(members), generator=generator)[:number]]] = True
    if not held.any():
        raise UserError("no class has two training images, one of which could be held out: give more labelled images")
    return held.to(labels.device)


def _by_class(labels: Tensor) -> list[Tensor]:
    """The images of each class that is there, int64 [n] on the CPU."""
    order = labels.cpu().argsort(stable=True)
    return [*torch.split(order, labels.cpu().bincount().tolist())]


def drawn(labels: Tensor, share: float, draw: int) -> Tensor:
    """The images whose labels are used where only a share is: at least two of each class that has them, int64 [n], in order.

    Args:
        labels: int [N].
        draw: other images for each, the same for every run and seed.
    """
    generator = torch.Generator().manual_seed(step_seed(0, f"labels {share}", draw))
    chosen = [
        members[torch.randperm(len(members), generator=generator)[: max(2, round(share * len(members)))]]
        for members in _by_class(labels)
    ]
    return torch.cat(chosen).sort().values.to(labels.device)
