"""Benchmarks: what the one of the training step compares does the same; those of a GPU run to their end without one.

No speed is asserted anywhere.
"""

import copy
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import ROOT, python
from PIL import Image
from torch import nn

from moco.analysis.formats import MARKS
from moco.methods import MoCo
from moco.models import SmallResNet
from moco.runs.run import Run

sys.path.append(str(ROOT / "benchmarks"))
import race
from compare import lines, ratios
from step import SETTINGS, Reference

GPU, RECORD = str(ROOT / "benchmarks" / "gpu.py"), str(ROOT / "benchmarks" / "record.py")
PARTS = {"views", "query forward + backward", "loss, queue or bank", "optimizer"}


def test_the_reference_loop_and_ours_take_the_same_steps() -> None:
    torch.manual_seed(0)
    settings = {**SETTINGS, "m": 32}
    method = MoCo(SmallResNet([8, 16]), splits=1, **settings)
    network = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    theirs = torch.optim.SGD(network.parameters(), lr=0.05)
    loop = Reference(network, method.queue.clone(), theirs, settings["temperature"], settings["momentum"])
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    for _ in range(4):
        x1, x2 = torch.randn(2, 16, 3, 16, 16)
        loss = method(x1, x2, torch.arange(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(loss.item(), loop.step(x1, x2), rtol=1e-5, atol=0)
    for ours, reference in zip([*method.encoder.parameters(), *method.head.parameters()], network.parameters()):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    by_age = method.queue.roll(-int(method.position), 0)
    torch.testing.assert_close(by_age, loop.queue, rtol=1e-4, atol=1e-5)


def test_what_got_slower_is_marked() -> None:
    found = dict(ratios({"a": {"times as fast": {"x": 2.0, "y": 1.0}}, "times as fast": {"z": 3.0, "new": 1.0}}))
    assert found == {"x": 2.0, "y": 1.0, "z": 3.0, "new": 1.0}
    shown = [" ".join(line.split()) for line in lines(found, {"x": 3.0, "y": 1.05, "z": 2.0})]
    assert shown == ["3.00 2.00 z faster", "1.00 (new) new", "2.00 3.00 x SLOWER", "1.00 1.05 y"]


def test_step_and_folders_and_loading_and_overhead_run_to_their_end(tmp_path: Path) -> None:
    """Those that can be made small; what they find is of no interest here."""
    for command, ratio in (
        (["step.py", "--tiny"], "as reference"),
        (["folders.py", "20"], "table as a plain loop"),
        (["loading.py", "--tiny"], "on a core as ImageFolder"),
    ):
        done = python(str(ROOT / "benchmarks" / command[0]), *command[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert any(ratio in name and value > 0 for name, value in ratios(json.loads(done.stdout)))
    words = ["--as=ours", "-m", "data=digits", "seed=0,1", "hydra.launcher.devices=cpu"]
    done = python(str(ROOT / "benchmarks" / "overhead.py"), *words, cwd=tmp_path)
    assert done.returncode == 0 and len(list(tmp_path.glob("runs/*/result.json"))) == 2, done.stdout + done.stderr


def figures(value: Any) -> Iterator[float]:
    """All numbers in what a benchmark printed."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from figures(inner)
    elif isinstance(value, int | float):
        yield value


def test_gpu_measures_every_method_and_each_part_of_its_step(tmp_path: Path) -> None:
    done = python(GPU, "--tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["card"] is None and report["torch"] == torch.__version__ and report["precision"] == "fp32"
    assert set(report["results"]) == {"moco small", "moco symmetric small", "simclr small", "npid small"}
    for point, found in report["results"].items():
        assert set(found) == {
            "ours",
            "foreach",
            "reference",
            "compiled",
            "ours / reference",
            "ours / foreach",
            "compiled / ours",
        }
        for variant in ("ours", "compiled"):
            keys = {"key forward", "EMA"} if "moco" in point else set()
            assert set(found[variant]["parts"]) == PARTS | keys
            assert {"images/s", "sum of parts / step", "operations per second / matrix product"} <= set(found[variant])
    assert report["left out, the time was over"] == [] and list(tmp_path.iterdir()) == []
    report.pop("workers of the reference")
    assert all(math.isfinite(number) and number > 0 for number in figures(report))
    operations = {point: found["ours"]["operations per step"] for point, found in report["results"].items()}
    assert operations["npid small"] < operations["simclr small"] < operations["moco symmetric small"]


def test_gpu_takes_packed_images_and_leaves_out_what_comes_too_late(tmp_path: Path) -> None:
    x, y = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8), torch.arange(40) % 2
    packed = dict(train_images=x, train_labels=y, test_images=x[:4], test_labels=y[:4], classes=["a", "b"])
    torch.save(packed, tmp_path / "packed.pt")
    words = [GPU, "--tiny", "--data", "packed.pt", "--only", "simclr", "--only", "ours"]
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {point: set(found) for point, found in report["results"].items()} == {"simclr small": {"ours"}}
    late = json.loads(python(*words, "--minutes", "0", cwd=tmp_path).stdout)
    assert late["results"] == {} and late["left out, the time was over"] == ["simclr small ours"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_refuses_in_one_line_where_there_is_none(tmp_path: Path) -> None:
    done = python(GPU, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no GPU here: ") and "--tiny" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_record_stops_in_time_with_a_checkpoint_and_goes_on_to_the_end(tmp_path: Path) -> None:
    words = [RECORD, "--tiny", "--runs-dir", "kept", "--target", "1", "epochs=6"]
    stopped = python(*words, "--minutes", "0", cwd=tmp_path)
    assert stopped.returncode == 75, stopped.stderr
    first, second = json.loads(stopped.stdout)["stages"]
    run = Run(tmp_path / "kept" / first["run"])
    assert first["state"] == run.state() == "stopped" and run.checkpoint.exists() and run.result is None
    assert second["state"] == "pending" and second["epoch"] == 0 and second["reached"] is None

    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["done"] and [stage["recipe"] for stage in report["stages"]] == ["simclr_cifar", "simclr_leftthomas"]
    assert report["stages"][0]["run"] == first["run"] and len(report["stages"][0]["cards"]) == 2
    for stage in report["stages"]:
        assert stage["state"] == "done" and stage["epoch"] == stage["epochs"] == 6
        assert list(stage["kNN top-1"]) == [str(epoch) for epoch in range(1, 7)]
        assert stage["reached"]["epoch"] == 1 and 0 < stage["reached"]["seconds"] <= stage["seconds"]
        assert all(math.isfinite(number) and number > 0 for number in figures(stage))
    assert report["stages"][0]["linear top-1"] is None and report["stages"][1]["linear top-1"] > 0


def test_record_passes_on_what_train_refuses(tmp_path: Path) -> None:
    refused = python(RECORD, "--tiny", "batch_size=2000", cwd=tmp_path)
    assert refused.returncode == 1 and "batch_size=2000 is more than the 1437 training images" in refused.stderr
    assert [stage["state"] for stage in json.loads(refused.stdout)["stages"]] == ["pending", "pending"]


def test_distributed_counts_what_two_processes_send(tmp_path: Path) -> None:
    done = python(str(ROOT / "benchmarks" / "distributed.py"), "--tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    [(one, two)] = [found.values() for found in report["measured"].values()]
    assert one["collectives a step"] == {} and set(one["bytes sent a step"].values()) == {0}
    # Six norms, each once forward for queries and for keys, and once backward.
    assert two["collectives a step"] == {
        "decision": 1,
        "gradients": 1,
        "rows of the batch": 1,
        "statistics of BatchNorm": 18,
    }
    sent = two["bytes sent a step"]
    assert sent["by arithmetic"] < sent["counted"] < 2 * sent["by arithmetic"]
    paper = report["on paper, not measured"]
    assert len(paper) == 6 and all(value >= 0 for value in figures([row["ms"] for row in paper]))
    assert paper[0]["MB sent"]["gradients"] == pytest.approx(
        2 * 7 / 8 * 4 * 27.966656, abs=1e-3
    )  # ResNet-50 and its head


def jpegs(folder: Path, *, images: int) -> None:
    """Noise as an image folder of two classes."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(images):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{i:03}.jpg")


RACER = """
from common import Race

race = Race.of_environment()
network = race.network()
{end}
"""


@pytest.mark.parametrize(
    ("end", "fails"),
    [
        ("race.finish(network, steps=1)", False),
        ("race.finish(network, steps=1); raise SystemExit('its workers did not end')", False),
        ("race.look(network, steps=1); raise SystemExit('out of memory')", True),
    ],
)
def test_a_contestant_counts_once_its_time_is_over_however_its_process_ends(
    end: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.py").write_text(RACER.format(end=end))
    monkeypatch.setenv("PYTHONPATH", str(race.RACERS))
    monkeypatch.setattr(race, "RACERS", tmp_path)
    model = {"widths": [8, 16]}
    asked = {"images": "", "moments": [0.0, 60.0], "model": model, "bf16": False, "steps": 9, "workers": 1}
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            race.run_other("one", sys.executable, asked, tmp_path / "out")
    else:
        [path] = race.run_other("one", sys.executable, asked, tmp_path / "out")
        SmallResNet(**model).load_state_dict(torch.load(path, weights_only=True)["backbone"])


def test_a_race_is_run_and_drawn(tmp_path: Path) -> None:
    jpegs(tmp_path / "images", images=130)
    command, out = str(ROOT / "benchmarks" / "race.py"), ["--out", str(tmp_path / "race")]
    tiny = ["model.widths=[8,16]", "batch_size=64", "epochs=2", "device=cpu", "optimizer.lr=1e-3"]
    words = [
        "--root",
        str(tmp_path / "images"),
        "--minutes",
        "0.6",
        "--venvs",
        str(tmp_path / "nothing"),
        "--words",
        *tiny,
    ]
    done = python(command, "run", "plain", "moco", "lightly_moco", *out, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "race" / "race.json").read_text())
    found = content["contestants"]
    assert "nothing/lightly/bin/python" in found.pop("lightly_moco")["failed"]
    assert content["about"]["model"]["widths"] == [8, 16] and set(found) == {"plain", "moco"}
    for entry in found.values():
        seconds = [score["seconds"] for score in entry["scores"]]
        assert seconds == sorted(seconds) and 0 < seconds[-1] <= 37
        assert all(0 < top1 <= 100 for score in entry["scores"] for top1 in score["knn"].values())
    assert found["moco"]["scores"][-1]["steps"] == 2 * (234 // 64)  # a tenth is held out
    again = python(command, "run", "moco", *out, *words, "model.pooled=1", cwd=tmp_path)
    assert again.returncode == 1 and "give another --out" in again.stderr
    drawn = python(command, "draw", *out, cwd=tmp_path)
    assert drawn.returncode == 0 and (tmp_path / "race" / "race.png").stat().st_size > 10_000
    assert "| lightly, MoCo |" in drawn.stdout and "did not run" in drawn.stdout


def test_the_page_of_the_race_has_what_its_file_says() -> None:
    folder = ROOT / "results" / "race"
    content = json.loads((folder / "race.json").read_text())
    assert {*content["contestants"]} == {*race.TITLES} and content["about"]["minutes"] == 20
    block = (folder / "README.md").read_text().partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    assert block == race.table(content["contestants"], content["about"]["minutes"])
    drawn = [line.split("|")[1].strip() for line in block.splitlines()[2:]]
    assert drawn == [*race.TITLES.values()]  # in whatever order they have run
