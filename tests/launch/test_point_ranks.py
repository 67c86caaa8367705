"""Points on several devices of this machine: real processes, which train on CPUs and meet by gloo."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from common import ENVIRONMENT, python
from sweeping import LONG, SHORT, TRAIN, attempts, leases, wait_for

from moco.errors import UserError
from moco.launch.gpus import idle, slots
from moco.launch.local import LocalLauncher
from moco.launch.options import LocalOptions
from moco.runs.lease import born
from moco.runs.run import Run
from moco.runs.sweep import Sweep as SweepFolder

Sweep = Callable[..., subprocess.Popen[str]]
TWO_OF_FOUR = ["hydra.launcher.devices=[0,1,2,3]", "hydra.launcher.gpus_per_point=2"]


@pytest.fixture(autouse=True)
def any_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that are named stand for cores: no driver says which GPUs there are."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{program.parent}:{os.environ['PATH']}")


def ranks_of(pid: int) -> list[int]:
    """The other ranks of the point whose rank 0 that is."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def checkpoints(runs_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        path.parent.name: torch.load(path, weights_only=True)["method"]
        for path in sorted(runs_dir.glob("*/checkpoint.pt"))
    }


def test_a_halved_sweep_on_two_ranks_a_point_ends_as_the_plain_one(tmp_path: Path) -> None:
    """The better point goes on and the other is paused, with the same weights, queue and scores."""
    words = [*SHORT, "epochs=2", "batch_size=256", "optimizer.lr=1e-4", "precision=fp32", "m=300"]
    halved = ["temperature=0.1,0.3", "hydra.launcher.halving=2", "hydra.launcher.rungs=1"]
    shared = python(TRAIN, "-m", *words, *halved, *TWO_OF_FOUR, cwd=tmp_path)
    assert shared.returncode == 0, shared.stdout + shared.stderr
    plain = python(TRAIN, "-m", *words, *halved, "runs_dir=plain", "hydra.launcher.devices=cpu", cwd=tmp_path)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    mine, other = checkpoints(tmp_path / "runs"), checkpoints(tmp_path / "plain")
    assert mine.keys() == other.keys() and len(mine) == 2
    for name, weights in mine.items():
        for key, value in weights.items():
            assert torch.allclose(value, other[name][key], atol=1e-5, rtol=1e-5), (name, key)
        assert Run(tmp_path / "runs" / name).state() == Run(tmp_path / "plain" / name).state()
    assert sorted(lease["ended"] for lease in leases(tmp_path)) == ["done", "paused"]
    assert {lease["place"]["visible"] for lease in leases(tmp_path)} <= {"0,1", "2,3"}
    assert {len(run.job().logs) for run in map(Run, (tmp_path / "runs").glob("moco-*"))} == {2}  # type: ignore[union-attr]


def test_a_rank_that_is_killed_ends_its_point_and_ctrl_c_the_other_one_with_all_ranks(
    tmp_path: Path, sweep: Sweep
) -> None:
    """Both go on later with one process each."""
    words = [*LONG, "epochs=5", "seed=0,1"]
    launcher = sweep(*words, "checkpoint_minutes=0", *TWO_OF_FOUR)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 2)
    first, second = leases(tmp_path)
    others = ranks_of(first["pid"]) + ranks_of(second["pid"])
    assert len(others) == 2
    os.kill(second["pid"], signal.SIGSTOP)  # so that it is not done before it is told
    os.kill(others[0], signal.SIGKILL)
    [error] = wait_for(lambda: list(tmp_path.glob("runs/*/error.txt")))
    wait_for(lambda: born(first["pid"]) is None)
    assert error.read_text() == (
        "rank 1 of 2 was ended by signal 9, and the others with it: the same command goes on from the last checkpoint\n"
    )
    os.kill(second["pid"], signal.SIGCONT)
    os.killpg(launcher.pid, signal.SIGINT)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 1 and "rank 1 of 2 was ended by signal 9" in output, output
    assert sorted(lease["ended"] for lease in leases(tmp_path)) == ["failed", "stopped"]
    assert not [pid for pid in others if born(pid)]
    assert "rank 1 of 2 was ended" in python("-m", "moco", "logs", error.parent.name, cwd=tmp_path).stdout
    again = python(TRAIN, "-m", *words, "hydra.launcher.devices=cpu", cwd=tmp_path)
    assert again.returncode == 0 and "0 done" in again.stdout, again.stdout + again.stderr
    assert attempts(tmp_path) == [2, 2]
    for path in tmp_path.glob("runs/*/metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 6))


ALONE = """
import os, sys, time
from moco.launch import children, ranks
from moco.runs.run import Run
children.COMMAND[:] = ["-c", sys.argv[2]]
ranks.GRACE = 0.1
with ranks.Others(Run(sys.argv[1]), 3, print):
    time.sleep(120)  # as a collective of NCCL does for a rank that is gone
"""
CHILD = """
import os, sys
print(*(os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")), flush=True)
sys.exit(3 if os.environ["RANK"] == "2" else __import__("time").sleep(60))
"""


def test_rank_0_does_not_wait_for_one_that_has_failed_and_takes_all_down(tmp_path: Path) -> None:
    inside = {**ENVIRONMENT, "SUBMITIT_FOLDER": str(tmp_path), "SUBMITIT_LOCAL_JOB_ID": "7"}
    end = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path), CHILD], env=inside, timeout=60)
    assert end.returncode == 1
    assert (tmp_path / "7_1_log.out").read_text() == "1 1 3 127.0.0.1\n"
    line, tail = Run(tmp_path).failure().splitlines()
    assert line.startswith("rank 2 of 3 has ended with status 3, and the others with it") and tail == "2 2 3 127.0.0.1"


def test_devices_make_slots_and_what_fills_none_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"] and idle(["0", "1", "2", "3", "4"], 2) == ["4"]
    assert slots(["0", "1"], 1) == ["0", "1"] and not idle(["0", "1"], 2)
    with pytest.raises(UserError, match=r"takes 4 GPUs, and there are 2 \(0, 1\): give fewer"):
        slots(["0", "1"], 4)
    with pytest.raises(UserError, match="takes 2 GPUs, and this machine has none"):
        slots([], 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    options = LocalOptions(devices=[0, 1, 2, 3, 4], gpus_per_point=2)
    launcher = LocalLauncher(options, SweepFolder(tmp_path, "s"))
    assert [slot.gpu for slot in launcher.slots] == ["0,1", "2,3"] and launcher.threads == 3


def test_a_dry_run_says_what_a_point_takes(tmp_path: Path) -> None:
    words = ["-m", *SHORT, "seed=0,1", "hydra.launcher.dry_run=true", "hydra.launcher.devices=[0,1,2]"]
    answer = python(TRAIN, *words, "hydra.launcher.gpus_per_point=2", cwd=tmp_path)
    assert answer.returncode == 0 and "each point takes 2 devices" in answer.stdout.splitlines()
    assert answer.stderr == "hydra.launcher.gpus_per_point=2 leaves 2 of the GPUs idle\n"
