"""The classifiers of a linear evaluation: fitted on a run's frozen backbone by the protocol that is asked for."""

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moco.config.schema import LinearEval, OtherData, Probe
from moco.evaluation.accuracy import Accuracy
from moco.evaluation.features import Labelled, features
from moco.evaluation.fitting import Fitting, FittingState, ProbeSettings
from moco.evaluation.knn import knn
from moco.evaluation.linear_probe import Images, linear_probe_augmented, linear_probe_cached
from moco.evaluation.probe_grid import Grid, drawn, linear_probe_grid
from moco.io import Json
from moco.models.modes import eval_mode
from moco.optim import scaled_lr
from moco.progress import SHOW_EVERY, Progress
from moco.protocols import KNN, LINEAR_PROTOCOLS, Protocol, of_probe
from moco.runs.lease import Lease
from moco.training.checkpoint import load_checkpoint, save_checkpoint
from moco.training.distributed import Bystander, agreed, first, say, stop_together, told

if TYPE_CHECKING:
    from moco.training.components import Components
    from moco.training.signals import Signals


class Outcome(NamedTuple):
    """What a linear evaluation gives: its metrics, and what else the result keeps of it."""

    scores: dict[str, Json]
    also: dict[str, Json]


def fitted_by(probe: Probe, num_classes: int, seed: int) -> ProbeSettings:
    """The settings of a classifier; where a grid is tried, without lr and decay."""
    left_out = {"name", "scale_lr", "lr", "weight_decay", "milestones", "lrs", "weight_decays", "held_out", "draws"}
    given = probe.model_dump(exclude_none=True, exclude=left_out)
    lr = scaled_lr(probe.lr or 0.0, probe.batch_size) if probe.scale_lr else probe.lr or 0.0
    milestones = tuple(probe.milestones or ())
    return ProbeSettings(
        num_classes=num_classes,
        seed=seed,
        lr=lr,
        weight_decay=probe.weight_decay or 0.0,
        milestones=milestones,
        **given,
    )


def grid_of(probe: Probe) -> Grid:
    """The settings that are tried."""
    return Grid(tuple(probe.lrs or ()), tuple(probe.weight_decays or ()), probe.held_out or 0.0)


class Evaluation:
    """Linear classifiers on the frozen backbone in eval mode, fitted from their checkpoint on.

    Args:
        path: of the checkpoint.
    """

    def __init__(
        self, parts: "Components", asked: LinearEval, path: Path, lease: Lease | Bystander, signals: "Signals"
    ):
        self.parts, self.probe, self.path, self.lease, self.signals = parts, asked.probe, path, lease, signals
        self.nearest = isinstance(asked, OtherData)  # whether kNN is to be measured, too
        self.asked: dict[str, Json] = {**asked.probe.settings(), "seed": asked.seed}
        self.settings = fitted_by(asked.probe, len(parts.data.classes), asked.seed)
        self.shown = self.kept = time.monotonic()
        self.bar: Progress | None = None
        self.fitting: Fitting | None = None  # the one that the bar shows
        self.done: list[list[float]] = []  # of several draws of labels: top-1, top-5, lr and decay of each
        self.start: FittingState | None = None

    def fit(self) -> Outcome:
        """Test accuracies in percent."""
        there = told(self.path.exists())
        with agreed():
            saved = load_checkpoint(self.path) if there else {}
        if saved.get("probe") == self.asked:
            self.done, self.start = saved.get("done", []), saved["fitting"]
        data, protocol = self.parts.data, LINEAR_PROTOCOLS[self.probe.name]
        train, test = Images(*data.labelled()), Images(data.test_images, data.test_labels)
        try:
            with eval_mode(self.parts.encoder):
                outcome = self._on_views(protocol, train, test) if protocol.views else self._on_features(train, test)
        finally:
            if self.bar:
                self.bar.close()
        return outcome

    def _on_views(self, protocol: Protocol, train: Images, test: Images) -> Outcome:
        views, clean = self.parts.drawn_views(self.parts.probe_views()), self.parts.views().clean
        accuracy = linear_probe_augmented(
            self.parts.encode, views, clean, train, test, self.settings, on_step=self.on_step, start=self.start
        )
        neighbours = self._neighbours(*self._features(train, test)) if self.nearest else {}
        return Outcome({**neighbours, **_named(protocol, accuracy)}, {})

    def _features(self, *images: Images) -> list[Labelled]:
        """Of all images."""
        say("features of all images, then the classifier")
        clean = self.parts.views().clean
        return [Labelled(features(self.parts.encode, x, clean)[0], labels) for x, labels in images]

    def _on_features(self, *images: Images) -> Outcome:
        train, test = self._features(*images)
        outcome = self._classified(train, test)
        neighbours = self._neighbours(train, test) if self.nearest else {}
        return outcome._replace(scores={**neighbours, **outcome.scores})

    def _neighbours(self, train: Labelled, test: Labelled) -> dict[str, Json]:
        """Accuracies of kNN; a set that is smaller than the run's k votes whole."""
        config = self.parts.config
        accuracy = knn(
            train,
            test,
            k=min(config.k, len(train.labels)),
            temperature=config.knn_temperature,
            num_classes=self.settings.num_classes,
        )
        return _named(KNN, accuracy)

    def _classified(self, train: Labelled, test: Labelled) -> Outcome:
        """What classifiers on these features give."""
        first, *others = of_probe(self.probe.name)
        if others:
            return self._few_shot([first, *others], train, test)
        if not self.probe.chooses:
            accuracy = linear_probe_cached(train, test, self.settings, on_step=self.on_step, start=self.start)
            return Outcome(_named(first, accuracy), {})
        accuracy, chosen = linear_probe_grid(
            train, test, self.settings, grid_of(self.probe), on_step=self.on_step, start=self.start
        )
        return Outcome(_named(first, accuracy), {"chosen": chosen._asdict()})

    def _few_shot(self, protocols: list[Protocol], train: Labelled, test: Labelled) -> Outcome:
        """By each protocol the means over several draws of its share of the labels, and the deviation of top-1."""
        draws = self.probe.draws or 1
        for protocol, draw in [(p, draw) for p in protocols for draw in range(draws)][len(self.done) :]:
            rows = drawn(train.labels, protocol.share, draw)
            part = Labelled(train.x[rows], train.labels[rows])
            accuracy, chosen = linear_probe_grid(
                part, test, self.settings, grid_of(self.probe), on_step=self.on_step, start=self.start
            )
            self.done.append([*accuracy, chosen.lr, chosen.weight_decay])
            self.start = None
        scores: dict[str, Json] = {}
        for i, protocol in enumerate(protocols):
            top1, top5, *_ = zip(*self.done[i * draws : (i + 1) * draws])
            scores |= _named(protocol, Accuracy(statistics.fmean(top1), statistics.fmean(top5)))
            scores |= {protocol.spread: statistics.stdev(top1)} if draws > 1 else {}
        return Outcome(scores, {"of_each_draw": [[*one] for one in self.done]})

    def on_step(self, fitting: Fitting) -> None:
        """After each step: shows how far it is, saves where that is due, and stops after a signal."""
        now = time.monotonic()
        if self.bar is None or now - self.shown >= SHOW_EVERY:
            self.shown = now
            self._show(fitting)
        save, stop = self.signals.decide(now - self.kept >= 60 * self.parts.config.checkpoint_minutes)
        if save:
            fitting.check_finite()
            self.kept = now
            with self.signals.saving():
                self.lease.check()
                if first():
                    save_checkpoint({"probe": self.asked, "fitting": fitting.state(), "done": self.done}, self.path)
        if stop:
            stop_together(stop)

    def _show(self, fitting: Fitting) -> None:
        """Shows how far a fitting is, each on a bar of its own."""
        if self.bar is None or self.fitting is not fitting:
            if self.bar:
                self.bar.close()
            self.bar, self.fitting = Progress("linear evaluation", fitting.steps, fitting.step), fitting
        numbers = {"epoch": (fitting.step - 1) // fitting.per_epoch + 1, "loss": float(fitting.loss)}
        self.bar.update(fitting.step, **numbers)
        self.lease.progress(step=fitting.step, steps=fitting.steps, left=self.bar.left(fitting.step), **numbers)


def _named(protocol: Protocol, accuracy: Accuracy) -> dict[str, Json]:
    """Accuracies by the names of their metrics."""
    return {protocol.metric(1): accuracy.top1, protocol.metric(5): accuracy.top5}
