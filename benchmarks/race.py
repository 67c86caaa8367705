"""Time to accuracy on this machine's CPU cores: recipe=cifar_cpu beside the libraries that people use instead.

    python benchmarks/race.py run --root <CIFAR-10 as an image folder> --venvs <folder> [--minutes 20] [NAME ...]
    python benchmarks/race.py draw

`run` needs each library in an environment of its own:

    for library in lightly stable-pretraining; do
      python -m venv <folder>/$library && <folder>/$library/bin/pip install torch torchvision $library
    done
    python3.9 -m venv <folder>/solo-learn
    <folder>/solo-learn/bin/pip install --no-deps -r benchmarks/racers/solo_learn.txt

One contestant after another has the machine, for so many minutes from the start of its process, with one seed. All have the
same network (that of the recipe, weights drawn anew), the same images (nine tenths of those for training) and the precision
that is faster here (solo-learn has fp32 only); all else is their own: data sets, views, loaders, losses, optimizers and
schedules, with the settings that are published for CIFAR-10, changed where benchmarks/racers/ says so. Those were found for
larger networks and longer trainings, while recipe=cifar_cpu was made for this one. The others' schedules end with the time:
their speed is measured first, with one process that loads images and with one per core, and the faster way is taken; these
minutes do not count. Snapshots of each backbone are scored afterwards by the same kNN (k 200, temperature 0.1) on the tenth of
the images that was held out, at 32 or at 40 pixels, whichever is better in the end. The test images are not touched.

`run` adds its numbers to race.json in --out (results/race), in place of those that its contestants had; `draw` makes the figure
and the table.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RACERS = Path(__file__).parent / "racers"
sys.path.insert(0, str(ROOT))


class Contestant(NamedTuple):
    """Another library's training.

    Attributes:
        library: whose environment it needs; None: this one.
        batch: images in a step.
        normalised: mean and deviation by which it normalises images, [R, G, B] each.
    """

    library: str | None
    batch: int
    normalised: tuple[list[float], list[float]]


CIFAR = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
CIFAR_WHOLE = (
    [0.4914, 0.4822, 0.4465],
    [0.2470, 0.2435, 0.2616],
)  # deviation over all pixels, not the mean over images
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OURS = "moco"
CONTESTANTS = {
    "plain": Contestant(None, 128, CIFAR),
    "lightly_simclr": Contestant("lightly", 128, IMAGENET),
    "lightly_moco": Contestant("lightly", 128, IMAGENET),
    "stable_pretraining_simclr": Contestant("stable-pretraining", 256, CIFAR_WHOLE),
    "solo_learn_simclr": Contestant("solo-learn", 256, CIFAR_WHOLE),
}
TITLES = {
    OURS: "moco (recipe=cifar_cpu)",
    "plain": "plain PyTorch, SimCLR",
    "lightly_simclr": "lightly, SimCLR",
    "lightly_moco": "lightly, MoCo",
    "stable_pretraining_simclr": "stable-pretraining, SimCLR",
    "solo_learn_simclr": "solo-learn, SimCLR",
}
MOMENTS = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1)  # of the time
# Of the time, from the first step on: between them the steps are counted that tell a contestant's speed.
PACE = (0.01, 0.035)
SIZES = (32, 40)  # pixels of the images that are scored


def held_out(root: Path, out: Path) -> None:
    """Links nine tenths of the training images into out/train/<class>/ and every tenth one into out/test/<class>/."""
    for folder in sorted((root / "train").iterdir()):
        for part in ("train", "test"):
            (out / part / folder.name).mkdir(parents=True)
        for i, image in enumerate(sorted(folder.iterdir())):
            (out / ("test" if i % 10 == 9 else "train") / folder.name / image.name).symlink_to(image.resolve())


def run_other(name: str, python: str, race: dict[str, Any], out: Path) -> list[Path]:
    """Trains a contestant in its own process; its snapshots.

    Raises:
        RuntimeError: it failed before the time was over; the message is the end of what it said.
    """
    out.mkdir(parents=True)
    environment = {**os.environ, "RACE": json.dumps({"began": time.time(), **race, "out": str(out)})}
    command, log = [python, str(RACERS / f"{name}.py")], out / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=out, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            process.wait(timeout=race["moments"][-1] + 300)
        except subprocess.TimeoutExpired:
            pass  # what it has learned by the end of the time is there
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    snapshots = sorted(out.glob("*.pt"))
    if not (out / "over").exists() or not snapshots:
        raise RuntimeError(last_line(log, process.returncode))
    return snapshots


def last_line(log: Path, code: int | None) -> str:
    """The end of what a process said; its exit code where it said nothing."""
    lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return lines[-1][:300]


def paced(name: str, python: str, race: dict[str, Any], out: Path) -> dict[str, int]:
    """How many steps the contestant trains in the time, and with how many workers that load images, by its speed in trials."""
    import torch

    time_over, found = race["moments"][-1], list[tuple[int, int]]()
    for workers in sorted({1, len(os.sched_getaffinity(0))}):
        moments = [share * time_over for share in PACE]
        trial = {**race, "began": None, "moments": moments, "steps": 1_000_000, "workers": workers}
        began = time.monotonic()
        paths = run_other(name, python, trial, out / str(workers))
        first, last = (torch.load(path, weights_only=True) for path in paths)
        start = time.monotonic() - began - last["seconds"]  # and the end, which is short
        speed = (last["steps"] - first["steps"]) / (last["seconds"] - first["seconds"])  # steps per second
        found.append((max(1, round((time_over - start) * speed)), workers))
        print(f"  {found[-1][0]} steps with {workers} workers", file=sys.stderr, flush=True)
    steps, workers = max(found)
    return {"steps": steps, "workers": workers}


def run_ours(words: list[str], moments: list[float], network: Any, out: Path) -> list[Path]:
    """Trains the recipe by train.py; the snapshots are its checkpoints, each with the time at which it was there."""
    import torch

    from moco.runs.run import Run
    from moco.training.checkpoint import load_checkpoint, load_weights

    out.mkdir(parents=True)
    command = [sys.executable, str(ROOT / "train.py"), *words, f"runs_dir={out}/runs", "checkpoint_minutes=0.2"]
    command.append(f"data.cache={out}/pack")  # decoding the images counts
    began, snapshots, last = time.time(), list[Path](), 0.0
    due = list(moments)
    with open(out / "log", "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            while True:
                code = process.poll()
                over = code is not None or time.time() - began >= moments[-1]
                for checkpoint in out.glob("runs/*/checkpoint.pt"):
                    at = checkpoint.stat().st_mtime - began
                    if at > last and due and (at >= due[0] or over) and at <= moments[-1]:
                        snapshots.append(out / f"{at:08.1f}.pt")
                        content = load_checkpoint(checkpoint)
                        weights = load_weights(Run(checkpoint.parent), content, network).state_dict()
                        torch.save({"seconds": at, "steps": content["step"], "backbone": weights}, snapshots[-1])
                        last, due = at, [moment for moment in due if moment > at]
                if over:
                    break
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    if code or not snapshots:
        raise RuntimeError(last_line(out / "log", code))
    return snapshots


def scores(
    snapshots: list[Path], data: Any, network: Any, moments: tuple[list[float], list[float]]
) -> list[dict[str, Any]]:
    """kNN top-1 in percent of each snapshot, by size of the images: the last one's at all SIZES, the others' at its best."""
    import torch

    from moco.augment import Augment
    from moco.evaluation.features import Labelled, features
    from moco.evaluation.knn import knn

    def score(content: dict[str, Any], sizes: tuple[int, ...]) -> dict[str, Any]:
        network.load_state_dict(content["backbone"])
        network.eval()
        top1 = {}
        for size in sizes:
            views = Augment(mean=moments[0], std=moments[1], eval_size=size)
            [bank] = features(network, data.train_images, views.clean)
            [queries] = features(network, data.test_images, views.clean)
            labelled = Labelled(bank, data.train_labels), Labelled(queries, data.test_labels)
            top1[str(size)] = round(knn(*labelled, k=200, temperature=0.1, num_classes=len(data.classes)).top1, 2)
        found = {"seconds": round(content["seconds"], 1), "steps": content["steps"], "knn": top1}
        print(f"  {found}", file=sys.stderr, flush=True)
        return found

    *before, last = (torch.load(path, weights_only=True) for path in snapshots)
    end = score(last, SIZES)
    return [*(score(content, (int(best_size(end)),)) for content in before), end]


def best_size(score: dict[str, Any]) -> str:
    """The size of images at which it is highest."""
    return max(score["knn"], key=score["knn"].get)


def versions(python: str, library: str | None = None) -> dict[str, str]:
    """Of the contestant's library and of torch."""
    names = [name for name in (library, "torch") if name]
    code = f"from importlib.metadata import version; print(*map(version, {names}))"
    out = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split()
    return dict(zip(names, out))


def trained_and_scored(
    name: str, words: argparse.Namespace, race: dict[str, Any], ours: list[str], work: Path
) -> dict[str, Any]:
    """What race.json says of a contestant.

    Args:
        race: what all contestants share, as benchmarks/racers/common.py has it.
        ours: words for train.py.
        work: folder that the contestant may fill.
    """
    from moco.config.check import check
    from moco.config.components import instantiate
    from moco.config.compose import composed
    from moco.data import load_image_folder

    config = check(composed(ours))
    data = load_image_folder(root=race["images"], size=None)
    entry: dict[str, Any] = {"date": datetime.date.today().isoformat()}
    try:
        if name == OURS:
            entry |= {"words": words.words, "versions": versions(sys.executable), "epochs": config.epochs}
            snapshots, normalised = run_ours(ours, race["moments"], instantiate(config.model), work), data.moments()
        else:
            library, batch, normalised = CONTESTANTS[name]
            python = str(Path(words.venvs).absolute() / library / "bin" / "python") if library else sys.executable
            entry["versions"] = versions(python, library)
            entry |= (pace := paced(name, python, race, work / "pace"))
            entry["epochs"] = round(pace["steps"] / (len(data.train_images) // batch), 1)
            snapshots = run_other(name, python, {**race, **pace}, work / "race")
        entry["scores"] = scores(snapshots, data, instantiate(config.model), normalised)
    except Exception as error:  # what stops one must not cost the others their time
        traceback.print_exc()
        entry["failed"] = str(error)
    return entry


def run(words: argparse.Namespace) -> None:
    import torch

    from moco.config.check import check
    from moco.config.compose import composed
    from moco.runs.provenance import processor
    from moco.training.device import choose_bf16

    moments, bf16 = [60 * words.minutes * share for share in MOMENTS], choose_bf16("auto", torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        images = Path(folder) / "images"
        held_out(Path(words.root), images)
        ours = ["recipe=cifar_cpu", f"data.root={images}", "tracker=none", "linear_eval=false", *words.words]
        config = check(composed(ours))
        ours.append(f"eval_every={config.epochs}")
        model = {key: value for key, value in config.model.arguments().items() if key != "_target_"}
        machine = f"{len(os.sched_getaffinity(0))} cores of {processor()}"
        content = earlier(Path(words.out), {"minutes": words.minutes, "machine": machine, "bf16": bf16, "model": model})
        race = {"images": str(images), "moments": moments, "model": model, "bf16": bf16}
        for name in words.names or [*CONTESTANTS, OURS]:
            print(name, file=sys.stderr, flush=True)
            work = Path(folder) / name
            content["contestants"][name] = trained_and_scored(name, words, race, ours, work)
            path = Path(words.out) / "race.json"
            path.with_suffix(".tmp").write_text(json.dumps(content, indent=2) + "\n")
            path.with_suffix(".tmp").replace(path)
            shutil.rmtree(work, ignore_errors=True)


def earlier(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What race.json has already, or its beginning.

    Raises:
        SystemExit: it has numbers of another machine, time or network.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "race.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"about": about, "contestants": {}}
    if content["about"] != about:
        sys.exit(f"error: {path} is of {content['about']}, this is {about}: give another --out, or remove that file")
    return content


def best(entry: dict[str, Any]) -> list[tuple[float, float]]:
    """(seconds, kNN top-1) of a contestant's snapshots, at the size at which its last one is best."""
    size = best_size(entry["scores"][-1])
    return [(score["seconds"], score["knn"][size]) for score in entry["scores"]]


def reached(course: list[tuple[float, float]], top1: float) -> float:
    """Seconds until a course first had that accuracy; infinite where it never had."""
    return next((seconds for seconds, score in course if score >= top1), math.inf)


def in_order(contestants: dict[str, Any]) -> dict[str, Any]:
    """In whatever order they have run: ours, then the others as TITLES has them."""
    return {name: contestants[name] for name in TITLES if name in contestants}


def table(contestants: dict[str, Any], minutes: float) -> str:
    """Markdown: the last accuracy of each, and when ours had it."""
    courses = {name: best(entry) for name, entry in contestants.items() if "scores" in entry}
    lines = [
        "| contestant | versions | epochs | after a tenth of the time | at the end | moco had that after | share of its time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in in_order(contestants).items():
        shown = ", ".join(f"{key} {value}" for key, value in entry.get("versions", {}).items())
        if name not in courses:
            lines.append(f"| {TITLES[name]} | {shown} | | | did not run: {entry['failed']} | | |")
            continue
        course = courses[name]
        tenth = [score for seconds, score in course if seconds <= 60 * minutes / 10 + 20]
        early = f"{tenth[-1]:.2f}" if tenth else ""
        ahead = ""
        if name != OURS and OURS in courses:
            seconds = reached(courses[OURS], course[-1][1])
            ahead = f"{seconds:.0f} s | {seconds / course[-1][0]:.2f}" if math.isfinite(seconds) else "never |"
        lines.append(
            f"| {TITLES[name]} | {shown} | {entry['epochs']} | {early} | {course[-1][1]:.2f} | {ahead or ' |'} |"
        )
    return "\n".join(lines)


def draw(out: Path) -> None:
    """Writes race.png, and prints the table; where there is a README.md, it has the table between its marks."""
    import matplotlib

    from moco.analysis.formats import rewrite_block

    matplotlib.use("Agg")
    from matplotlib import pyplot

    content = json.loads((out / "race.json").read_text())
    figure, axes = pyplot.subplots(figsize=(7, 4.8), layout="constrained")
    for name, entry in in_order(content["contestants"]).items():
        if "scores" in entry:
            seconds, top1 = zip(*best(entry))
            bold = {"linewidth": 2.5, "color": "black", "zorder": 3} if name == OURS else {"linewidth": 1.4}
            axes.plot([s / 60 for s in seconds], top1, marker=".", label=TITLES[name], **bold)
    axes.set(xlabel="minutes since the start of the process", ylabel="kNN top-1 (%) on held-out images")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)  # beside the curves, which go everywhere
    axes.set_title(f"CIFAR-10 (JPEG), {content['about']['machine']}", fontsize="medium")
    figure.savefig(out / "race.png", dpi=150)
    text = table(content["contestants"], content["about"]["minutes"])
    if (page := out / "README.md").exists():
        rewrite_block(page, text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    running = parts.add_parser("run", help="let contestants train, and score them")
    running.add_argument("names", nargs="*", help=f"of {', '.join([*CONTESTANTS, OURS])} (default: all)")
    running.add_argument("--root", required=True, help="images in train/<class>/")
    running.add_argument("--venvs", default="venvs", help="folder with an environment for each library")
    running.add_argument("--minutes", type=float, default=20)
    running.add_argument("--words", nargs="*", default=[], help="more words for train.py")
    running.set_defaults(do=run)
    drawing = parts.add_parser("draw", help="make the figure and print the table")
    drawing.set_defaults(do=lambda words: draw(Path(words.out)))
    for part in (running, drawing):
        part.add_argument("--out", default=str(ROOT / "results" / "race"))
    words = parser.parse_args()
    if unknown := set(getattr(words, "names", [])) - {*CONTESTANTS, OURS}:
        sys.exit(
            f"error: there is no contestant {', '.join(sorted(unknown))}: there are {', '.join([*CONTESTANTS, OURS])}"
        )
    words.do(words)


if __name__ == "__main__":
    main()
