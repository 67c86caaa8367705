"""Claims, states and files of a run's folder."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moco.errors import UserError
from moco.runs import lease as claims
from moco.runs import run as runs
from moco.runs.lease import Held, Stopped
from moco.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "moco-small-digits-abcdefghij"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    return Run(folder)


def test_states_follow_the_files(run: Run) -> None:
    assert run.state() == "pending"
    with run.claim():
        assert run.state() == "running"
    with pytest.raises(Stopped), run.claim():
        raise Stopped("SIGTERM")
    assert run.state() == "stopped" and run.holder()["why"] == "SIGTERM"
    with pytest.raises(Stopped), run.claim():
        raise Stopped("SIGUSR2")
    assert run.state() == "timed out"
    with pytest.raises(ZeroDivisionError), run.claim():
        1 / 0  # noqa: B018
    assert run.state() == "failed" and "ZeroDivisionError" in (run.folder / "error.txt").read_text()
    with pytest.raises(RuntimeError), run.claim():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    assert run.state() == "out of memory"
    run.write_result({"knn/top1": 1.0})
    assert run.state() == "done"


def test_second_process_is_told_who_holds_the_run(run: Run) -> None:
    code = "import sys, time, moco.runs\nwith moco.runs.Run(sys.argv[1]).claim():\n print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(Held, match=f"process {holder.pid} on"), run.claim():
            pass
        assert run.state() == "running"
    finally:
        holder.kill()
        holder.communicate()
    assert run.state() == "killed"
    with run.claim():  # whose holder is gone is taken over
        assert run.holder()["pid"] == os.getpid()


def _try(folder: str, start: Any, over: Any, out: Any) -> None:
    start.wait()
    try:
        with Run(folder).claim():
            out.put("mine")
            over.wait()
    except Held:
        out.put("held")


def test_of_many_at_once_one_gets_an_abandoned_run(run: Run) -> None:
    holder = {"token": "x", "machine": claims.machine(), "pid": 2**22 + 1, "born": "1", "host": "h", "ended": None}
    (run.folder / "claim.json").write_text(json.dumps(holder))
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
    path = run.folder / "claim.json"
    path.write_text(
        json.dumps({"token": "x", "machine": "elsewhere", "host": "n7", "pid": 1, "born": "1", "ended": None})
    )
    assert run.state() == "running"
    os.utime(path, (time.time() - claims.STALE - 1,) * 2)
    assert run.state() == "killed"


def test_requeued_job_takes_its_own_claim_over(run: Run) -> None:
    other = {"token": "x", "machine": "elsewhere", "host": "n7", "pid": 1, "born": "1", "ended": None, "job": "12_3"}
    for queue in ("slurm", "local"):  # a local job's id is a process's, which another container may have too
        (run.folder / "claim.json").write_text(json.dumps(other | {"queue": queue}))
        with pytest.raises(Held), run.claim(job="12_3" if queue == "local" else "12_4", queue=queue):
            pass
    (run.folder / "claim.json").write_text(json.dumps(other | {"queue": "slurm"}))
    with run.claim(job="12_3", queue="slurm"):
        assert run.holder()["pid"] == os.getpid()


def test_holder_that_was_replaced_notices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)
    with pytest.raises(claims.Lost), run.claim() as claim:
        (run.folder / "claim.json").write_text(json.dumps({"token": "another", "ended": None}))
        for _ in range(100):
            time.sleep(0.05)
            claim.progress(step=1)
    assert run.holder()["token"] == "another"  # and left the other's claim alone


def test_heartbeat_carries_progress(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)
    with run.claim() as claim:
        claim.progress(step=7)
        deadline = time.time() + 20
        while run.holder()["progress"] != {"step": 7}:
            assert time.time() < deadline
            time.sleep(0.05)


def test_metrics_survive_a_cut_line_and_rewind(run: Run) -> None:
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "tr')
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    run.rewind_metrics(2)
    assert [line["epoch"] for line in run.metrics()] == [1, 2]


def test_write_that_fails_leaves_the_old_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_result({"knn/top1": 1.0})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        run.write_result({"knn/top1": 2.0})
    assert run.result == {"knn/top1": 1.0}
    assert not [p for p in run.folder.iterdir() if p.name.startswith(".")]


def test_find_by_id_beginning_folder_and_what_it_says_otherwise(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "moco-small-digits-abdddddddd"
    other.mkdir()
    (other / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "no run").mkdir()
    for name in ("abcdefghij", "abc", run.folder.name, str(run.folder)):
        assert runs.find(tmp_path, name).folder == run.folder
    with pytest.raises(UserError, match="2 runs begin with ab"):
        runs.find(tmp_path, "ab")
    with pytest.raises(UserError, match=f"no run zzz .*{run.folder.name}"):
        runs.find(tmp_path, "zzz")
    assert [r.folder for r in runs.all_runs(tmp_path)] == [run.folder, other]
    assert runs.all_runs(tmp_path / "absent") == []
