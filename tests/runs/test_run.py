"""Leases, states and files of a run's folder."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from common import checked

from moco.errors import UserError
from moco.runs import lease
from moco.runs import listing as runs
from moco.runs.lease import Held, Place, Stopped
from moco.runs.run import Run
from moco.runs.state import State


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "moco-small-digits-abcdefghij"
    folder.mkdir()
    (folder / "config.json").write_text('{"seed": 0}')
    return Run(folder)


def test_states_follow_the_files(run: Run) -> None:
    assert run.state() == "pending"
    with run.lease():
        assert run.state() == "running"
    with pytest.raises(Stopped), run.lease():
        raise Stopped("SIGTERM")
    assert run.state() == "stopped" and run.holder().why == "SIGTERM"
    with pytest.raises(Stopped), run.lease():
        raise Stopped("SIGUSR2")
    assert run.state() == "timed out"
    with pytest.raises(ZeroDivisionError), run.lease():
        1 / 0  # noqa: B018
    assert run.state() == "failed" and "ZeroDivisionError" in (run.folder / "error.txt").read_text()
    with pytest.raises(RuntimeError), run.lease():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    assert run.state() == "out of memory"
    run.write_result({"knn/top1": 1.0})
    assert run.state() == "done"


def test_second_process_is_told_who_holds_the_run(run: Run) -> None:
    code = "import sys, time\nfrom moco.runs.run import Run\n"
    code += "with Run(sys.argv[1]).lease():\n print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(Held, match=f"process {holder.pid} on"), run.lease():
            pass
        assert run.state() == "running"
    finally:
        holder.kill()
        holder.communicate()
    assert run.state() == "killed"
    with run.lease():  # whose holder is gone is taken over
        assert run.holder().pid == os.getpid()


def _try(folder: str, start: Any, over: Any, out: Any) -> None:
    start.wait()
    try:
        with Run(folder).lease():
            out.put("mine")
            over.wait()
    except Held:
        out.put("held")


def test_of_many_at_once_one_gets_an_abandoned_run(run: Run) -> None:
    holder = {"token": "x", "machine": lease.machine(), "pid": 2**22 + 1, "born": "1", "host": "h", "started": 0.0}
    (run.folder / "lease.json").write_text(json.dumps(holder))
    assert run.state() == "killed"
    context = multiprocessing.get_context("spawn")
    start, over, out = context.Barrier(4), context.Event(), context.Queue()
    workers = [context.Process(target=_try, args=(str(run.folder), start, over, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    answers = sorted(out.get(timeout=300) for _ in workers)
    over.set()
    for worker in workers:
        worker.join()
    assert answers == ["held", "held", "held", "mine"]


def test_holder_on_another_machine_is_judged_by_its_heartbeat(run: Run) -> None:
    path = run.folder / "lease.json"
    path.write_text(
        json.dumps({"token": "x", "machine": "elsewhere", "host": "n7", "pid": 1, "born": "1", "started": 0.0})
    )
    assert run.state() == "running"
    os.utime(path, (time.time() - lease.STALE - 1,) * 2)
    assert run.state() == "killed"


ELSEWHERE = {"token": "x", "machine": "elsewhere", "host": "n7", "pid": 1, "born": "1", "started": 0.0}


@pytest.mark.parametrize("hours", [-5, 5])
def test_clocks_that_differ_between_hosts_change_nothing(run: Run, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = run.folder / "lease.json", time.time
    path.write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
    assert run.state() == "running" and run.silence() < lease.STALE
    with pytest.raises(Held), run.lease():
        pass
    os.utime(path, (now() - lease.STALE - 1,) * 2)
    assert run.state() == "killed" and run.silence() > lease.STALE
    with run.lease():
        assert run.state() == "running"
    assert not list(run.folder.glob(".clock*"))


def test_requeued_job_takes_its_own_lease_over_once_its_holder_is_silent(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, ours = run.folder / "lease.json", Place(queue="slurm", job="12_3")
    for queue in ("slurm", "local"):  # a local job's id is a process's, which another container may have too
        path.write_text(json.dumps(ELSEWHERE | {"place": {"job": "12_3", "queue": queue}}))
        with pytest.raises(Held), run.lease(place=Place(queue=queue, job="12_3" if queue == "local" else "12_4")):
            pass
    path.write_text(json.dumps(ELSEWHERE | {"place": {"job": "12_3", "queue": "slurm"}}))
    looks: list[float] = []

    def wait(seconds: float) -> None:
        """The earlier attempt lives where SLURM's daemon has died, then it is gone, too."""
        looks.append(seconds)
        if len(looks) == 3:
            os.utime(path, (time.time() - lease.STALE - 1,) * 2)

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", wait)
        with run.lease(place=ours):
            assert run.holder().pid == os.getpid() and looks == [lease.WATCH] * 3
    assert capsys.readouterr().err.count("waits for an earlier attempt of this job") == 1
    path.write_text(json.dumps(ELSEWHERE | {"place": {"job": "12_3", "queue": "slurm"}}))
    with pytest.raises(Stopped, match="SIGUSR2"), run.lease(place=ours, stop=lambda: "SIGUSR2"):
        pytest.fail("went on beside the holder")
    here = ELSEWHERE | {"machine": lease.machine(), "pid": 2**22 + 1, "place": {"job": "12_3", "queue": "slurm"}}
    path.write_text(json.dumps(here))
    with run.lease(place=ours):  # on this machine the process itself tells
        assert run.holder().pid == os.getpid()


def test_who_lost_the_lease_writes_nothing(run: Run) -> None:
    def take_over(held: lease.Lease) -> None:
        path = run.folder / "lease.json"
        path.write_text(json.dumps(dataclasses.asdict(held.holder) | {"token": "another"}))

    with pytest.raises(lease.Lost, match="was taken over by another process"), run.lease() as held:
        held.check()
        take_over(held)
        held.check()
    (run.folder / "lease.json").unlink()
    with pytest.raises(ZeroDivisionError), run.lease() as held:
        take_over(held)
        1 / 0  # noqa: B018
    assert run.holder().token == "another" and not run.holder().ended
    assert not (run.folder / "error.txt").exists()


def test_an_epoch_that_was_trained_twice_stands_once(run: Run) -> None:
    for epoch, loss in ((1, 1.0), (2, 9.0), (2, 2.0), (3, 9.0), (3, 3.0)):
        run.append_metrics({"epoch": epoch, "train/loss": loss})
    run.append_metrics({"epoch": 3, "linear/top1": 60.0})
    expected = [{"epoch": e, "train/loss": float(e)} for e in (1, 2, 3)] + [{"epoch": 3, "linear/top1": 60.0}]
    assert run.metrics() == expected
    run.rewind_metrics(3)
    assert [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()] == expected


def test_holder_that_was_replaced_notices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    with pytest.raises(lease.Lost), run.lease() as lease_:
        (run.folder / "lease.json").write_text(json.dumps(dataclasses.asdict(lease_.holder) | {"token": "another"}))
        for _ in range(100):
            time.sleep(0.05)
            lease_.progress(step=1)
    assert run.holder().token == "another"  # and left the other's lease alone


def test_heartbeat_carries_progress(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    with run.lease() as lease_:
        lease_.progress(step=7)
        deadline = time.time() + 20
        while run.holder().progress != {"step": 7}:
            assert time.time() < deadline
            time.sleep(0.05)


def test_metrics_survive_a_cut_line_and_rewind(run: Run) -> None:
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "tr')
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    run.append_metrics({"epoch": 4})  # a linear evaluation, which rewinds nothing
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3, 4]
    run.rewind_metrics(2)
    assert [line["epoch"] for line in run.metrics()] == [1, 2]


def test_write_that_fails_leaves_the_old_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_result({"knn/top1": 1.0})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="result.json cannot be written .No space left on device.: make room"):
        run.write_result({"knn/top1": 2.0})
    assert run.result == {"knn/top1": 1.0}
    assert not [p for p in run.folder.iterdir() if p.name.startswith(".")]


def test_find_by_id_beginning_folder_and_what_it_says_otherwise(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "moco-small-digits-abdddddddd"
    other.mkdir()
    (other / "config.json").write_text('{"seed": 1}')
    (tmp_path / "no run").mkdir()
    for name in ("abcdefghij", "abc", run.folder.name, str(run.folder)):
        assert runs.find(tmp_path, name).folder == run.folder
    with pytest.raises(UserError, match="2 runs begin with ab"):
        runs.find(tmp_path, "ab")
    with pytest.raises(UserError, match=f"no run zzz .*{run.folder.name}"):
        runs.find(tmp_path, "zzz")
    assert [r.folder for r in runs.all_runs(tmp_path)] == [run.folder, other]
    assert runs.all_runs(tmp_path / "absent") == []


def test_a_lease_of_another_version_is_read_and_a_damaged_one_is_named(run: Run) -> None:
    with run.lease("train", place=Place(sweep="temperature", label="temperature=0.1")) as held:
        path = run.folder / "lease.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"unheard_of": 1, "place": content["place"] | {"rank": 0}}))
        assert run.holder() == held.holder and run.holder().place.label == "temperature=0.1"
    for damaged in (
        '{"machine": 3}',
        '{"token": "x", "machine": "m", "host": "h", "pid": "one", "born": "1", "started": 1}',
    ):
        path.write_text(damaged)
        with pytest.raises(lease.Damaged, match="lease.json is damaged: remove it"):
            run.state()
    path.write_text("[1]")
    assert run.state() == State.PENDING


def test_a_configuration_is_validated_where_it_is_used_and_flat_where_many_are_read(run: Run) -> None:
    config = checked("recipe=quickstart")
    run.write_config(config)
    assert run.config == config and run.flat_config["optimizer.lr"] == 1e-3
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(UserError, match=r"config.json cannot be used: its schema has version 2"):
        _ = run.config
    path.write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read .*: is .* a run's folder"):
        _ = run.flat_config
    path.write_text("[]")
    with pytest.raises(UserError, match=r"config.json does not hold a configuration"):
        _ = run.flat_config


def test_warnings_of_a_job_are_read_from_its_log(run: Run, tmp_path: Path) -> None:
    assert run.warnings() == []
    log = tmp_path / "log"
    run.note_job("1", log, "local", "s")
    assert run.warnings() == []
    log.write_bytes(b"warning: one\nepoch 1\nwarning: \xff two\nwarning: one\n")
    assert run.warnings() == ["warning: one", "warning: \ufffd two"]
