"""Sweeps on this machine: slots, leases, kills, Ctrl-C. Real processes."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from common import ENVIRONMENT, python
from sweeping import LONG, SHORT, TRAIN, attempts, leases, lines, results, wait_for

from moco.errors import UserError
from moco.io import locked
from moco.launch import gpus
from moco.launch.gpus import chosen_gpus, refuse_absent
from moco.launch.local import LocalLauncher
from moco.launch.options import LocalOptions
from moco.runs.sweep import Sweep as SweepFolder

Sweep = Callable[..., subprocess.Popen[str]]
ON_CPU = "hydra.launcher.devices=cpu"


def jobs_at_a_time(n: int) -> str:
    return f"hydra.launcher.jobs_per_device={n}"


def overlap(spans: list[tuple[float, float]]) -> int:
    """The most spans that hold at one moment."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    height = most = 0
    for _, step in edges:
        height += step
        most = max(most, height)
    return most


def test_eight_points_on_two_slots(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is held still until the other slot has a point too, so that on no machine it is done before."""
    seven = "\n".join(f"GPU {i}: (UUID: GPU-{i})" for i in range(7))
    monkeypatch.setitem(ENVIRONMENT, "PATH", machine_with(tmp_path, seven))
    launcher = sweep(*SHORT, "seed=range(8)", "epochs=8", "hydra.launcher.devices=[4,6]")
    first = wait_for(lambda: [lease for lease in leases(tmp_path) if not lease["ended"]])[0]
    os.kill(first["pid"], signal.SIGSTOP)
    wait_for(lambda: {lease["place"]["slot"] for lease in leases(tmp_path)} == {"4.0", "6.0"})
    os.kill(first["pid"], signal.SIGCONT)
    output = launcher.communicate(timeout=600)[0]
    assert launcher.returncode == 0, output
    held = leases(tmp_path)
    assert len(held) == 8 and {lease["ended"] for lease in held} == {"done"}
    assert overlap([(lease["started"], lease["finished"]) for lease in held]) == 2
    assert {lease["place"]["slot"] for lease in held} == {"4.0", "6.0"}
    for slot in ("4.0", "6.0"):
        there = [lease for lease in held if lease["place"]["slot"] == slot]
        assert overlap([(lease["started"], lease["finished"]) for lease in there]) == 1
        assert {lease["place"]["visible"] for lease in there} == {slot[0]}


def test_killed_launcher_and_the_same_command_again(tmp_path: Path, sweep: Sweep) -> None:
    words = [*LONG, "epochs=40", "seed=0,1,2", ON_CPU, jobs_at_a_time(1)]
    launcher = sweep(*words)
    wait_for(lambda: lines(tmp_path) >= 3)
    launcher.kill()
    launcher.communicate()
    # The job notices that its launcher is gone, saves and stops.
    wait_for(lambda: [lease["ended"] for lease in leases(tmp_path)] == ["stopped"])
    first = lines(tmp_path)
    again = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert again.returncode == 0 and "3 runs, 0 done" in again.stdout, again.stdout + again.stderr
    for path in tmp_path.glob("runs/*/metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 41))
    assert attempts(tmp_path) == [1, 1, 2] and first >= 3
    third = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert "3 runs, 3 done, 0 running elsewhere, 0 to start" in third.stdout


def test_two_launchers_at_once_train_each_point_once_and_forget_none(tmp_path: Path, sweep: Sweep) -> None:
    """Each tells the end of every point, whoever trained it, and the sweep has the points and both launches."""
    words = [*SHORT, "seed=range(4)", "epochs=8", ON_CPU, jobs_at_a_time(1)]
    both = [sweep(*words) for _ in range(2)]
    outputs = [launcher.communicate(timeout=600)[0] for launcher in both]
    assert [launcher.returncode for launcher in both] == [0, 0], outputs
    assert attempts(tmp_path) == [1] * 4 and len(results(tmp_path)) == 4, outputs
    assert {lease["ended"] for lease in leases(tmp_path)} == {"done"}
    assert lines(tmp_path) == 4 * 8
    for output in outputs:
        ends = [line.split() for line in output.splitlines() if line.startswith("[")]
        assert {(state, point) for _, state, point, *_ in ends} == {("done", f"seed={i}") for i in range(4)}, output
    record = json.loads((tmp_path / "runs" / "sweeps" / "seed" / "sweep.json").read_text())
    assert {tmp_path / "runs" / name for name in record["runs"]} == {
        path.parent for path in tmp_path.glob("runs/*/result.json")
    }
    assert len(record["runs"]) == 4 and {launch["pid"] for launch in record["launches"]} == {one.pid for one in both}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_launcher_that_waits_for_another_hears_a_signal(
    number: signal.Signals, code: int, tmp_path: Path, sweep: Sweep
) -> None:
    lock = tmp_path / "runs" / "sweeps" / ".lock"
    lock.parent.mkdir(parents=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    with locked(lock):
        launcher = sweep(*SHORT, "seed=0,1", ON_CPU)
        signal.signal(signal.SIGINT, before)
        assert launcher.stdout
        while "waits for" not in (line := launcher.stdout.readline()):
            assert line, "it did not wait"
        launcher.send_signal(number)
        output = launcher.communicate(timeout=20)[0]  # the lock would be waited for longer
    assert launcher.returncode == code and "Traceback" not in output, output
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["sweeps", ".lock"]


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, sweep: Sweep) -> None:
    words = [*LONG, "epochs=60", "seed=0,1", ON_CPU, jobs_at_a_time(2)]
    launcher = sweep(*words)
    wait_for(lambda: lines(tmp_path) >= 4 and len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 2)
    os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does: the launcher, the controllers and the jobs get it
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 75, output
    assert {lease["ended"] for lease in leases(tmp_path)} == {"stopped"}
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 2
    assert not [lease for lease in leases(tmp_path) if Path(f"/proc/{lease['pid']}").exists()]
    again = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert attempts(tmp_path) == [2, 2]


def test_closed_terminal_does_not_end_the_sweep(tmp_path: Path, sweep: Sweep) -> None:
    launcher = sweep(*SHORT, "seed=0,1")
    wait_for(lambda: leases(tmp_path))
    os.killpg(launcher.pid, signal.SIGHUP)
    assert launcher.stdout
    launcher.stdout.close()
    assert launcher.wait(300) == 0
    assert len(results(tmp_path)) == 2


def test_one_failure_stops_no_other_and_is_listed(tmp_path: Path) -> None:
    answer = python(TRAIN, "-m", *SHORT, "optimizer.lr=0.01,1e30,0.02", ON_CPU, cwd=tmp_path)
    assert answer.returncode == 1 and len(results(tmp_path)) == 2
    assert "failed: optimizer.lr=1e+30" in answer.stderr and "infinite or NaN at step" in answer.stderr
    status = python("-m", "moco", "status", "optimizer.lr", cwd=tmp_path)
    assert "2 done, 1 failed" in status.stdout
    words = ["optimizer.lr=1e30,2e30,0.03", "hydra.launcher.fail_fast=1", jobs_at_a_time(1)]
    rest = python(TRAIN, "-m", *SHORT, *words, cwd=tmp_path)
    assert rest.returncode == 1 and len(results(tmp_path)) == 2


def test_killed_point_beside_one_that_is_cancelled(tmp_path: Path, sweep: Sweep) -> None:
    launcher = sweep(*LONG, "seed=0,1", jobs_at_a_time(2), ON_CPU)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 2)
    os.kill(leases(tmp_path)[0]["pid"], signal.SIGKILL)
    other = leases(tmp_path)[1]["pid"]
    wait_for(lambda: "1 killed" in python("-m", "moco", "status", cwd=tmp_path).stdout)
    assert Path(f"/proc/{other}").exists()
    cancelled = python("-m", "moco", "cancel", "seed", cwd=tmp_path)
    assert f"launcher {launcher.pid} told to stop" in cancelled.stdout
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 1 and "killed: seed=" in output


def test_a_job_that_dies_before_it_holds_its_run_has_failed(tmp_path: Path, sweep: Sweep) -> None:
    """Even where an earlier attempt was stopped: it must not look as if the same command could go on."""
    words = [*LONG, "epochs=60", "seed=0", ON_CPU]
    launcher = sweep(*words)
    wait_for(lambda: lines(tmp_path))
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(300) == 75
    setup = "hydra.launcher.setup=['echo no such module >&2', 'false']"
    answer = python(TRAIN, "-m", *words, "seed=0,1", setup, cwd=tmp_path)
    assert answer.returncode == 1 and answer.stderr.count("failed: seed=") == 2, answer.stdout + answer.stderr
    assert answer.stderr.count("its job ended before it began to work:\n    no such module") == 1
    status = python("-m", "moco", "status", cwd=tmp_path).stdout
    assert "2 failed" in status and not results(tmp_path)


def test_two_ctrl_c_at_once_lose_no_checkpoint(tmp_path: Path, sweep: Sweep) -> None:
    words = [*LONG, "seed=0,1", ON_CPU, jobs_at_a_time(2)]
    launcher = sweep(*words)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 2)
    for path in tmp_path.glob("runs/*/checkpoint.pt"):
        path.unlink()
    for _ in range(2):
        os.killpg(launcher.pid, signal.SIGINT)
        time.sleep(0.2)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 75, output
    assert "SIGINT: 2 jobs save their checkpoints and stop; the same command goes on" in output
    assert {lease["ended"] for lease in leases(tmp_path)} == {"stopped"}
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 2
    assert "Bypassing" not in output + "".join(p.read_text() for p in tmp_path.glob("runs/sweeps/*/jobs/*.out"))


def test_ctrl_c_takes_back_an_order_whose_job_has_not_begun(tmp_path: Path, sweep: Sweep) -> None:
    words = [*SHORT, "seed=0,1", ON_CPU, jobs_at_a_time(1)]
    assert python(TRAIN, "-m", *words, cwd=tmp_path).returncode == 0
    first = results(tmp_path)
    launcher = sweep(*words, "rerun=true", "hydra.launcher.setup=['sleep 60']")
    wait_for(lambda: len(list(tmp_path.glob("runs/sweeps/seed/jobs/*_submitted.pkl"))) > 2)
    launcher.send_signal(signal.SIGINT)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 75 and "rerun=true erases 2 results, each when its job begins" in output, output
    assert not list(tmp_path.glob("runs/*/again.*"))
    again = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert "2 runs, 2 done" in again.stdout and results(tmp_path) == first


def test_an_order_to_stop_reaches_jobs_that_still_load_torch(tmp_path: Path, sweep: Sweep) -> None:
    launcher = sweep(*LONG, "seed=0,1", ON_CPU, jobs_at_a_time(2))
    wait_for(lambda: len(list(tmp_path.glob("runs/*/job.json"))) == 2)
    assert not leases(tmp_path)
    launcher.send_signal(signal.SIGTERM)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 75, output
    assert not results(tmp_path)
    assert {lease["ended"] for lease in leases(tmp_path)} <= {"stopped"}


@pytest.mark.parametrize(
    ("listed", "names"),
    [("0,2", ["0", "2"]), ("GPU-5a1f,MIG-77", ["GPU-5a1f", "MIG-77"]), ("", []), ("-1", []), ("3,-1,4", ["3"])],
)
def test_gpus_are_those_that_the_environment_names(
    listed: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert chosen_gpus("auto") == names and chosen_gpus("cpu") == []
    assert chosen_gpus([1, "MIG-77"]) == ["1", "MIG-77"]


GPUS = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5a1f2b3c-0000-1111-2222-333344445555)
  MIG 1g.5gb      Device  0: (UUID: MIG-77aa0000-0000-1111-2222-333344445555)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-6b1f2b3c-0000-1111-2222-333344445555)"""


def machine_with(tmp_path: Path, listed: str) -> str:
    """A PATH whose nvidia-smi lists these GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}\nEND\n")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("devices", "absent"),
    [
        ([0, 1], ""),
        (["1", "GPU-5a1f", "MIG-77aa"], ""),
        (["MIG-GPU-5a1f/1/0", "auto"], ""),
        ([1, 2, 9], "2, 9"),
        ([-1], "-1"),
        (["GPU-7"], "GPU-7"),
        (["MIG-5a"], "MIG-5a"),
        ("cpu", ""),
    ],
)
def test_gpus_that_the_driver_does_not_list_are_absent(
    devices: str | list[int | str], absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", machine_with(tmp_path, GPUS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert chosen_gpus("auto") == ["0", "1"]
    with pytest.raises(UserError, match=f"has no GPU {absent}: it has 0 to 1 ") if absent else contextlib.nullcontext():
        refuse_absent(devices)


def test_an_absent_gpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = machine_with(tmp_path, GPUS.splitlines()[0])
    for words in (["-m", "seed=0,1"], ["-m", "seed=0,1", "hydra.launcher.dry_run=true"], []):
        answer = python(TRAIN, *SHORT, *words, "hydra.launcher.devices=[9]", cwd=tmp_path, PATH=path)
        assert (answer.returncode, answer.stdout) == (1, "")
        line = "error: hydra.launcher.devices=[9]: this machine has no GPU 9: it has 0 alone (nvidia-smi -L)\n"
        assert answer.stderr == line and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("says", ["exit 9", "echo No devices were found"])
def test_where_the_driver_does_not_tell_the_job_does(
    says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", machine_with(tmp_path, ""))
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refuse_absent([9])
    monkeypatch.setattr(gpus, "NODES", str(tmp_path / "nvidia[0-9]*"))
    assert chosen_gpus("auto") == []
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert chosen_gpus("auto") == ["0", "1"]  # of a container without nvidia-smi, say


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_not_a_cpu(tmp_path: Path) -> None:
    words = [*SHORT, "device=auto", "seed=0,1", "hydra.launcher.devices=[GPU-5a1f]"]
    answer = python(TRAIN, "-m", *words, cwd=tmp_path)
    assert answer.returncode == 1 and not results(tmp_path)
    assert answer.stderr.count("failed: seed=") == 2
    reason = "CUDA_VISIBLE_DEVICES=GPU-5a1f names a GPU that is not available"
    assert answer.stderr.count(reason) == 1, answer.stderr  # which both share


@pytest.mark.parametrize(
    ("options", "slots", "threads"),
    [
        (LocalOptions(devices="cpu"), 8, 1),
        (LocalOptions(devices="cpu", jobs_per_device=3), 3, 4),
        (LocalOptions(devices="cpu", jobs_per_device=1), 1, 12),
        (LocalOptions(devices=[0, 1]), 2, 6),
        (LocalOptions(devices="cpu", cpus_per_task=5), 8, 5),
        (LocalOptions(devices=[0, 1], jobs_per_device=2), 4, 3),
    ],
)
def test_slots_share_the_cores(
    options: LocalOptions, slots: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    launcher = LocalLauncher(options, SweepFolder(tmp_path, "s"))
    assert (len(launcher.slots), launcher.threads) == (slots, threads)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    launcher = LocalLauncher(options, SweepFolder(tmp_path, "s"))
    assert launcher.waiting_threads == ({} if slots == 1 else {"OMP_WAIT_POLICY": "PASSIVE"})
