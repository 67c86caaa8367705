"""Tracking online, against a stand-in for W&B's server: linear evaluations join the run, and no network stops a training."""

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import wandb
from tracked import CONFIG, SETTINGS, STEPS, rows
from wandb_server import Handler, Server, wandb_server

from moco.analysis import sync
from moco.io import Json
from moco.runs.lease import BY_HAND
from moco.runs.run import Run
from moco.tracking import wandb_mirror
from moco.tracking.tracker import open_tracker
from moco.tracking.wandb_mirror import folders, is_whole

pytestmark = pytest.mark.usefixtures("without_login")
ONLINE, OFFLINE = SETTINGS.model_copy(update={"mode": "online"}), SETTINGS


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with wandb_server() as server:
        known_to_wandb(server.address, monkeypatch)
        yield server
        wandb.teardown()


def known_to_wandb(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    wandb.teardown()


def trained(run: Run, asked: Any) -> None:
    """A training that is tracked."""
    tracker = open_tracker(asked, run, CONFIG, "train", BY_HAND)
    for line in STEPS:
        run.append_metrics(line)
        tracker.log(line["step"], line)
    tracker.finish()
    run.checkpoint.touch()


def evaluated(run: Run, asked: Any, key: str, value: float) -> None:
    """A linear evaluation that is tracked."""
    tracker = open_tracker(asked, run, CONFIG, "linear_eval", BY_HAND)
    tracker.catch_up(run.metrics())
    line: dict[str, Json] = {"step": STEPS[-1]["step"], key: value}
    run.append_metrics(line)
    tracker.log(STEPS[-1]["step"], line)
    tracker.finish()


def test_two_linear_evaluations_join_the_run_online(run: Run, server: Server, capfd) -> None:
    trained(run, ONLINE)
    evaluated(run, ONLINE, "linear/top1", 61.0)
    evaluated(run, ONLINE, "linear_cached/top1", 62.0)
    summary = server.runs[run.id]["summary"]
    assert summary["knn/top1"] == {"max": 55.0}
    assert summary["linear/top1"] == {"max": 61.0} and summary["linear_cached/top1"] == {"max": 62.0}
    told = [row for row in server.history(run.id) if "train/loss" in row]
    assert [(row["_step"], row["train/loss"]) for row in told] == [(s["step"], s["train/loss"]) for s in STEPS]
    assert "warning:" not in capfd.readouterr().err and sync.pending(run) is None


def test_each_linear_evaluation_that_is_uploaded_keeps_the_one_before(run: Run, server: Server, capsys) -> None:
    trained(run, OFFLINE)
    evaluated(run, OFFLINE, "linear/top1", 61.0)
    sync.sync([run])
    evaluated(run, OFFLINE, "linear_cached/top1", 62.0)
    sync.sync([run])
    summary = server.runs[run.id]["summary"]
    assert summary["knn/top1"] == {"max": 55.0}
    assert summary["linear/top1"] == {"max": 61.0} and summary["linear_cached/top1"] == {"max": 62.0}
    assert "warning:" not in capsys.readouterr().err


def test_a_file_that_was_cut_short_is_written_anew_before_it_is_uploaded(run: Run, server: Server) -> None:
    trained(run, OFFLINE)
    evaluated(run, OFFLINE, "linear/top1", 61.0)
    tracker = open_tracker(OFFLINE, run, CONFIG, "linear_eval", BY_HAND)
    tracker.log(30, {"linear_cached/top1": 1.0})  # without what was before, and without an end
    tracker._try(lambda: 1 / 0)  # type: ignore[attr-defined]
    wandb.teardown()
    assert not is_whole(folders(run)[-1])
    sync.sync([run])
    assert server.history(run.id) == [{"_step": step, **row} for step, row in rows(run.metrics())]


@pytest.mark.parametrize("kind", ["refused", "silent", "no such host"])
def test_without_a_network_a_run_goes_on_offline_at_once(kind: str, run: Run, monkeypatch, capsys) -> None:
    monkeypatch.setattr(wandb_mirror, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # which takes a connection, and says nothing
        port = listening.getsockname()[1]
        host = {"refused": "127.0.0.1:9", "silent": f"127.0.0.1:{port}", "no such host": "w.invalid"}[kind]
        known_to_wandb(f"http://{host}", monkeypatch)
        began = time.monotonic()
        trained(run, ONLINE)
        assert time.monotonic() - began < 30  # wandb alone would try for 95 s
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert line.startswith(f"warning: wandb cannot go online (http://{host} does not answer: ")
    assert line.endswith("this run goes on offline, and `python -m moco sync` uploads it later")
    assert [is_whole(folder) for folder in folders(run)] == [True] and sync.pending(run)


def test_a_server_that_takes_no_run_makes_it_go_on_offline(run: Run, server: Server, monkeypatch, capsys) -> None:
    monkeypatch.setattr(wandb_mirror, "INIT_SECONDS", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_POST", lambda self: time.sleep(60))
        trained(run, ONLINE)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert line.startswith("warning: wandb cannot go online (")
    wandb.teardown()
    sync.sync([run])
    assert server.history(run.id) == [{"_step": step, **row} for step, row in rows(STEPS)]


def test_a_network_that_goes_away_delays_the_end_a_little_and_sync_finds_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(wandb_mirror, "FINISH_SECONDS", 1.0)
    with wandb_server() as server:
        known_to_wandb(server.address, monkeypatch)
        tracker = open_tracker(ONLINE, run, CONFIG, "train", BY_HAND)
    for line in STEPS:
        run.append_metrics(line)
        tracker.log(line["step"], line)
    tracker.finish()
    wandb.teardown()  # as at the end of the process
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert line == "warning: W&B has not taken all of this run within 1 s: `python -m moco sync` uploads it later"
    assert sync.pending(run)
    with wandb_server() as server:
        known_to_wandb(server.address, monkeypatch)
        sync.sync([run])
        assert server.history(run.id) == [{"_step": step, **row} for step, row in rows(STEPS)]
        assert sync.pending(run) is None
        wandb.teardown()
    assert "WANDB_RESUME" not in os.environ
