"""One run on one, two and four processes over gloo: the same weights, queue, bank and scores."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from common import ENVIRONMENT, TINY

from moco.errors import UserError
from moco.protocols import MEASURES
from moco.runs.run import Run
from moco.runs.state import State
from moco.training import watch
from moco.training.distributed import Gone, in_words, joined

HERE = Path(__file__).parent
# 50 steps, of 56 images in groups of at least 7.
SMALL = [*TINY, "batch_size=56", "optimizer=sgd", "precision=fp32", "model._target_=smooth.Smooth", "eval_every=2"]
PROBED = ["linear_eval=true", "probe=cached", "probe.epochs=2"]
ON_VIEWS = ["linear_eval=true", "probe=moco", "probe.epochs=2", "probe.milestones=[1]", "probe.lr=1"]
FEW = ["linear_eval=true", "probe=fewshot", "probe.epochs=1", "probe.draws=2"]
CASES = {
    **{
        f"moco {splits} {symmetric}": [
            "method=moco",
            "m=100",
            f"method.splits={splits}",
            f"method.symmetric={symmetric}",
        ]
        for splits in (1, 4, 8)
        for symmetric in ("false", "true")
    },
    "moco 2": ["method=moco", "m=100", "method.splits=2"],  # of four ranks two have a group among them
    "simclr": ["method=simclr", *PROBED],
    "simclr 8": ["method=simclr", "method.splits=8", *ON_VIEWS],
    "simclr of four views": ["method=simclr", "method.views=4", "method.splits=8", "optimizer.lr=0.001"],
    "npid 8": ["method=npid", "m=100", "optimizer.lr=0.001", "method.splits=8"],
    "npid": ["method=npid", "m=100", "optimizer.lr=0.001", *FEW],
    "npid over the whole bank": ["method=npid", "m=0", "optimizer.lr=0.001"],
    "barlow_twins": ["method=barlow_twins", "feature_dim=16", "method.hidden_dim=16", "optimizer.lr=0.001"],
}


def port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def environment(rank: int, ranks: int, at: str) -> dict[str, str]:
    if ranks == 1:
        return ENVIRONMENT
    given = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    return {**ENVIRONMENT, **given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": at}


def start(ranks: int, script: str, *words: str, cwd: Path) -> list[subprocess.Popen[str]]:
    """The processes of a script beside this file."""
    at = port()
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *words],
            cwd=cwd,
            env=environment(rank, ranks, at),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def said(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What each has printed, once all have ended."""
    return [process.communicate(timeout=300)[0] for process in processes]


def trained(ranks: int, folder: Path, cases: Sequence[Sequence[str]]) -> None:
    """Trains the cases on so many ranks."""
    words = [[*SMALL, *case, f"runs_dir={folder}"] for case in cases]
    processes = start(ranks, "trained.py", json.dumps(words), cwd=folder.parent)
    texts = said(processes)
    assert [process.returncode for process in processes] == [0] * ranks, texts
    assert texts[1:] == [""] * (ranks - 1)  # rank 0 speaks for all


def runs(folder: Path) -> dict[str, Run]:
    return {path.parent.name: Run(path.parent) for path in folder.glob("*/result.json")}


def assert_equal(one: Run, other: Run, within: float) -> None:
    """Weights, queue and bank agree up to the order of sums, which after 50 steps is here; the scores are the same."""
    a, b = (torch.load(run.checkpoint, weights_only=True) for run in (one, other))
    assert a["step"] == b["step"] and a["method"].keys() == b["method"].keys()
    for name, value in a["method"].items():
        torch.testing.assert_close(b["method"][name], value, rtol=0, atol=within)
    first, second = one.result, other.result
    assert first and second
    accuracies = {key: value for key, value in first.items() if key.endswith(("top1", "top5"))}
    assert accuracies == {key: second[key] for key in accuracies} and len(accuracies) >= 4
    assert {key: first[key] for key in MEASURES} == pytest.approx({key: second[key] for key in MEASURES}, rel=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "runs"
    trained(1, folder, [*CASES.values()])
    return folder


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_trains_the_same_run(ranks: int, alone: Path, tmp_path: Path) -> None:
    """Also where a rank takes its images in pieces of one group of BatchNorm."""
    pieces = [[*case, *["micro_batch=7"] * ("method.splits=8" in case)] for case in CASES.values()]
    trained(ranks, tmp_path / "runs", pieces)
    one, several = runs(alone), runs(tmp_path / "runs")
    assert one.keys() == several.keys() and len(one) == len(CASES)
    for name, run in one.items():
        assert_equal(run, several[name], 5e-6)


def stopped(ranks: int, folder: Path, rank: int, number: int) -> list[str]:
    """A run on so many ranks, one of which gets a signal in the middle; what each has said."""
    words = json.dumps([*SMALL, *CASES["moco 8 false"], f"runs_dir={folder}"])
    processes = start(ranks, "stopped.py", words, "30", str(rank), str(number), cwd=folder.parent)
    texts = said(processes)
    assert processes[0].returncode, texts
    return texts


def test_a_signal_to_one_rank_stops_all_at_one_step_and_fewer_go_on(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    texts = stopped(4, folder, rank=2, number=signal.SIGTERM)
    assert "SIGTERM to another process of this run: all stop" in texts[0]
    [path] = folder.glob("*/checkpoint.pt")
    run = Run(path.parent)
    assert run.attempt() == State.STOPPED and torch.load(path, weights_only=True)["step"] == 31
    trained(2, folder, [CASES["moco 8 false"]])
    assert_equal(runs(alone)[run.folder.name], run, 5e-6)


def test_a_rank_that_is_killed_takes_the_others_with_it_and_the_run_goes_on(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    texts = stopped(2, folder, rank=1, number=signal.SIGKILL)
    assert "error: one of the 2 processes of this run has ended" in texts[0] and "goes on from the last" in texts[0]
    [path] = folder.glob("*/config.json")
    run = Run(path.parent)
    assert run.attempt() == State.FAILED and "goes on from the last checkpoint" in run.failure()
    trained(1, folder, [CASES["moco 8 false"]])
    assert_equal(runs(alone)[run.folder.name], run, 5e-6)


def test_a_rank_that_falls_silent_is_not_waited_for(tmp_path: Path) -> None:
    words = json.dumps([*SMALL, *CASES["moco 8 false"], f"runs_dir={tmp_path / 'runs'}"])
    first, silent = start(2, "stopped.py", words, "30", "1", str(int(signal.SIGSTOP)), cwd=tmp_path)
    text = first.communicate(timeout=300)[0]
    silent.kill(), silent.communicate()
    assert first.returncode == 1 and "error: rank 1 of 2 is gone, so all stop" in text
    [path] = (tmp_path / "runs").glob("*/config.json")
    assert Run(path.parent).attempt() == State.KILLED  # no collective on the device would have told it


class Slow:
    """A store that takes its time, as one does on a busy machine."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def set(self, key: str, value: str) -> None:
        self.asked.set()
        time.sleep(0.3)

    def check(self, keys: list[str]) -> bool:
        return False


def test_no_sign_of_life_is_left_in_the_store_where_python_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would abort a process that has finished its run."""
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(watch, "BEAT", 0.0)
    slow: Any = Slow()
    alive = watch.Watch(slow, lambda who: None)
    assert slow.asked.wait(60)
    alive.stop()
    assert not alive.thread.is_alive()


def test_no_rank_leaves_before_a_slow_save_has_ended(tmp_path: Path) -> None:
    """Rank 0 would take it for gone, and end in the middle of the save."""
    words = json.dumps([*SMALL, *CASES["moco 8 false"], f"runs_dir={tmp_path / 'runs'}"])
    processes = start(2, "stopped.py", words, "30", "1", str(int(signal.SIGTERM)), "6", cwd=tmp_path)
    texts = said(processes)
    assert [process.returncode for process in processes] == [75, 0], texts
    [path] = tmp_path.glob("runs/*/checkpoint.pt")
    assert Run(path.parent).attempt() == State.STOPPED and torch.load(path, weights_only=True)["step"] == 31


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("batch_size=52", "batch_size=52 is not a multiple of the 3 devices"),
        (
            "model._target_=smooth.Dropping",
            "the model's encoder.8 (Dropout) draws at random in training, which 3 processes",
        ),
    ],
)
def test_what_does_not_fit_the_number_of_ranks_is_refused_once(word: str, line: str, tmp_path: Path) -> None:
    words = [*SMALL, *CASES["moco 1 false"], "batch_size=57", word, f"runs_dir={tmp_path / 'runs'}"]
    processes = start(3, "trained.py", json.dumps([words]), cwd=tmp_path)
    texts = said(processes)
    assert [process.returncode for process in processes] == [1, 1, 1]
    assert texts[0].count("error: ") == 1 and line in texts[0] and texts[1:] == ["", ""]
    assert not [*tmp_path.glob("runs/*/checkpoint.pt")]


def test_several_processes_do_not_share_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"device=auto is one device here \(mps\), and 2 processes"), joined("auto"):
        pass


def test_an_error_of_the_connection_is_a_rank_that_is_gone_with_the_words_of_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(Gone, match="has ended .*Last error: Duplicate GPU detected.*: the same command goes on"),
        in_words(),
    ):
        raise RuntimeError("NCCL error, invalid usage (run with NCCL_DEBUG=WARN). Last error: Duplicate GPU detected")
