"""Runs that torchrun starts: every rank composes for itself, and one speaks."""

from pathlib import Path

import pytest
from common import METHODS, ROOT, TINY, python

from moco.runs.run import Run
from moco.runs.state import State

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TRAIN, EVALUATE = str(ROOT / "train.py"), str(ROOT / "linear_eval.py")
WORDS = [*METHODS["moco"], *TINY]


def test_two_ranks_train_and_evaluate_one_run_and_say_things_once(tmp_path: Path) -> None:
    probe = ["probe=cached", "probe.epochs=1"]
    answer = python(*TORCHRUN, TRAIN, *WORDS, "linear_eval=true", *probe, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    [run] = map(Run, (tmp_path / "runs").glob("moco-*"))
    assert run.state() == State.DONE and {"knn/top1", "linear_cached/top1"} <= set(run.result or {})
    lines = answer.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{Path('runs') / run.folder.name} is done: kNN"), lines
    assert answer.stderr.count("epoch 2/2") == 1, answer.stderr
    again = python(*TORCHRUN, EVALUATE, f"run={run.id}", *probe, "device=cpu", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("has its linear evaluation (cached)") == 1, again.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([TRAIN, *WORDS, "temprature=3"], "unknown key temprature: did you mean temperature?"),
        ([TRAIN, *WORDS, "-m", "seed=0,1"], "WORLD_SIZE=2 says that this is one of several: start it alone"),
        ([EVALUATE, "run=nope"], "there is no run nope"),
    ],
)
def test_what_is_wrong_is_said_by_rank_0_alone(words: list[str], line: str, tmp_path: Path) -> None:
    """The other one leaves in peace: torchrun would end rank 0 before it has spoken."""
    first, second = (python(*words, cwd=tmp_path, WORLD_SIZE="2", RANK=rank) for rank in "01")
    assert (first.returncode, first.stdout) == (1, "")
    assert first.stderr.startswith("error: ") and line in first.stderr and len(first.stderr.splitlines()) == 1
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert not (tmp_path / "runs").exists()
