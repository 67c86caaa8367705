"""How long a holder on another machine has been silent, for people who may write nowhere near it."""

import errno
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from moco.analysis import standings, status, table
from moco.runs import clock, lease
from moco.runs.run import Run
from moco.runs.state import State

ELSEWHERE = {"token": "x", "machine": "elsewhere", "host": "n7", "pid": 1, "born": "1", "started": 0.0}
NOTE = "1 run of another machine is judged by this machine's clock, since nothing can be written there"


@pytest.fixture
def run(finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that another machine holds, whose heartbeat is of now."""
    run = Run(finish("seed=0", epochs=3))
    (run.folder / "lease.json").write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(clock, "_looks", {})
    monkeypatch.setattr(clock, "_ahead", {})
    return run


def forbid(monkeypatch: pytest.MonkeyPatch, forbidden: Callable[[Path], bool]) -> None:
    stamp = clock._stamp

    def allowed(place: Path) -> float:
        if forbidden(place):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stamp(place)

    monkeypatch.setattr(clock, "_stamp", allowed)


def beat(run: Run, ago: float) -> None:
    os.utime(run.folder / "lease.json", (time.time() - ago,) * 2)


@pytest.fixture(params=[-5, 5])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """This machine's clock is wrong by so many hours, and each look at its monotonic one comes ten seconds later."""
    ticks = itertools.count(1000.0, 10.0)
    now = time.time() + 3600 * request.param
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(ticks), time=lambda: now))
    yield request.param


def test_any_folder_of_the_same_file_system_tells_the_time(
    run: Run, wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    forbid(monkeypatch, lambda place: place in (run.folder, run.folder.parent))
    assert run.state() == State.RUNNING and not run.by_own_clock
    beat(run, lease.STALE + 30)
    assert run.state() == State.KILLED
    assert not list((tmp_path / "mine").iterdir())


def test_who_may_write_nowhere_sees_it_change_or_not(run: Run, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, lambda place: True)
    assert run.state() == (State.KILLED if wrong > 0 else State.RUNNING) and run.by_own_clock
    beat(run, -1)
    for _ in range(3):
        assert run.state() == State.RUNNING and not run.by_own_clock
    for _ in range(10):
        run.state()
    assert run.state() == State.KILLED and not run.by_own_clock


def test_it_is_said_and_watched_until_it_is_known(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count(1000.0, 10.0)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(ticks), time=lambda: time.time() + 9999))
    forbid(monkeypatch, lambda place: True)
    table.lines([run])
    assert NOTE in capsys.readouterr().err
    monkeypatch.setattr(clock, "_looks", {})
    status.watch(lambda: standings.standings([run]), 0.001, None)
    shown = capsys.readouterr().out.split("Ctrl-C ends\n")[1:]
    assert len(shown) > 2 and all(NOTE in text for text in shown[:-1]) and NOTE not in shown[-1]
    assert "1 killed" in shown[0]
