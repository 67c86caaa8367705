"""Trains published recipes to their end in pieces of some minutes, and says how good they are at which second.

    python benchmarks/record.py                                 # again and again, until it exits with 0
    python benchmarks/record.py --recipe simclr_cifar --target 90 data.root=/data compile=true

First simclr_cifar (ResNet-18, kNN with k 10), then simclr_leftthomas with its linear evaluation (ResNet-50). A piece trains for
--minutes at most and ends with a checkpoint; the next one goes on from there, a run being a folder under --runs-dir.
Further words are those of train.py. Prints JSON: `seconds` are those of training and kNN over all pieces, starts of the
process apart. Exits with 75 where something is left to train, with 1 where train.py failed.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from moco.config.check import check, typed_keys
from moco.config.compose import composed
from moco.config.places import CODE
from moco.config.schema import Config
from moco.protocols import KNN, LINEAR, LINEAR_CACHED
from moco.runs.identity import folder_name
from moco.runs.lease import EXIT_STOPPED
from moco.runs.run import Run

STAGES = {"simclr_cifar": ["eval_every=5"], "simclr_leftthomas": ["eval_every=5", "linear_eval=true"]}
TINY = [
    "data=digits",
    "data.size=8",
    "model=small",
    "model.widths=[8,16]",
    "batch_size=64",
    "k=5",
    "epochs=2",
    "eval_every=1",
    "device=cpu",
    "probe=cached",
    "probe.epochs=2",
]


def train(words: list[str], run: Run, seconds: float) -> tuple[int, float]:
    """Runs train.py for so long after it took hold of the run; its exit code, and the seconds that are left."""
    command = [sys.executable, str(CODE / "train.py"), *words]
    process = subprocess.Popen(command, stdout=sys.stderr)  # stdout is for the JSON alone
    began, told = time.monotonic(), False
    try:
        while process.poll() is None:
            holder = run.holder()
            if not holder or holder.pid != process.pid:
                began = time.monotonic()  # before it holds the run, a signal would end it without a checkpoint
            elif not told and time.monotonic() - began >= seconds:
                told = True
                process.terminate()
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return process.returncode, seconds - (time.monotonic() - began)


def describe(config: Config, run: Run, target: float) -> dict[str, Any]:
    """How far the run is and how good, beside what its source reports."""
    lines: list[Any] = run.metrics()
    result, published = run.result or {}, config.recipe
    assert published
    trained = [line for line in lines if "train/loss" in line]
    scored = [line for line in trained if KNN.top1 in line]
    last = trained[-1] if trained else {"epoch": 0, "step": 0, "seconds": 0.0}
    reached = next((line for line in scored if line[KNN.top1] >= target), None)
    attempts = run.folder / "provenance.json"
    return {
        "recipe": published.name,
        "run": run.folder.name,
        "state": run.state(),
        "epoch": last["epoch"],
        "epochs": config.epochs,
        "seconds": last["seconds"],
        "images/s": round(last["step"] * config.batch_size / last["seconds"], 1) if last["seconds"] else None,
        "kNN top-1": {line["epoch"]: round(line[KNN.top1], 2) for line in scored},
        "target": target,
        "reached": reached and {key: reached[key] for key in ("epoch", "seconds", KNN.top1)},
        "linear top-1": result.get(LINEAR.top1, result.get(LINEAR_CACHED.top1)),
        "published": {"source": published.source, "knn": published.knn, "linear": published.linear},
        "cards": [attempt["card"] for attempt in json.loads(attempts.read_text())] if attempts.exists() else [],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="of training in this call")
    parser.add_argument("--runs-dir", default="runs", help="where runs' folders lie")
    parser.add_argument("--recipe", choices=STAGES, action="append", help="this one alone; may be repeated")
    parser.add_argument("--target", type=float, default=90, help="kNN top-1 in percent to watch for")
    parser.add_argument("--tiny", action="store_true", help="small networks on digits, on the CPU")
    parser.add_argument("words", nargs="*", help="as for train.py")
    args = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STOPPED))  # ends the training as well, see train()
    left, code, stages = 60 * args.minutes, 0, []
    for recipe in args.recipe or STAGES:
        words = [f"recipe={recipe}", "tracker=none", f"runs_dir='{Path(args.runs_dir).absolute()}'", *STAGES[recipe]]
        words += TINY * args.tiny + args.words
        config = check(composed(words), typed_keys(words))
        run = Run(Path(config.runs_dir) / folder_name(config))
        if code == 0:  # also where the run is done: its linear evaluation may not be
            code, left = train(words, run, left)
        stages.append(describe(config, run, args.target))
    print(json.dumps({"done": code == 0, "minutes": args.minutes, "stages": stages}, indent=1))
    return code if code in (0, EXIT_STOPPED) else 1


if __name__ == "__main__":
    sys.exit(main())
