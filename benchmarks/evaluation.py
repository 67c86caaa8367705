"""Evaluation: kNN against the bare forward passes, and the two protocols of linear evaluation against each other.

    python benchmarks/evaluation.py [RUN] [--epochs 10]

RUN is the folder of a finished run with its data and checkpoint; without one, recipe=quickstart is trained on digits first.

kNN: moco.building.knn_evaluation, features of backbone and head of all images and both votes, against the backbone's forward
passes over as many images, there already as float. The memory is that of 1,000 queries against a million rows of 512, beyond
the rows themselves.
Linear: 100 epochs on cached features, the features' passes included, against the augmented protocol, of which --epochs are
run and the time of 100 is in proportion; top-1 of both, and of scikit-learn's logistic regression on the same features.

Each part is announced as it begins. Prints JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
EPOCHS, ROWS, DIMENSIONS = 100, 1_000_000, 512


def quickstart(folder: str) -> Path:
    """A run to evaluate."""
    command = [sys.executable, str(ROOT / "train.py"), "recipe=quickstart", "tracker=none"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    [result] = Path(folder).glob("runs/*/result.json")
    return result.parent


def point(parts: Any) -> str:
    """What the ratios depend on, for their names."""
    return " ".join([parts.cfg["model"]["name"], parts.cfg["data"]["name"], "bf16" if parts.bf16 else "fp32"])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returns."""
    started = time.monotonic()
    value = call()
    return time.monotonic() - started, value


def knn(parts: Any, method: Any) -> dict[str, Any]:
    """Seconds of the evaluation and of the passes, in turns."""
    from moco.evaluation import knn as evaluation
    from moco.training.components import knn_evaluation

    views = parts.views()
    images = torch.cat([parts.data.labelled()[0], parts.data.test_images])
    ready = views.clean(images[:500])
    evaluate = knn_evaluation(parts.cfg, parts, method, views)

    @torch.no_grad()
    def passes() -> None:
        for start in range(0, len(images), 500):
            with parts.autocast():
                method.encoder(ready[: len(images) - start])

    with evaluation.eval_mode(method):
        passes()
        say(f"kNN of {len(images)} images against their forward passes, three times")
        pairs = [(timed(evaluate)[0], timed(passes)[0]) for _ in range(3)]
    whole, bare = (min(column) for column in zip(*pairs))
    seconds = {"kNN": round(whole, 2), "passes": round(bare, 2)}
    return {
        "images": len(images),
        "seconds": seconds,
        "times as fast": {f"kNN as passes, {point(parts)}": round(bare / whole, 3)},
    }


def memory() -> float:
    """MB that kNN takes at a million rows, in a process of its own."""
    from moco.evaluation import knn

    bank = torch.randn(ROWS, DIMENSIONS)
    labels = torch.randint(10, (ROWS,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    knn(bank, labels, bank[:1000], labels[:1000], k=200, temperature=0.1, num_classes=10)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def sklearn_top1(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Top-1 in percent of scikit-learn's logistic regression, features standardised, hardly any decay, as the probes have."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.numpy())
    fitted = LogisticRegression(C=1.0, max_iter=300, tol=1e-3).fit(
        scaler.transform(train.numpy()), train_labels.numpy()
    )
    return 100 * float(fitted.score(scaler.transform(test.numpy()), test_labels.numpy()))


def linear(parts: Any, epochs: int) -> dict[str, Any]:
    """Seconds and top-1 of each way."""
    from moco.evaluation import knn as evaluation

    encoder, data = parts.encoder, parts.data
    images, labels = data.labelled()
    clean = parts.views().clean
    views = parts.probe_views()
    settings: dict[str, Any] = dict(num_classes=len(data.classes), batch_size=512, lr=1e-3, weight_decay=1e-6, seed=0)

    def encode(x: Tensor) -> Tensor:
        with parts.autocast():
            return encoder(x)

    def cached() -> Any:
        train, test = (evaluation.features(encode, x, clean)[0] for x in (images, data.test_images))
        scores = evaluation.linear_probe_cached(train, labels, test, data.test_labels, epochs=EPOCHS, **settings)
        return scores[0], train, test

    def on_step(fitting: Any) -> None:
        if fitting.step % fitting.per_epoch == 0:
            say(f"  epoch {fitting.step // fitting.per_epoch}/{epochs} loss {fitting.loss:.3f}")

    def augmented() -> float:
        return evaluation.linear_probe_augmented(
            encode,
            views,
            clean,
            images,
            labels,
            data.test_images,
            data.test_labels,
            epochs=epochs,
            num_features=encoder.num_features,
            on_step=on_step,
            **settings,
        )[0]

    with evaluation.eval_mode(encoder):
        say("linear evaluation on cached features")
        fast, (top1, train, test) = timed(cached)
        say("linear evaluation on augmented images")
        slow, slow_top1 = timed(augmented)
    say("scikit-learn's logistic regression")
    theirs = sklearn_top1(train, labels, test, data.test_labels)
    whole = slow * EPOCHS / epochs
    return {
        "top-1": {"cached": top1, f"augmented, {epochs} epochs": slow_top1, "scikit-learn": theirs},
        "seconds": {"cached": round(fast, 1), "augmented": round(whole, 1)},
        "times as fast": {f"cached as augmented, {point(parts)}": round(whole / fast, 1)},
    }


def main() -> None:
    from moco.runs.run import Run
    from moco.training import pretrain as jobs
    from moco.training.components import Parts
    from moco.training.trainer import load_checkpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--memory", action="store_true", help="print the MB at a million rows alone")
    words = parser.parse_args()
    if words.memory:
        print(memory())
        return
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(words.run or quickstart(folder))
        cfg = run.config
        parts = Parts(cfg, "cpu")
        method = jobs._trainable(cfg, parts)[0]
        method.load_state_dict(load_checkpoint(run.checkpoint)["method"])
        measured = {"run": run.folder.name, "kNN": knn(parts, method), "linear": linear(parts, words.epochs)}
    megabytes = subprocess.run(
        [sys.executable, __file__, "--memory"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    measured["kNN"]["MB at a million rows"] = round(float(megabytes))
    print(json.dumps({**measured, "cores": os.cpu_count(), "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
