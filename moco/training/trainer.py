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

from moco.config.schema import Config
from moco.errors import UserError
from moco.io import Json
from moco.protocols import KNN, KNN_HEAD
from moco.runs.lease import Lease, Paused, Stopped
from moco.runs.run import Run
from moco.seeding import step_seed
from moco.tracking.tracker import Tracker
from moco.training.checkpoint import load_checkpoint, save_checkpoint
from moco.training.progress import SHOW_EVERY, Progress
from moco.training.signals import Signals


class Rungs(Protocol):
    """The epochs after which a run may have to wait for others; see moco.launch.halving."""

    @property
    def epochs(self) -> Collection[int]: ...
    def pause(self, epoch: int) -> str | None:
        """Why the run is to pause after this epoch; None where it goes on."""


class Method(Protocol):
    """What the loop asks of a method, which is an nn.Module; see moco.methods."""

    views: int  # of an image that it looks at, 1 or 2
    encoder: nn.Module  # images [B, 3, H, W] -> features [B, D]
    head: nn.Module  # features -> [B, feature_dim]

    def __call__(self, x1: Tensor, x2: Tensor | None, index: Tensor) -> Tensor: ...
    def train(self, mode: bool = True) -> object: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> object: ...


class Trainer:
    """Trains a method on uint8 images [N, 3, H, W]; `fit` goes from the checkpoint to the last epoch.

    Args:
        config: of it batch_size, epochs, seed, eval_every and checkpoint_minutes.
        schedule: step -> share of the optimizer's learning rates.
        views: uint8 [B, 3, H, W] -> a random view, float32 [B, 3, S, S].
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
        images: Tensor,
        method: Method,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        views: Callable[[Tensor], Tensor],
        evaluate: Callable[[], dict[str, float]],
        autocast: Callable[[], AbstractContextManager[object]],
        tracker: Tracker,
        rungs: Rungs | None = None,
    ):
        self.config, self.run, self.images, self.method, self.optimizer = config, run, images, method, optimizer
        self.schedule, self.views, self.evaluate = schedule, views, evaluate
        self.autocast, self.tracker, self.rungs = autocast, tracker, rungs
        self.per_epoch = len(images) // config.batch_size
        self.steps = config.epochs * self.per_epoch
        self.step, self.best, self._began = 0, dict[str, float](), time.monotonic()
        self.last: Mapping[str, Json] = {}  # the newest value of each metric
        self.losses = torch.zeros(self.per_epoch, device=images.device)  # of this epoch's steps
        self._base_lrs = [group["lr"] for group in optimizer.param_groups]
        self._order: tuple[int, Tensor] | None = None  # of the images, with its epoch

    @property
    def seconds(self) -> float:
        """Of training with its evaluations and checkpoints, earlier attempts included."""
        return time.monotonic() - self._began

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def train_step(self) -> Tensor:
        """One step of the optimizer on the next batch; its loss, a scalar on the device."""
        i = self.step % self.per_epoch
        index = self._images_of_epoch()[i * self.config.batch_size : (i + 1) * self.config.batch_size]  # [B]
        torch.manual_seed(step_seed(self.config.seed, "step", self.step))
        originals = self.images[index]  # [B, 3, H, W]
        x1 = self.views(originals)
        x2 = self.views(originals) if self.method.views == 2 else None
        for group, lr in zip(self.optimizer.param_groups, self._base_lrs):
            group["lr"] = lr * self.schedule(self.step)
        with self.autocast():
            loss = self.method(x1, x2, index)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss = loss.detach()
        self.losses[i] = loss
        self.step += 1
        return loss

    def _images_of_epoch(self) -> Tensor:
        """The order of the images in this step's epoch, int64 [N]."""
        epoch = self.step // self.per_epoch
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(len(self.images), self.config.seed, epoch, self.images.device)
        return self._order[1]

    def fit(self, lease: Lease, signals: Signals) -> None:
        """Trains to the last epoch, from the checkpoint on where there is one.

        Raises:
            Stopped: after a signal, with the checkpoint saved.
            Paused: at a rung, with the checkpoint saved.
            Lost: another process took the run over.
            UserError: the loss is not finite, or the checkpoint does not fit or cannot be written.
        """
        self.load()
        self.run.rewind_metrics(self.step // self.per_epoch)
        self.last = self.run.last_metrics()
        self.tracker.catch_up(self.run.metrics())
        self.pause_at_rung()  # a kill may have come between the checkpoint and the decision
        bar = Progress("training", self.steps, self.step)
        self.method.train()
        saved = shown = time.monotonic()
        try:
            while self.step < self.steps:
                loss = self.train_step()
                if (now := time.monotonic()) - shown >= SHOW_EVERY:
                    shown = now
                    self._show(loss, bar, lease)
                if self.step % self.per_epoch == 0:
                    self.end_epoch(bar, lease)
                due = self.step == self.steps or self.at_rung or now - saved >= 60 * self.config.checkpoint_minutes
                if due or signals.save:
                    signals.save = False
                    with signals.saving():
                        lease.check()
                        self.save()
                    saved = time.monotonic()
                self.pause_at_rung()
                if signals.received and self.step < self.steps:
                    raise Stopped(signals.received)
        finally:
            bar.close()
        self.run.rewind_metrics(self.config.epochs)  # what a process wrote that had lost the run stands twice

    @property
    def at_rung(self) -> bool:
        """Whether an epoch is complete after which the run may have to wait."""
        epoch, rest = divmod(self.step, self.per_epoch)
        return self.rungs is not None and rest == 0 and epoch in self.rungs.epochs

    def pause_at_rung(self) -> None:
        """Raises Paused where the run is at a rung and has to wait."""
        if self.rungs and self.at_rung and (why := self.rungs.pause(self.step // self.per_epoch)):
            raise Paused(why)

    def _show(self, loss: Tensor, bar: Progress, lease: Lease) -> None:
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

    def end_epoch(self, bar: Progress, lease: Lease) -> None:
        """Evaluates where it is due, and writes the epoch's line."""
        self.check_finite()
        epoch = self.step // self.per_epoch
        line: dict[str, Json] = {"epoch": epoch, "step": self.step}
        loss = float(self.losses.mean())
        line |= {"train/loss": loss, "train/lr": self.lr}
        scores: dict[str, float] = {}
        regular = epoch % self.config.eval_every == 0 or epoch == self.config.epochs
        if regular or self.at_rung:
            scores = self.evaluate()
            # A score that only a rung asks for is none of the run's own: its result is that of the run without rungs.
            if regular and scores.get(KNN.top1, -1) > self.best.get(KNN.top1, -1):
                self.best = {KNN.top1: scores[KNN.top1], "epoch": epoch}
        line |= {**scores, "seconds": round(self.seconds, 2)}
        self.last = {**self.last, **scores}
        self.losses.zero_()
        lease.check()
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
        self.check_finite()
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "losses": self.losses,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(content, self.run.checkpoint)

    def load(self) -> None:
        """Goes on from the checkpoint, where there is one.

        Raises:
            UserError: it is cut short, or of another shape; it is kept.
        """
        if not self.run.checkpoint.exists():
            return
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


def epoch_order(n: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The order of the n images in that epoch, int64 [n]."""
    generator = torch.Generator().manual_seed(step_seed(seed, "order", epoch))
    return torch.randperm(n, generator=generator).to(device)
