"""Fixtures: folders of runs of three kinds, made once for all that draws them."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import chromium
from folders import point, write_paused, write_run, write_sweep
from tracked import CONFIG

from moco.config.schema import Config
from moco.runs.run import Run

TEMPERATURES, QUEUES = (0.07, 0.1, 0.2), (512, 4096, 32768)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A folder with a configuration and nothing else, for what wandb leaves there."""
    run = Run(tmp_path / "runs" / "moco-small-digits-abcdefghij")
    run.folder.mkdir(parents=True)
    run.write_config(CONFIG)
    return run


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory, base: Callable[..., Config]) -> dict[str, Path]:
    """Run folders: three methods; a grid with three seeds and all that can go wrong; a halved grid; a random search of a
    thousand."""
    root, draw = tmp_path_factory.mktemp("report"), random.Random(0)
    for i, method in enumerate(("moco", "simclr", "npid")):
        cfg = base(
            f"method={method}", "epochs=10", "batch_size=128", "method.splits=1" if method == "moco" else "k=200"
        )
        write_run(root / "three", cfg, top1=40.0 + i, linear_cached=60.0 - i, seconds=1000.0 + 100 * i)
    cfg, folders = base("recipe=moco_cifar"), []
    for t, m, seed in itertools.product(TEMPERATURES, QUEUES, range(3)):
        scores = {
            "top1": 75 + 5 * (t == 0.1) + draw.gauss(0, 0.5),
            "linear": 80 + draw.gauss(0, 0.5),
            "seconds": 900 + m / 50,
        }
        folders.append(write_run(root / "grid", point(cfg, {"temperature": t, "m": m, "seed": seed}), **scores))
    folders.append(write_run(root / "grid", point(cfg, {"temperature": 0.5}), epochs=7))
    folders.append(
        write_run(root / "grid", point(cfg, {"temperature": 0.6}), epochs=3, error="RuntimeError: <b>no</b>\n")
    )
    damaged = write_run(root / "grid", point(cfg, {"temperature": 0.7}))
    (damaged / "config.json").write_text("{")
    (damaged / "metrics.jsonl").write_bytes(b"\xff\n17\n")
    write_sweep(root / "grid", "both", [*folders, damaged, root / "grid" / "moco-x-y-absentabse"])
    (root / "grid" / "photos").mkdir()
    cfg = base("recipe=moco_cifar", "epochs=20")
    for _ in range(1000):
        t, lr = round(10 ** draw.uniform(-1.5, 0), 5), round(10 ** draw.uniform(-3, 0), 6)
        changes = {"temperature": t, "optimizer.lr": lr, "m": draw.choice(QUEUES)}
        write_run(root / "many", point(cfg, changes), top1=70 - 20 * abs(math.log10(t * 10)) + draw.gauss(0, 1))
    cfg, rung = base("recipe=moco_cifar", "epochs=90"), "rung {} of 2: rank {} of the {} that are here, of 9"
    points = itertools.product(TEMPERATURES, QUEUES)
    for (i, (t, m)), seed in itertools.product(enumerate(points), range(2)):
        at = point(cfg, {"temperature": t, "m": m, "seed": seed})
        if i > 6:  # two go to their ends, two to the second rung, five to the first
            write_run(root / "halved", at, top1=73.0 + i + seed)
        elif i > 4:  # higher than at the end: they are not compared
            write_paused(root / "halved", at, 30, 85.0 + i + seed, why=rung.format(2, 9 - i, 4))
        else:
            write_paused(root / "halved", at, 10, 60.0 + i + seed, why=rung.format(1, 9 - i, 9))
    return {name: root / name for name in ("three", "grid", "halved", "many")}
