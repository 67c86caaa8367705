"""The training loop and the checkpoint.

Randomness is counted, not carried: data order, views and whatever the method samples come from generators seeded by
(seed, step), so a run that is killed and resumed is, on the CPU, bit for bit the run that was not.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.errors import UserError
from moco.io import replacing
from moco.runs.lease import Claim, Stopped
from moco.runs.run import Run
from moco.seeding import step_seed
from moco.training.progress import SHOW_EVERY, Progress

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Remembers the first signal that asks to stop; a second Ctrl-C stops at once.

    Inside a SLURM job SIGTERM asks for a checkpoint alone: it announces preemption or the end, and a job that leaves on it
    counts as finished where the partition grants a grace time, so that SLURM would not queue it again.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.save = False
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.save = True
        if number != signal.SIGTERM or os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            self.received = signal.Signals(number).name

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class State:
    """What a checkpoint holds: the method (queue and bank included), the optimizer and how far they are."""

    def __init__(
        self, run: Run, method: nn.Module, optimizer: torch.optim.Optimizer, per_epoch: int, device: torch.device
    ):
        self.run, self.method, self.optimizer = run, method, optimizer
        self.step, self._began = 0, time.monotonic()
        self.best: dict[str, float] = {}
        self.losses = torch.zeros(per_epoch, device=device)  # of this epoch's steps

    @property
    def seconds(self) -> float:
        """Of training with its evaluations and checkpoints, earlier attempts included."""
        return time.monotonic() - self._began

    def save(self) -> None:
        """Writes the checkpoint aside and renames it.

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
        save_atomic(content, self.run.checkpoint)

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
        per_epoch = len(self.losses)
        epoch_start = (max(self.step, 1) - 1) // per_epoch * per_epoch
        at = epoch_start + int(bad[0]) + 1 if len(bad) else self.step
        if len(bad) or not all(bool(p.isfinite().all()) for p in self.method.parameters()):
            kept = self.run.checkpoint if self.run.checkpoint.exists() else "there is none yet"
            raise UserError(
                f"the loss or a weight became infinite or NaN at step {at}: try a lower optimizer.lr, a higher temperature or "
                f"precision=fp32 (last good checkpoint: {kept})"
            )


def save_atomic(content: Mapping[str, Any], path: Path) -> None:
    """torch.save written aside, flushed and renamed.

    Raises:
        UserError: it cannot be written; the file that was there stays.
    """
    try:
        with replacing(path) as aside, open(aside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be written ({error}): free some space and start again, which goes on from the last checkpoint"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU.

    Raises:
        UserError: it is absent or cut short.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} is absent: train the run first") from error
    except Exception as error:  # torch raises whatever the damage leads to
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): it is kept; put a good copy there, or start over with rerun=true"
        ) from error


def epoch_order(n: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The order of the n images in that epoch, int64 [n]."""
    generator = torch.Generator().manual_seed(step_seed(seed, "order", epoch))
    return torch.randperm(n, generator=generator).to(device)


def fit(
    cfg: Mapping[str, Any],
    run: Run,
    claim: Claim,
    images: Tensor,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float],
    views: Callable[[Tensor], Tensor],
    evaluate: Callable[[], dict[str, float]],
    autocast: Callable[[], Any],
    tracker: Any,
    signals: Signals,
) -> State:
    """Trains `method` on uint8 `images` [N, 3, H, W] from the checkpoint on, to the last epoch.

    Args:
        factor: step -> share of the base learning rate.
        evaluate: the metrics of an evaluation.

    Raises:
        Stopped: after a signal, with the checkpoint saved.
        UserError: the loss is not finite, or the checkpoint does not fit.
    """
    batch, per_epoch = cfg["batch_size"], len(images) // cfg["batch_size"]
    steps = cfg["epochs"] * per_epoch
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    state = State(run, method, optimizer, per_epoch, images.device)
    state.load()
    run.rewind_metrics(state.step // per_epoch)
    tracker.catch_up(run.metrics())
    bar = Progress("training", steps, state.step)
    started = saved = shown = time.monotonic()
    order = epoch_order(len(images), cfg["seed"], state.step // per_epoch, images.device)
    method.train()
    while state.step < steps:
        epoch, i = divmod(state.step, per_epoch)
        if i == 0:
            order = epoch_order(len(images), cfg["seed"], epoch, images.device)
        torch.manual_seed(step_seed(cfg["seed"], "step", state.step))
        index = order[i * batch : (i + 1) * batch]  # [B]
        originals = images[index]
        x1 = views(originals)
        x2 = views(originals) if method.views == 2 else None
        for group, lr in zip(optimizer.param_groups, base_lrs):
            group["lr"] = lr * factor(state.step)
        with autocast():
            loss = method(x1, x2, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state.losses[i] = loss.detach()
        state.step += 1
        now = time.monotonic()

        if now - shown >= SHOW_EVERY:
            shown = now
            state.check_finite()
            speed = (state.step - bar.start) * batch / (now - started)
            numbers = {"epoch": epoch + 1, "loss": float(loss.detach()), "images/s": speed}
            bar.update(state.step, **numbers)
            claim.progress(step=state.step, steps=steps, left=bar.left(state.step), **numbers)
        if state.step % per_epoch == 0:
            _end_epoch(cfg, state, run, evaluate, tracker, bar, group["lr"])
        if signals.save or now - saved >= 60 * cfg["checkpoint_minutes"] or state.step == steps:
            signals.save = False
            state.save()
            saved = time.monotonic()
        if signals.received and state.step < steps:
            bar.close()
            raise Stopped(signals.received)
    bar.close()
    return state


def _end_epoch(
    cfg: Mapping[str, Any], state: State, run: Run, evaluate: Any, tracker: Any, bar: Progress, lr: float
) -> None:
    """Evaluates where it is due, and writes the epoch's line."""
    state.check_finite()
    epoch = state.step // len(state.losses)
    line = {"epoch": epoch, "step": state.step, "train/loss": float(state.losses.mean()), "train/lr": lr}
    if epoch % cfg["eval_every"] == 0 or epoch == cfg["epochs"]:
        line |= evaluate()
        if line["knn/top1"] > state.best.get("knn/top1", -1):
            state.best = {"knn/top1": line["knn/top1"], "epoch": epoch}
    line["seconds"] = round(state.seconds, 2)
    state.losses.zero_()
    run.append_metrics(line)
    tracker.log(state.step, line)
    shown = "  ".join(f"{key} {value:.2f}" for key, value in line.items() if key.startswith("knn"))
    bar.line(f"epoch {epoch}/{cfg['epochs']}  loss {line['train/loss']:.4f}  {shown}")
