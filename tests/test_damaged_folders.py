"""Folders of runs with something wrong in them, and disks that refuse: one line, nothing lost, nothing hidden."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from commands import QUICK, call, contents
from common import checked
from folders import write_run, write_sweep

from moco.runs.run import FILES


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return write_run(tmp_path / "runs", checked(*QUICK))


def refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses the command, which changes nothing."""
    before = contents(Path.cwd())
    assert call(words) == 1
    out, err = capfd.readouterr()
    assert contents(Path.cwd()) == before, err
    [line] = err.splitlines()
    assert out == "" and line.startswith("error: ")
    return line


@pytest.mark.parametrize("command", ["train", "linear-eval"])
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("result.json", "{", "result.json is damaged: remove it, and start the run again"),
        ("result.json", "[1]", "result.json is damaged"),
        ("result.json", "{}", "result.json lacks knn/top1"),
        ("result.json", '{"knn/top1": "high"}', "result.json lacks knn/top1"),
        ("lease.json", "{", "lease.json is damaged: remove it"),
        ("lease.json", "[]", "lease.json is damaged: remove it"),
        ("lease.json", '{"pid": "x"}', "lease.json is damaged: remove it"),
        ("job.json", "17", "job.json is damaged: remove it"),
        ("job.json", "{}", "job.json is damaged: remove it"),
        ("config.json", "[]", "config.json does not hold a configuration"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"version": 7}', "its schema has version 7, this code reads version 1"),
        ("config.json", '{"version": 1}', "config.json cannot be used: temperature is missing"),
    ],
)
def test_a_file_that_holds_something_else(
    command: str, name: str, content: str, message: str, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_text(content)
    words = [*QUICK] if command == "train" else [f"run={run.name}", "tracker=none"]
    assert message in refused([command, *words], capfd)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file(name: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    assert f"{name} is a folder and should be a file: remove it" in refused(["train", *QUICK], capfd)
    message = "there is no run" if name == "config.json" else "is a folder and should be a file"
    assert message in refused(["linear-eval", f"run={run.name}", "tracker=none"], capfd)


def test_a_file_in_place_of_the_runs_folder(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run)
    run.write_text("")
    assert f"{run.name} is not a folder: give another runs_dir" in refused(["train", *QUICK], capfd)


@pytest.mark.parametrize("where", ["/proc/nowhere", "/sys/nowhere", "/proc/self/status/runs"])
def test_places_that_take_no_folder(where: str, capfd: pytest.CaptureFixture[str]) -> None:
    line = refused(["train", *QUICK, f"runs_dir={where}"], capfd)
    assert where.removesuffix("/runs") in line and "give another runs_dir" in line


@pytest.mark.parametrize("name", [f".checkpoint.pt.{os.getpid()}", f".config.json.{os.getpid()}"])
def test_a_full_disk_is_named(name: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / "result.json").unlink()
    (run / name).symlink_to("/dev/full")  # what is written aside, since reading from there would never end
    assert call(["train", *QUICK]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "cannot be written (No space left on device)" in lines[0]


def test_what_cannot_be_read_is_named_and_hides_nothing_else(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "runs", "good", [run])
    write_sweep(tmp_path / "runs", "bad", [run])
    (tmp_path / "runs/sweeps/bad/sweep.json").write_text("{")
    (tmp_path / "runs/loop").symlink_to("loop")
    (tmp_path / "runs/locked").mkdir()
    (tmp_path / "runs/locked/config.json").symlink_to("config.json")  # even root cannot read it
    for command in ("status", "table"):
        assert call([command]) == 0
        out, err = capfd.readouterr()
        assert run.name.rpartition("-")[2] in out
        for name in ("runs/loop", "runs/locked"):
            assert f"warning: {name} cannot be read (Too many levels of symbolic links)" in err
        assert "sweeps/bad/sweep.json is damaged: remove it" in err and len(err.splitlines()) == 3
    assert call(["status", "good"]) == 0 and capfd.readouterr().err == ""
    assert "sweeps/bad/sweep.json is damaged" in refused(["status", "bad"], capfd)


def test_a_device_that_is_not_here_is_refused_where_nothing_is_left_to_do(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in QUICK if not word.startswith("device")]
    assert call(["train", *words]) == 0 and "is done" in capfd.readouterr().out
    assert "device=cuda:99 is not here" in refused(["train", *words, "device=cuda:99"], capfd)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "linear/top1": 50.0, "linear/top5": 90.0}))
    refusal = refused(["linear-eval", f"run={run.name}", "tracker=none", "device=cuda:99"], capfd)
    assert "device=cuda:99 is not here" in refusal
