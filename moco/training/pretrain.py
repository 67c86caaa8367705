"""What an entry point or a queued job does with a checked configuration: build everything, train or probe, write the result."""

import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moco.config.schema import build, named
from moco.errors import UserError
from moco.io import write_atomic
from moco.runs.lease import Stopped
from moco.runs.run import LABELS, Run, folder_name
from moco.tracking.wandb_mirror import open_tracker
from moco.training.components import Parts, check_sizes, knn_evaluation, load_encoder
from moco.training.progress import SHOW_EVERY, Progress


def train(cfg: dict[str, Any], run: Run | None = None, **details: Any) -> float:
    """Trains the run that `cfg` describes, or goes on with it, or says that it is done; returns its kNN top-1.

    Args:
        cfg: as moco.config.check returns it.
        run: where to, if not the folder that follows from cfg.
        details: kept in the claim (job, device, sweep).

    Raises:
        UserError: what the user can mend; nothing has been written then, or nothing lost.
        Stopped: a signal came; the checkpoint is saved.
    """
    cfg = named(cfg)
    run = run or Run(Path(cfg["runs_dir"]) / folder_name(cfg))
    result = run.result
    if result and not cfg["rerun"] and not run.order("knn").exists():
        print(f"{run.folder} is done: {summary(result)} (rerun=true starts over)")
        if os.environ.get("WANDB_SWEEP_ID"):  # the agent that has drawn this point waits for its metrics
            with open_tracker(cfg["tracker"], run, cfg, "train", details) as tracker:
                tracker.catch_up(run.metrics())
    else:
        result = _train(cfg, run, details)
        print(f"{run.folder} is done: {summary(result)}")
    if cfg["linear_eval"] and f"{LABELS[cfg['probe']['name']]}/top1" not in result:
        section = {key: cfg[key] for key in ("probe", "tracker", "device", "seed")}
        result = linear_eval(run, **section, **details)
    return result["knn/top1"]


def summary(result: Mapping[str, Any]) -> str:
    """The result's accuracies in one line."""
    names = {"knn": "kNN", "linear": "linear", "linear_cached": "linear on cached features"}
    shown = [
        f"{label} {result[f'{key}/top1']:.2f} / {result[f'{key}/top5']:.2f}"
        for key, label in names.items()
        if f"{key}/top1" in result
    ]
    return ", ".join(shown) + " (top-1 / top-5, %)"


def _train(cfg: dict[str, Any], run: Run, details: Mapping[str, Any]) -> dict[str, Any]:
    """Builds, trains, evaluates and writes result.json; nothing is written before all has been built."""
    from moco.training.trainer import Signals, fit

    with Signals() as signals:
        parts = Parts(cfg, cfg["device"])
        check_sizes(cfg, parts.data)
        method, optimizer, factor = _trainable(cfg, parts)
        views = parts.views()
        views(parts.data.train_images[:2])  # a view that cannot be made is found before anything is written
        with run.claim(what="train", device=str(parts.device), **details) as claim:
            if cfg["rerun"] or run.order("knn").exists():
                run.clear(*["job.json"] * bool(details.get("job")))
            elif done := run.result:  # by another process, while this one was building
                return done
            _write_config(cfg, run, parts)
            with open_tracker(cfg["tracker"], run, cfg, "train", details) as tracker:
                evaluate = knn_evaluation(cfg, parts, method, views)
                state = fit(
                    cfg,
                    run,
                    claim,
                    parts.data.train_images,
                    method,
                    optimizer,
                    factor,
                    views,
                    evaluate,
                    parts.autocast,
                    tracker,
                    signals,
                )
                result = _result(cfg, run, parts, method, state)
                run.write_result(result)
                return result


def _trainable(cfg: Mapping[str, Any], parts: Parts) -> tuple[Any, Any, Any]:
    """The method on its device, its optimizer and its schedule, weights drawn by the seed."""
    import torch

    from moco.optim import lars as optim

    per_epoch = len(parts.data.train_images) // cfg["batch_size"]
    torch.manual_seed(cfg["seed"])
    method = build(
        cfg["method"],
        encoder=parts.encoder,
        num_images=len(parts.data.train_images),
        steps=cfg["epochs"] * per_epoch,
    ).to(parts.device)
    if cfg["compile"]:
        for name, part in method.named_children():
            if name.endswith("encoder"):  # the key encoder too
                part.compile()
    section = dict(cfg["optimizer"])
    if section["scale_lr"]:
        section["lr"] = optim.scaled_lr(section["lr"], cfg["batch_size"])
    live: dict[str, Any] = {"params": [p for p in method.parameters() if p.requires_grad]}
    if parts.device.type == "cuda" and "fused" not in section:
        live["fused"] = True  # one kernel for all parameters, where the optimizer has one
    optimizer = build(section, **live)
    return method, optimizer, build(cfg["schedule"], epochs=cfg["epochs"], steps_per_epoch=per_epoch)


def _write_config(cfg: Mapping[str, Any], run: Run, parts: Parts) -> None:
    """config.yaml and provenance.json with git.diff, for the attempt that begins."""
    from moco.runs import provenance

    run.write_config(cfg)
    commit, diff = provenance.git_state()
    attempts = (
        json.loads((run.folder / "provenance.json").read_text()) if (run.folder / "provenance.json").exists() else []
    )
    attempts.append({"started": _now(), "commit": commit, "dirty": bool(diff), **provenance.collect(parts.device)})
    attempts[-1]["precision"] = "bf16" if parts.bf16 else "fp32"
    write_atomic(run.folder / "provenance.json", json.dumps(attempts, indent=1) + "\n")
    if diff:
        write_atomic(run.folder / "git.diff", diff)
    (run.folder / "error.txt").unlink(missing_ok=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _result(cfg: Mapping[str, Any], run: Run, parts: Parts, method: Any, state: Any) -> dict[str, Any]:
    """The last epoch is what counts; the best is kept beside it."""
    import torch

    from moco.evaluation.knn import count

    last = run.metrics()[-1]
    side = parts.data.train_images.shape[-1]
    backbone = count(method.encoder, side)
    whole = count(torch.nn.Sequential(method.encoder, method.head), side)
    return {
        **{key: value for key, value in last.items() if "/" in key},
        "best": state.best,
        "epochs": cfg["epochs"],
        "steps": state.step,
        "params": whole[0],
        "multiply_adds": whole[1],
        "params_backbone": backbone[0],
        "multiply_adds_backbone": backbone[1],
        "train_images": len(parts.data.train_images),
        "test_images": len(parts.data.test_images),
        "evaluated_on": "validation" if cfg["data"]["validation"] else "test",
        "seconds": round(last["seconds"], 1),
        "finished": _now(),
    }


def linear_eval(
    run: Run,
    probe: Mapping[str, Any],
    tracker: Mapping[str, Any],
    *,
    device: str = "auto",
    seed: int = 0,
    rerun: bool = False,
    **details: Any,
) -> dict[str, Any]:
    """Linear evaluation of a finished run; its numbers join result.json, metrics.jsonl and the same wandb run.

    Raises:
        UserError: the run is not done, or its checkpoint is unusable.
    """
    label, cfg, result = LABELS[probe["name"]], run.config, run.result
    if result is None:
        raise UserError(f"{run.folder} is {run.state()}, not done: train it to its end first")
    rerun = rerun or run.order(label).exists()
    if f"{label}/top1" in result and not rerun:
        print(f"{run.folder} has its linear evaluation ({probe['name']}): {summary(result)} (rerun=true repeats it)")
        return result
    from moco.training.trainer import Signals

    with Signals() as signals:
        parts = Parts(cfg, device)
        load_encoder(run, parts.encoder).to(parts.device)
        with run.claim(what="linear_eval", device=str(parts.device), **details) as claim:
            result = run.result or result  # another process may have added to it meanwhile
            if rerun:
                _forget(run, result, label, probe["name"])
            elif f"{label}/top1" in result:
                return result
            with open_tracker(tracker, run, cfg, "linear_eval", details) as mirror:
                mirror.catch_up(run.metrics())
                top1, top5 = _probe(run, parts, {**probe, "seed": seed}, claim, signals)
                metrics = {f"{label}/top1": top1, f"{label}/top5": top5}
                line = {"epoch": result["epochs"], "step": result["steps"], **metrics}
                run.append_metrics(line)
                mirror.log(line["step"], line)
                parameters = (int(parts.encoder.num_features) + 1) * len(parts.data.classes)
                described = {**probe, "seed": seed, "params_classifier": parameters, "finished": _now()}
                result.setdefault("probes", {})[probe["name"]] = described
                result |= metrics
                run.write_result(result)
    print(f"{run.folder}: {summary(result)}")
    return result


def _forget(run: Run, result: dict[str, Any], label: str, protocol: str) -> None:
    """Takes an earlier linear evaluation out, finished or not; the order to begin again is obeyed with that."""
    (run.folder / f"probe_{protocol}.pt").unlink(missing_ok=True)
    for key in (f"{label}/top1", f"{label}/top5"):
        result.pop(key, None)
    result.get("probes", {}).pop(protocol, None)
    run.write_result(result)
    run.order(label).unlink(missing_ok=True)


def _probe(run: Run, parts: Parts, probe: Mapping[str, Any], claim: Any, signals: Any) -> Any:
    """Test top-1 and top-5 of a linear classifier on the frozen backbone in eval mode, from its checkpoint on."""
    from moco.evaluation import knn as evaluation
    from moco.training.trainer import load_checkpoint, save_atomic

    path = run.folder / f"probe_{probe['name']}.pt"
    saved = load_checkpoint(path) if path.exists() else {}
    start = saved["fitting"] if saved.get("probe") == probe else None
    data, (images, labels) = parts.data, parts.data.labelled()
    steps = probe["epochs"] * -(-len(labels) // probe["batch_size"])
    shown = kept = time.monotonic()

    def on_step(fitting: Any) -> None:
        nonlocal shown, kept
        now = time.monotonic()
        if now - shown >= SHOW_EVERY:
            shown = now
            numbers = {"epoch": (fitting.step - 1) // fitting.per_epoch + 1, "loss": float(fitting.loss)}
            bar.update(fitting.step, **numbers)
            claim.progress(step=fitting.step, steps=steps, left=bar.left(fitting.step), **numbers)
        if signals.save or now - kept >= 60 * parts.cfg["checkpoint_minutes"]:
            kept, signals.save = now, False
            save_atomic({"probe": dict(probe), "fitting": fitting.state()}, path)
        if signals.received:
            raise Stopped(signals.received)

    def encode(x: Any) -> Any:
        with parts.autocast():
            return parts.encoder(x)

    settings = {key: probe[key] for key in ("epochs", "batch_size", "lr", "weight_decay", "seed")}
    shared: dict[str, Any] = dict(num_classes=len(data.classes), on_step=on_step, start=start, **settings)
    clean = parts.views().clean
    with evaluation.eval_mode(parts.encoder):
        if cached := probe["name"] == "cached":
            print("features of all images, then the classifier", file=sys.stderr, flush=True)
            (train,), (test,) = (evaluation.features(encode, x, clean) for x in (images, data.test_images))
        bar = Progress("linear evaluation", steps, start["step"] if start else 0)
        if cached:
            accuracy = evaluation.linear_probe_cached(train, labels, test, data.test_labels, **shared)
        else:
            accuracy = evaluation.linear_probe_augmented(
                encode,
                parts.probe_views(),
                clean,
                images,
                labels,
                data.test_images,
                data.test_labels,
                num_features=parts.encoder.num_features,
                **shared,
            )
    bar.close()
    path.unlink(missing_ok=True)
    return accuracy


def run_or_exit(job: Callable[[], Any]) -> Any:
    """Runs the job; what the user can mend becomes one line a problem on stderr and exit code 1."""
    try:
        return job()
    except (UserError, ValueError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
