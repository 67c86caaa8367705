"""The training loop.

Randomness is counted, not carried: data order, views and whatever the method samples come from generators seeded by
(seed, step), so a run that is killed and resumed is, on the CPU, bit for bit the run that was not.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from moco.augment.draws import DrawnViews
from moco.config.schema import Config
from moco.data.pixels import AnyImages
from moco.errors import UserError
from moco.io import Json
from moco.methods import Shuffled
from moco.progress import SHOW_EVERY, Progress
from moco.protocols import KNN, KNN_HEAD
from moco.ranks import average, own, ranks
from moco.runs.lease import Lease, Paused
from moco.runs.run import Run
from moco.seeding import step_seed
from moco.tracking.tracker import Tracker
from moco.training.batches import Batches
from moco.training.checkpoint import load_checkpoint, save_checkpoint
from moco.training.distributed import Bystander, agreed, first, stop_together, told
from moco.training.replica import replicated, settle
from moco.training.signals import Signals


class Rungs(Protocol):
    """The epochs after which a run may have to wait for others; see moco.launch.halving."""

    @property
    def epochs(self) -> Collection[int]: ...
    def pause(self, epoch: int) -> str | None:
        """Why the run is to pause after this epoch; None where it goes on."""


class Method(Protocol):
    """What the loop asks of a method, which is an nn.Module; see moco.methods."""

    views: int  # of an image that it looks at
    encoder: nn.Module  # images [B, 3, H, W] -> features [B, D]
    head: nn.Module  # features -> [B, feature_dim]

    def __call__(self, x1: Tensor, x2: Tensor | None, index: Tensor, *more: Any) -> Tensor: ...
    def train(self, mode: bool = True) -> object: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> object: ...


class Trainer:
    """Trains a method on uint8 images [N, 3, H, W]; `fit` goes from the checkpoint to the last epoch.

    Of several ranks each computes the loss of its share of every batch; rank 0 writes.

    Args:
        config: of it batch_size, epochs, seed, eval_every and checkpoint_minutes.
        schedule: step -> share of the optimizer's learning rates.
        device: of the method; a batch is loaded onto it.
        views: of uint8 [B, 3, H, W] random ones, float32 [B, 3, S, S].
        evaluate: the metrics of an evaluation.
        autocast: the context that a loss is computed in.
        tracker: mirrors the metrics.
        rungs: where the run is scored whatever eval_every says, and may be paused.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        *,
        images: AnyImages,
        device: torch.device,
        method: Method,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        views: DrawnViews,
        evaluate: Callable[[], dict[str, float]],
        autocast: Callable[[], AbstractContextManager[object]],
        tracker: Tracker,
        rungs: Rungs | None = None,
    ):
        self.config, self.run, self.method, self.optimizer = config, run, method, optimizer
        self.schedule, self.views, self.evaluate = schedule, views, evaluate
        self.autocast, self.tracker, self.rungs = autocast, tracker, rungs
        self.per_epoch = len(images) // config.batch_size
        self.steps = config.epochs * self.per_epoch
        self.shuffles: tuple[int, ...] = getattr(method, "shuffles", ())  # views that it takes in another order, too
        self.batches = Batches(images, config.seed, config.batch_size, self.steps, len(self.shuffles), device)
        self.loss = replicated(method, config.method.name, device)  # type: ignore[arg-type]  # a module that is a Method
        self.step, self.best, self._began = 0, dict[str, float](), time.monotonic()
        self.last: Mapping[str, Json] = {}  # the newest value of each metric
        self.losses = torch.zeros(self.per_epoch, device=device)  # of this epoch's steps
        self._base_lrs = [group["lr"] for group in optimizer.param_groups]

    @property
    def seconds(self) -> float:
        """Of training with its evaluations and checkpoints, earlier attempts included."""
        return time.monotonic() - self._began

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def train_step(self) -> Tensor:
        """One step of the optimizer on the next batch; the loss of this rank's share of it, a scalar on the device."""
        batch = self.batches.take(self.step)
        n, share = len(batch.rows), own(len(batch.rows))
        torch.manual_seed(step_seed(self.config.seed, "step", self.step))
        # Drawn for the whole batch on every rank, so that each image has the same views on any number of them.
        size = (batch.images.shape[-2], batch.images.shape[-1])
        drawn = [self.views.draw(n, size, batch.rows.device, batch.sizes) for _ in range(self.method.views)]
        # Other augmentations than our own need not know of a size that changes.
        at = (self.step / self.steps,) if self.config.augment.smaller else ()
        x = [self.views.apply(batch.images, draws[share], *at) for draws in drawn]
        shuffled = []
        for i, (order, view) in enumerate(zip(batch.orders, self.shuffles)):
            if ranks() == 1:
                shuffled.append(Shuffled(order, x[view].index_select(0, order)))  # x[order] would lose channels_last
            else:
                own_order = drawn[view][order[share]]
                shuffled.append(Shuffled(order, self.views.apply(batch.shuffled[i], own_order, *at)))
        for group, lr in zip(self.optimizer.param_groups, self._base_lrs):
            group["lr"] = lr * self.schedule(self.step)
        more = [shuffled] if self.shuffles else x[2:]
        with self.autocast():
            loss = self.loss(x[0], x[1] if len(x) > 1 else None, batch.rows[share], *more)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss = loss.detach()
        self.losses[self.step % self.per_epoch] = loss
        self.step += 1
        return loss

    def fit(self, lease: Lease | Bystander, signals: Signals) -> None:
        """Trains to the last epoch, from the checkpoint on where there is one.

        Raises:
            Stopped: after a signal, with the checkpoint saved.
            Paused: at a rung, with the checkpoint saved.
            Lost: another process took the run over.
            UserError: the loss is not finite, or the checkpoint does not fit or cannot be written.
        """
        self.load()
        if first():
            self.run.rewind_metrics(self.step // self.per_epoch)
        self.last = self.run.last_metrics()
        self.tracker.catch_up(self.run.metrics())
        self.pause_at_rung()  # a kill may have come between the checkpoint and the decision
        bar = Progress("training", self.steps, self.step)
        self.method.train()
        self._saved = self._shown = time.monotonic()
        try:
            while self.step < self.steps:
                loss = self.train_step()
                if (now := time.monotonic()) - self._shown >= SHOW_EVERY and first():
                    self._shown = now
                    self._show(loss, bar, lease)
                if self.step % self.per_epoch == 0:
                    self.end_epoch(bar, lease)
                save, stop = signals.decide(self._is_due(now))
                if save:
                    with signals.saving():
                        lease.check()
                        self.save()
                    self._saved = time.monotonic()
                self.pause_at_rung()
                if stop and self.step < self.steps:
                    stop_together(stop)
        finally:
            bar.close()
        if first():
            self.run.rewind_metrics(self.config.epochs)  # what a process wrote that had lost the run stands twice

    def _is_due(self, now: float) -> bool:
        """Whether the checkpoint is to be saved."""
        late = now - self._saved >= 60 * self.config.checkpoint_minutes
        return late or self.step == self.steps or self.at_rung

    @property
    def at_rung(self) -> bool:
        """Whether an epoch is complete after which the run may have to wait."""
        epoch, rest = divmod(self.step, self.per_epoch)
        return self.rungs is not None and rest == 0 and epoch in self.rungs.epochs

    def pause_at_rung(self) -> None:
        """Raises Paused where the run is at a rung and has to wait."""
        if self.rungs and self.at_rung:
            if why := told(self.rungs.pause(self.step // self.per_epoch) if first() else None):
                raise Paused(why)

    def _show(self, loss: Tensor, bar: Progress, lease: Lease | Bystander) -> None:
        """Shows how far the training is, here and in the lease."""
        self.check_finite()
        speed = (self.step - bar.start) * self.config.batch_size / (time.monotonic() - bar.began)
        epoch = (self.step - 1) // self.per_epoch + 1
        numbers = {"loss": float(loss), "images/s": speed}
        bar.update(self.step, epoch=epoch, **self.accuracies(), **numbers)
        lease.progress(step=self.step, steps=self.steps, left=bar.left(self.step), epoch=epoch, **numbers)

    def accuracies(self) -> dict[str, float]:
        """The last kNN top-1 and the best one so far, in percent; empty before the first."""
        found = {"kNN": self.last.get(KNN.top1), "best": self.best.get(KNN.top1)}
        return {name: score for name, score in found.items() if isinstance(score, int | float)}

    def end_epoch(self, bar: Progress, lease: Lease | Bystander) -> None:
        """Evaluates where it is due, and writes the epoch's line."""
        average([self.losses])
        self.check_finite()
        epoch = self.step // self.per_epoch
        line: dict[str, Json] = {"epoch": epoch, "step": self.step}
        loss = float(self.losses.mean())
        line |= {"train/loss": loss, "train/lr": self.lr}
        scores: dict[str, float] = {}
        regular = epoch % self.config.eval_every == 0 or epoch == self.config.epochs
        if regular or self.at_rung:
            settle(self.method)
            scores = self.evaluate()
            # A score that only a rung asks for is none of the run's own: its result is that of the run without rungs.
            if regular and scores.get(KNN.top1, -1) > self.best.get(KNN.top1, -1):
                self.best = {KNN.top1: scores[KNN.top1], "epoch": epoch}
        line |= {**scores, "seconds": round(self.seconds, 2)}
        self.last = {**self.last, **scores}
        self.losses.zero_()
        lease.check()
        if first():
            self.run.append_metrics(line)
        self.tracker.log(self.step, line)
        shown = "  ".join(
            f"{protocol.title} {scores[protocol.metric(1)]:.2f} / {scores[protocol.metric(5)]:.2f}"
            for protocol in (KNN, KNN_HEAD)
            if protocol.metric(5) in scores
        )
        bar.line(f"epoch {epoch}/{self.config.epochs}  loss {loss:.4f}  {shown}")

    def save(self) -> None:
        """Writes the checkpoint: the method (queue and bank included), the optimizer and how far they are.

        Raises:
            UserError: the loss or a weight is not finite (the last good checkpoint stays), or the disk is full.
        """
        losses = self.losses.clone()  # own ones, if an epoch goes on after this
        average([losses])
        settle(self.method)
        self.check_finite()
        if not first():
            return
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "losses": losses,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(content, self.run.checkpoint)

    def load(self) -> None:
        """Goes on from the checkpoint, where there is one.

        Raises:
            UserError: it is cut short, or of another shape; it is kept.
        """
        if not told(self.run.checkpoint.exists()):
            return
        with agreed():
            content = load_checkpoint(self.run.checkpoint)
        try:
            self.method.load_state_dict(content["method"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.losses.copy_(content["losses"])
            self.step, self.best = content["step"], content["best"]
            self._began = time.monotonic() - content["seconds"]
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).replace("\n", " ")[:160]
            raise UserError(
                f"{self.run.checkpoint} does not fit this configuration ({reason}): it is kept; rerun=true starts over"
            ) from error

    def check_finite(self) -> None:
        """Raises UserError where a loss of this epoch or a weight is not finite."""
        bad = (~self.losses.isfinite()).nonzero()
        epoch_start = (max(self.step, 1) - 1) // self.per_epoch * self.per_epoch
        at = epoch_start + int(bad[0]) + 1 if len(bad) else self.step
        if len(bad) or not all(bool(p.isfinite().all()) for p in self.method.parameters()):
            kept = self.run.checkpoint if self.run.checkpoint.exists() else "there is none yet"
            softer = ", a higher temperature" if self.config.temperature else ""
            raise UserError(
                f"the loss or a weight became infinite or NaN at step {at}: try a lower optimizer.lr{softer} or "
                f"precision=fp32 (last good checkpoint: {kept})"
            )
