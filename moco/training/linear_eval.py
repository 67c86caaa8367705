"""Linear evaluation of a finished run: a linear classifier on its frozen backbone, by one of two protocols."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moco.config.schema import LinearEval
from moco.errors import UserError
from moco.io import Json
from moco.output import stand
from moco.protocols import KNN, LINEAR_PROTOCOLS, Protocol
from moco.runs.lease import BY_HAND, Lease, Place, Stopped
from moco.runs.run import Run
from moco.runs.settings import other_settings
from moco.tracking.tracker import open_tracker
from moco.training.pretrain import look, now, number, scored, summary
from moco.training.progress import SHOW_EVERY, Progress
from moco.training.same_data import WHERE, check_images, moved

if TYPE_CHECKING:
    from moco.evaluation.accuracy import Accuracy
    from moco.evaluation.fitting import Fitting, ProbeSettings
    from moco.training.components import Components
    from moco.training.signals import Signals


def linear_eval(run: Run, asked: LinearEval, place: Place = BY_HAND) -> float:
    """Linear evaluation of a finished run; its numbers join result.json, metrics.jsonl and the same wandb run.

    Args:
        asked: of it probe, tracker, device, seed, rerun and data.root.

    Returns:
        Top-1 in percent.

    Raises:
        UserError: the run is not done, or its checkpoint is unusable.
        Stopped: a signal came; the checkpoint is saved.
    """
    look(run, asked.device)
    protocol, result = LINEAR_PROTOCOLS[asked.probe.name], run.result
    if result is None:
        raise UserError(f"{run.folder} is {run.state()}, not done: train it to its end first")
    if not scored(result, KNN):
        raise UserError(
            f"the data of {run.folder} has no labels to fit a classifier to: put labelled/<class>/ and test/<class>/ beside "
            "its train/, and train anew"
        )
    rerun = asked.rerun or run.ordered(protocol.prefix, place.launch)
    if protocol.top1 in result and not rerun:
        different = other_settings(result, asked)
        other = f", which was done with {different}" if different else ""
        print(
            f"{run.folder} has its linear evaluation ({protocol.probe}): {summary(result)}{other} (rerun=true repeats it)"
        )
    else:
        result = _evaluate(run, asked, place, protocol, rerun)
        print(f"{run.folder}: {summary(result)}")
    return number(result, protocol.top1)


def _evaluate(run: Run, asked: LinearEval, place: Place, protocol: Protocol, rerun: bool) -> dict[str, Json]:
    """Builds, fits the classifier and adds its accuracies to the result, which it returns."""
    from moco.tracking.environment import check_environment
    from moco.training.checkpoint import load_encoder
    from moco.training.components import Components
    from moco.training.signals import Signals

    check_environment(asked.tracker)
    config = run.config
    with Signals() as signals:
        with signals.preparing():
            stand(run.folder)
            parts = Components(moved(run, asked.data.root), asked.device, pretrained=False)
            check_images(run, parts.data_described, WHERE)
            load_encoder(run, parts.encoder).to(parts.device)
        with run.lease("linear_eval", str(parts.device), place, lambda: signals.received) as lease:
            result = run.result or {}  # another process may have added to it meanwhile
            if rerun:
                _forget(run, result, protocol)
            elif protocol.top1 in result:
                return result
            with open_tracker(asked.tracker, run, config, "linear_eval", place) as tracker:
                tracker.catch_up(run.metrics())
                accuracy = Evaluation(run, parts, asked, lease, signals).fit()
                scores: dict[str, Json] = {protocol.metric(1): accuracy.top1, protocol.metric(5): accuracy.top5}
                line = {"epoch": result["epochs"], "step": result["steps"], **scores}
                lease.check()
                run.append_metrics(line)
                tracker.log(int(number(result, "steps")), line)
                _add(result, protocol, scores, _described(asked, parts))
                run.write_result(result)
                return result


def _described(asked: LinearEval, parts: "Components") -> dict[str, Json]:
    """What result.json keeps of a linear evaluation beside its accuracies."""
    num_features = parts.encoder.num_features
    assert isinstance(num_features, int)
    parameters = (num_features + 1) * len(parts.data.classes)
    return {**asked.probe.settings(), "seed": asked.seed, "params_classifier": parameters, "finished": now()}


def _add(result: dict[str, Json], protocol: Protocol, scores: dict[str, Json], described: dict[str, Json]) -> None:
    """Puts a linear evaluation into the run's result."""
    probes = result.setdefault("probes", {})
    assert isinstance(probes, dict) and protocol.probe
    probes[protocol.probe] = described
    result.update(scores)


def _forget(run: Run, result: dict[str, Json], protocol: Protocol) -> None:
    """Takes an earlier linear evaluation out, finished or not; the order to begin again is obeyed with that."""
    checkpoint_of(run, protocol).unlink(missing_ok=True)
    for k in (1, 5):
        result.pop(protocol.metric(k), None)
    if isinstance(probes := result.get("probes"), dict) and protocol.probe:
        probes.pop(protocol.probe, None)
    run.write_result(result)
    run.order(protocol.prefix).unlink(missing_ok=True)


def checkpoint_of(run: Run, protocol: Protocol) -> Path:
    """Where a linear evaluation keeps how far it is."""
    return run.folder / f"probe_{protocol.probe}.pt"


def fitted_by(asked: LinearEval, num_classes: int) -> "ProbeSettings":
    """The settings of the classifier."""
    from moco.evaluation.fitting import ProbeSettings
    from moco.optim import scaled_lr

    probe = asked.probe
    given = probe.model_dump(exclude_none=True, exclude={"name", "scale_lr", "lr", "milestones"})
    lr = scaled_lr(probe.lr, probe.batch_size) if probe.scale_lr else probe.lr
    milestones = tuple(probe.milestones or ())
    return ProbeSettings(num_classes=num_classes, seed=asked.seed, lr=lr, milestones=milestones, **given)


class Evaluation:
    """A linear classifier on the frozen backbone in eval mode, fitted from its checkpoint on."""

    def __init__(self, run: Run, parts: "Components", asked: LinearEval, lease: Lease, signals: "Signals"):
        self.parts, self.lease, self.signals = parts, lease, signals
        self.path = checkpoint_of(run, LINEAR_PROTOCOLS[asked.probe.name])
        self.cached = asked.probe.name == "cached"
        self.asked: dict[str, Json] = {**asked.probe.settings(), "seed": asked.seed}
        self.settings = fitted_by(asked, len(parts.data.classes))
        self.shown = self.kept = time.monotonic()

    def fit(self) -> "Accuracy":
        """Test top-1 and top-5 in percent."""
        from moco.evaluation.features import Labelled, features
        from moco.evaluation.linear_probe import linear_probe_augmented, linear_probe_cached
        from moco.models.modes import eval_mode
        from moco.training.checkpoint import load_checkpoint

        saved = load_checkpoint(self.path) if self.path.exists() else {}
        start = saved["fitting"] if saved.get("probe") == self.asked else None
        data, encode = self.parts.data, self.parts.encode
        train, test = Labelled(*data.labelled()), Labelled(data.test_images, data.test_labels)
        clean = self.parts.views().clean
        with eval_mode(self.parts.encoder):
            if self.cached:
                print("features of all images, then the classifier", file=sys.stderr, flush=True)
                train, test = (Labelled(features(encode, x, clean)[0], labels) for x, labels in (train, test))
            steps = self.settings.epochs * -(-len(train.labels) // self.settings.batch_size)
            self.bar = Progress("linear evaluation", steps, start["step"] if start else 0)
            try:
                if self.cached:
                    accuracy = linear_probe_cached(train, test, self.settings, on_step=self.on_step, start=start)
                else:
                    views = self.parts.probe_views()
                    accuracy = linear_probe_augmented(
                        encode, views, clean, train, test, self.settings, on_step=self.on_step, start=start
                    )
            finally:
                self.bar.close()
        self.path.unlink(missing_ok=True)
        return accuracy

    def on_step(self, fitting: "Fitting") -> None:
        """After each step: shows how far it is, saves where that is due, and stops after a signal."""
        from moco.training.checkpoint import save_checkpoint

        now = time.monotonic()
        if now - self.shown >= SHOW_EVERY:
            self.shown = now
            numbers = {"epoch": (fitting.step - 1) // fitting.per_epoch + 1, "loss": float(fitting.loss)}
            self.bar.update(fitting.step, **numbers)
            self.lease.progress(step=fitting.step, steps=fitting.steps, left=self.bar.left(fitting.step), **numbers)
        if self.signals.save or now - self.kept >= 60 * self.parts.config.checkpoint_minutes:
            fitting.check_finite()
            self.kept, self.signals.save = now, False
            with self.signals.saving():
                self.lease.check()
                save_checkpoint({"probe": self.asked, "fitting": fitting.state()}, self.path)
        if self.signals.received:
            raise Stopped(self.signals.received)
