"""What a training does when it is told to stop: as real processes, and the rules for a second signal."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from common import METHODS, ROOT, TINY, started

from moco import io
from moco.runs.lease import BY_HAND, Stopped
from moco.runs.run import Run
from moco.training import signals
from moco.training.signals import Signals

LONG = [*METHODS["moco"], *TINY, "epochs=300", "eval_every=300", "checkpoint_minutes=100"]


@contextlib.contextmanager
def training(cwd: Path, *before: str) -> Iterator["subprocess.Popen[str]"]:
    """A training of many epochs that has written its first line of metrics."""
    with started([*before, sys.executable, str(ROOT / "train.py"), *LONG], cwd) as process:
        deadline = time.time() + 300
        while not any(path.stat().st_size for path in cwd.glob("runs/*/metrics.jsonl")):
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.05)
        try:
            yield process
        finally:
            process.kill()


def ended(cwd: Path) -> str:
    [lease] = [json.loads(path.read_text()) for path in cwd.glob("runs/*/lease.json")]
    return str(lease["ended"])


def test_two_ctrl_c_at_once_are_one_and_lose_nothing(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    assert output.count("SIGINT: stops as soon as the checkpoint is saved; the same command goes on") == 1
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 1 and ended(tmp_path) == "stopped"


def test_a_closed_terminal_saves_a_single_run_and_nohup_keeps_it(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        os.killpg(process.pid, signal.SIGHUP)
        assert process.stdout
        process.stdout.close()  # the terminal is gone
        assert process.wait(120) == 75
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 1 and ended(tmp_path) == "stopped"
    (tmp_path / "nohup").mkdir()
    with training(tmp_path / "nohup", "nohup") as process:
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None


@pytest.fixture
def heard() -> Iterator[Signals]:
    before = signal.getsignal(signal.SIGINT)
    with Signals() as heard:
        yield heard
    signal.signal(signal.SIGINT, before)


def test_a_later_ctrl_c_stops_at_once_unless_a_save_has_begun(heard: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.raise_signal(signal.SIGTERM)
    assert heard.received == "SIGTERM" and heard.save
    signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(signals, "AT_ONCE", -1.0)
    with heard.saving():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)  # a launcher repeats its own
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert heard.received == "SIGTERM"


def test_nobody_to_tell_is_no_reason_to_fail(heard: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", gone)
    signal.raise_signal(signal.SIGINT)
    assert heard.received == "SIGINT"


def test_sighup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as heard:
            signal.raise_signal(signal.SIGHUP)
        assert heard.received is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_heard_while_somebody_else_has_the_lock_of_a_run(heard: Signals, tmp_path: Path) -> None:
    run = Run(tmp_path / "a-b-c")
    run.folder.mkdir()

    def stop() -> str | None:
        signal.raise_signal(signal.SIGTERM)
        return heard.received

    with io.locked(run.folder / "lease.lock"), pytest.raises(Stopped, match="SIGTERM"):
        with run.lease("train", "cpu", BY_HAND, stop):
            pytest.fail("went on beside the holder")
    assert run.holder() is None


def test_as_long_as_nothing_is_to_be_saved_a_signal_stops_at_once(heard: Signals) -> None:
    with pytest.raises(Stopped, match="SIGHUP"), heard.preparing():
        signal.raise_signal(signal.SIGHUP)
    with heard.preparing():
        signal.raise_signal(signal.SIGTERM)  # a launcher repeats its own
    assert heard.received == "SIGHUP"


def test_in_slurm_the_end_of_a_grace_time_ends_no_preparation_and_the_end_of_its_time_does(
    heard: Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with heard.preparing():
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == "SIGTERM: the job goes on\n" and heard.received is None
    with pytest.raises(Stopped, match="SIGUSR2"), heard.preparing():
        signal.raise_signal(signal.SIGUSR2)
