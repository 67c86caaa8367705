"""Evaluation: kNN against the bare forward passes, and the two protocols of linear evaluation against each other.

    python benchmarks/evaluation.py [RUN] [--epochs 10]

RUN is the folder of a finished run with its data and checkpoint; without one, recipe=quickstart is trained on digits first.

kNN: moco.training.evaluation, features of backbone and head of all images, both votes and what is measured without labels,
against the backbone's forward passes over as many images, which are there as floats already. The memory is that of 1,000
queries against a million rows of 512, in addition to the rows themselves.
Linear: 100 epochs on cached features, including the passes that compute them, against the augmented protocol, of which --epochs
are run and the time of 100 is extrapolated; top-1 of both, and of scikit-learn's logistic regression on the same features. On
these also the grid of probe=grid, against one fit.

Each part is announced as it begins. Prints JSON.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from moco.evaluation.features import Labelled
    from moco.training.components import Components

EPOCHS, ROWS, DIMENSIONS = 100, 1_000_000, 512


def quickstart(folder: str) -> Path:
    """A run to evaluate."""
    command = [sys.executable, str(ROOT / "train.py"), "recipe=quickstart", "tracker=none"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    [result] = Path(folder).glob("runs/*/result.json")
    return result.parent


def point(parts: "Components") -> str:
    """What the ratios depend on, for their names."""
    return " ".join([parts.config.model.name, str(parts.config.data.name), "bf16" if parts.bf16 else "fp32"])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returns."""
    started = time.monotonic()
    value = call()
    return time.monotonic() - started, value


def knn(parts: "Components", method: Any) -> dict[str, Any]:
    """Seconds of the evaluation and of the passes, in turns."""
    from moco.models.modes import eval_mode
    from moco.training.evaluation import evaluation

    views = parts.views()
    images = torch.cat([parts.data.labelled()[0], parts.data.test_images])
    ready = views.clean(images[:500])
    evaluate = evaluation(parts, method, views)

    @torch.no_grad()
    def passes() -> None:
        for start in range(0, len(images), 500):
            with parts.autocast():
                method.encoder(ready[: len(images) - start])

    with eval_mode(method):
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
    from moco.evaluation.features import Labelled
    from moco.evaluation.knn import knn

    bank = Labelled(torch.randn(ROWS, DIMENSIONS), torch.randint(10, (ROWS,)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    knn(bank, Labelled(bank.x[:1000], bank.labels[:1000]), k=200, temperature=0.1, num_classes=10)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def sklearn_top1(train: "Labelled", test: "Labelled") -> float:
    """Top-1 in percent of scikit-learn's logistic regression, features standardised and hardly any decay, as in the probes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.x.numpy())
    fitted = LogisticRegression(C=1.0, max_iter=300, tol=1e-3).fit(
        scaler.transform(train.x.numpy()), train.labels.numpy()
    )
    return 100 * float(fitted.score(scaler.transform(test.x.numpy()), test.labels.numpy()))


def linear(parts: "Components", epochs: int) -> dict[str, Any]:
    """Seconds and top-1 of each way."""
    from moco.config.check import check
    from moco.config.compose import composed
    from moco.evaluation.features import Labelled, features
    from moco.evaluation.fitting import Fitting, ProbeSettings
    from moco.evaluation.linear_probe import linear_probe_augmented, linear_probe_cached
    from moco.evaluation.probe_grid import linear_probe_grid
    from moco.models.modes import eval_mode
    from moco.training.classifiers import grid_of

    data, encode, clean = parts.data, parts.encode, parts.views().clean
    images = Labelled(*data.labelled()), Labelled(data.test_images, data.test_labels)
    views = parts.probe_views()
    settings = ProbeSettings(
        num_classes=len(data.classes), epochs=EPOCHS, batch_size=512, lr=1e-3, weight_decay=1e-6, seed=0
    )

    def cached() -> tuple[float, list[Labelled]]:
        pairs = [Labelled(features(encode, x, clean)[0], labels) for x, labels in images]
        return linear_probe_cached(*pairs, settings).top1, pairs

    def on_step(fitting: Fitting) -> None:
        if fitting.step % fitting.per_epoch == 0:
            say(f"  epoch {fitting.step // fitting.per_epoch}/{epochs} loss {fitting.loss:.3f}")

    def augmented() -> float:
        some = dataclasses.replace(settings, epochs=epochs)
        return linear_probe_augmented(encode, views, clean, *images, some, on_step=on_step).top1

    with eval_mode(parts.encoder):
        say("linear evaluation on cached features")
        fast, (top1, pairs) = timed(cached)
        say("linear evaluation on augmented images")
        slow, slow_top1 = timed(augmented)
    say("scikit-learn's logistic regression")
    theirs = sklearn_top1(*pairs)
    say("the grid on the same features")
    one, _ = timed(lambda: linear_probe_cached(*pairs, settings))
    grid = grid_of(check(composed(["probe=grid"])).probe)
    many, (chosen_top1, chosen) = timed(lambda: linear_probe_grid(*pairs, settings, grid))
    whole = slow * EPOCHS / epochs
    return {
        "top-1": {
            "cached": top1,
            f"augmented, {epochs} epochs": slow_top1,
            "scikit-learn": theirs,
            f"grid, {chosen.lr:g} and {chosen.weight_decay:g} chosen": chosen_top1.top1,
        },
        "seconds": {
            "cached": round(fast, 1),
            "augmented": round(whole, 1),
            "one fit": round(one, 1),
            f"grid of {len(grid.points())} and a fit": round(many, 1),
        },
        "times as fast": {f"cached as augmented, {point(parts)}": round(whole / fast, 1)},
    }


def main() -> None:
    from moco.runs.run import Run
    from moco.training.checkpoint import load_checkpoint
    from moco.training.components import Components
    from moco.training.pretrain import trainable

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
        parts = Components(run.config, "cpu")
        method = trainable(parts)[0]
        method.load_state_dict(load_checkpoint(run.checkpoint)["method"])
        measured = {"run": run.folder.name, "kNN": knn(parts, method), "linear": linear(parts, words.epochs)}
    megabytes = subprocess.run(
        [sys.executable, __file__, "--memory"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    measured["kNN"]["MB at a million rows"] = round(float(megabytes))
    print(json.dumps({**measured, "cores": os.cpu_count(), "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
