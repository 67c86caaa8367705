"""What `train.py` or a queued job does with a checked configuration: build, train, score, write the result."""

import contextlib
import datetime
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moco.config.schema import Config, LinearEval, Tracking
from moco.errors import UserError
from moco.io import Json
from moco.protocols import GUESSED, KNN, Protocol, found_in
from moco.runs.identity import folder_name
from moco.runs.lease import BY_HAND, Lease, Place
from moco.runs.run import Run
from moco.runs.settings import other_settings
from moco.tracking.tracker import Tracker, open_tracker
from moco.training.distributed import Bystander, agreed, first, in_words, joined, say, several, told
from moco.training.same_data import check_files, check_images, keep

if TYPE_CHECKING:
    import torch

    from moco.optim.schedules import Schedule
    from moco.training.components import Components
    from moco.training.signals import Signals
    from moco.training.trainer import Method, Rungs, Trainer


def train(
    config: Config,
    run: Run | None = None,
    place: Place = BY_HAND,
    evaluations: Sequence[LinearEval] | None = None,
    rungs: "Rungs | None" = None,
) -> float:
    """Trains the run that `config` describes, or goes on with it, or says that it is done; returns its kNN top-1 in percent.

    NaN where no image has a label.

    Args:
        run: where to, if not the folder that follows from config.
        place: where this attempt runs, as its launcher knows it.
        evaluations: linear evaluations to do afterwards; None: what config asks for.
        rungs: where it may be paused.

    Raises:
        UserError: what the user can mend; nothing has been written then, or nothing lost.
        Stopped: a signal came, or it was paused at a rung; the checkpoint is saved.
    """
    run = run or Run(Path(config.runs_dir) / folder_name(config))
    with joined(config.device):
        return _trained(config, run, place, evaluations, rungs)


def _trained(
    config: Config, run: Run, place: Place, evaluations: Sequence[LinearEval] | None, rungs: "Rungs | None"
) -> float:
    """What `train` does, on each of the run's ranks."""
    with agreed():
        look(run, config.device)
    if evaluations is None:
        evaluations = [config.evaluation()] if config.linear_eval else []
    result = told(run.result)
    if result and not told(config.rerun or run.ordered(KNN.prefix, place.launch)):
        with agreed():
            check_files(run, config)
        print(f"{run.folder} is done: {summary(result)} (rerun=true starts over)")
        if os.environ.get("WANDB_SWEEP_ID") and first():  # the agent that has drawn this point waits for its metrics
            with open_tracker(config.tracker, run, config, "train", place) as tracker:
                tracker.catch_up(run.metrics())
    else:
        result = _train(config, run, place, rungs, more=bool(evaluations))
        print(f"{run.folder} is done: {summary(result)}")
        if result.get("at_chance"):
            print(
                f"warning: kNN top-1 of {number(result, KNN.top1):.2f} {GUESSED}, so the features have "
                "probably collapsed: try a lower optimizer.lr, or other settings of the method",
                file=sys.stderr,
                flush=True,
            )
    for i, asked in enumerate(evaluations, 1):
        protocol, there = asked.protocol, told(run.result) or {}
        if told(protocol.top1 not in there or run.ordered(protocol.prefix, place.launch)):
            from moco.training.linear_eval import linear_eval

            linear_eval(run, asked, place, more=i < len(evaluations))
        elif different := other_settings(there, asked):
            say(
                f"its linear evaluation ({protocol.record}) was done with {different}: "
                f"python linear_eval.py run={run.id} rerun=true, with the probe's settings, repeats it"
            )
    return number(result, KNN.top1) if scored(result, KNN) else math.nan


def look(run: Run, device: str) -> None:
    """Refuses a damaged folder, and a device that is not here, even where nothing is left to do.

    Raises:
        UserError: one of the two.
    """
    run.inspect()
    if device not in ("auto", "cpu"):
        from moco.training.device import choose_device

        choose_device(device)


def scored(result: Mapping[str, Json], protocol: Protocol) -> bool:
    """Whether the result has the protocol's numbers: that of data without labels has null for kNN."""
    return result.get(protocol.top1) is not None


def summary(result: Mapping[str, Json]) -> str:
    """The result's accuracies in one line."""
    shown = [_shown(result, protocol) for protocol in found_in(result) if scored(result, protocol)]
    return ", ".join(shown) + " (top-1 / top-5, %)" if shown else "not evaluated, as its data has no labels"


def _shown(result: Mapping[str, Json], protocol: Protocol) -> str:
    """The accuracies by one protocol, with the spread over draws and the settings that were chosen where there are any."""
    spread = f" ± {number(result, protocol.spread):.2f}" if protocol.spread in result else ""
    found = result.get("probes")
    used = found.get(protocol.record) if isinstance(found, dict) else None
    chosen = used.get("chosen") if isinstance(used, dict) else None
    settings = [f"{key}={chosen[key]:g}" for key in ("lr", "weight_decay")] if isinstance(chosen, dict) else []
    said = f" with {' '.join(settings)}" if settings else ""
    top1, top5 = (number(result, protocol.metric(k)) for k in (1, 5))
    return f"{protocol.label} {top1:.2f}{spread} / {top5:.2f}{said}"


def number(content: Mapping[str, Json], key: str) -> float:
    """A number of a result or of a line of metrics."""
    value = content[key]
    assert isinstance(value, int | float)
    return value


def now() -> str:
    """The time in UTC, for files."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _train(config: Config, run: Run, place: Place, rungs: "Rungs | None", more: bool) -> dict[str, Json]:
    """Builds, trains, evaluates and writes result.json; nothing is written before all has been built.

    Args:
        more: whether something follows, which a signal that has come by the end is to stop.
    """
    from moco.runs import provenance
    from moco.tracking.environment import check_environment
    from moco.training.components import Components, two_images
    from moco.training.evaluation import evaluation
    from moco.training.signals import Signals
    from moco.training.trial import try_method

    with Signals(config.rerun) as signals:
        with signals.preparing(), agreed():
            check_environment(config.tracker)
            refuse_ranks(config)
            parts = Components(config, config.device)
            parts.check_sizes(ranked=rungs is not None)
            again = config.rerun or run.ordered(KNN.prefix, place.launch)
            if run.checkpoint.exists() and not again:
                check_images(run, parts.data_described)
            method, optimizer, schedule = trainable(parts)
            views = parts.views()
            two = two_images(parts.data)
            described = try_method(method, config, parts.autocast(), views(two), views.clean(two))
        with holding(run, "train", parts.device, place, signals) as lease:
            if told(config.rerun or run.ordered(KNN.prefix, place.launch)):
                if first():
                    run.clear(*["job.json"] * bool(place.job))
            elif done := told(run.result):  # by another process, while this one was building
                return done
            if first():
                run.write_config(config)
                keep(run, parts.data_described)
                precision, before = "bf16" if parts.bf16 else "fp32", provenance.precision(run.folder)
                if run.checkpoint.exists() and before not in (None, precision):
                    say(f"{run.folder} was trained in {before} so far, and goes on in {precision}")
                provenance.record(run.folder, parts.device, precision)
                (run.folder / "error.txt").unlink(missing_ok=True)
            with tracking(config.tracker, run, config, "train", place) as tracker:
                evaluate = evaluation(parts, method, views, lambda: trainer.step == trainer.steps)
                trainer = trainer_of(parts, run, (method, optimizer, schedule), evaluate, tracker, rungs)
                trainer.fit(lease, signals)
                result = told(_result(parts, trainer, described) if first() else None)
                assert result is not None
                lease.check()
                if first():
                    run.write_result(result)
                if more:
                    signals.obey()
                return result


@contextlib.contextmanager
def holding(
    run: Run, what: str, device: "torch.device", place: Place, signals: "Signals"
) -> "Iterator[Lease | Bystander]":
    """The run's lease, which rank 0 holds for all."""
    if not first():
        yield Bystander()
        return
    with run.lease(what, str(device), place, lambda: signals.received) as lease, in_words():
        yield lease


def tracking(asked: Tracking, run: Run, config: Config, what: str, place: Place) -> Tracker:
    """The tracker of rank 0; the others keep nothing."""
    return open_tracker(asked, run, config, what, place) if first() else Tracker()


def refuse_ranks(config: Config) -> None:
    """Refuses settings that do not fit the number of processes.

    Raises:
        UserError: a line for each.
    """
    if several():
        from moco.config.ranks import problems
        from moco.ranks import ranks

        if found := problems(config, ranks()):
            raise UserError("\n".join(found))


def trainable(parts: "Components") -> "tuple[Method, torch.optim.Optimizer, Schedule]":
    """The method on its device, its optimizer and its schedule, weights drawn by the seed."""
    import torch

    from moco.config.components import instantiate
    from moco.models.pieces import take_in_pieces
    from moco.optim import scaled_lr
    from moco.ranks import ranks
    from moco.training.memory import allocating

    config, images = parts.config, len(parts.data.train_images)
    per_epoch = images // config.batch_size
    torch.manual_seed(config.seed)
    with allocating(f"method={config.method.name}"):
        method: torch.nn.Module = instantiate(
            config.method, encoder=parts.encoder, num_images=images, steps=config.epochs * per_epoch
        ).to(parts.device)
    encoders = [part for name, part in method.named_children() if name.endswith("encoder")]  # the key encoder too
    for encoder in encoders:
        if config.compile:
            encoder.compile()
        if config.micro_batch:
            group = config.batch_size // (config.method.splits or 1)
            take_in_pieces(encoder, config.micro_batch, batch=config.batch_size // ranks(), group=group)
    section = config.optimizer
    if section.scale_lr:
        section = section.model_copy(update={"lr": scaled_lr(section.lr, config.batch_size)})
    live: dict[str, object] = {"params": [p for p in method.parameters() if p.requires_grad]}
    if parts.device.type == "cuda" and "fused" not in section.model_fields_set:
        live["fused"] = True  # one kernel for all parameters, where the optimizer has one
    optimizer: torch.optim.Optimizer = instantiate(section, **live)
    schedule: Schedule = instantiate(config.schedule, epochs=config.epochs, steps_per_epoch=per_epoch)
    return method, optimizer, schedule  # type: ignore[return-value]  # a module with what Method asks for


def trainer_of(
    parts: "Components",
    run: Run,
    built: "tuple[Method, torch.optim.Optimizer, Schedule]",
    evaluate: Callable[[], dict[str, float]],
    tracker: Tracker,
    rungs: "Rungs | None" = None,
) -> "Trainer":
    """What trains the method that `trainable` has built, on the images and views of its parts."""
    from moco.training.trainer import Trainer

    method, optimizer, schedule = built
    return Trainer(
        parts.config,
        run,
        images=parts.data.train_images,
        device=parts.device,
        method=method,
        optimizer=optimizer,
        schedule=schedule,
        views=parts.drawn_views(),
        evaluate=evaluate,
        autocast=parts.autocast,
        tracker=tracker,
        rungs=rungs,
    )


def _result(parts: "Components", trainer: "Trainer", described: dict[str, Json]) -> dict[str, Json]:
    """The last epoch is what counts; the best is kept beside it.

    Raises:
        UserError: metrics.jsonl is gone.
    """
    from moco.evaluation.accuracy import at_chance

    # A linear evaluation has lines of its own, where result.json was there before and somebody has removed it.
    last = next((line for line in reversed(trainer.run.metrics()) if "train/loss" in line), None)
    if last is None:
        raise UserError(
            f"{trainer.run.folder / 'metrics.jsonl'} has no epoch, though the training is done: give rerun=true"
        )
    guessing = scored(last, KNN) and at_chance(number(last, KNN.top1), parts.data.test_labels)
    return {
        KNN.top1: None,
        **{key: value for key, value in last.items() if "/" in key},
        **({"at_chance": True} if guessing else {}),
        "best": {**trainer.best},
        "epochs": parts.config.epochs,
        "steps": trainer.step,
        **described,
        **of_images(parts),
        "seconds": round(number(last, "seconds"), 1),
        "finished": now(),
    }


def of_images(parts: "Components") -> dict[str, Json]:
    """What a result keeps of the images."""
    mean, std = parts.moments
    return {
        "mean": [*mean],
        "std": [*std],
        "train_images": len(parts.data.train_images),
        "test_images": len(parts.data.test_images),
        "evaluated_on": "validation" if parts.config.data.validation else "test",
    }
