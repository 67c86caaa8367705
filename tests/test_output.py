"""No output is worth a training: whatever becomes of the terminal, the run goes on to its end. Real processes."""

import os
import pty
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import ENVIRONMENT, METHODS, ROOT, TINY

from moco.io import read_mapping

WORDS = [*METHODS["simclr"], *TINY]


def command(cwd: Path, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *WORDS, f"runs_dir='{cwd}/runs'", *words]


def results(cwd: Path) -> list[object]:
    return [(read_mapping(path) or {})["knn/top1"] for path in cwd.glob("runs/*/result.json")]


@pytest.mark.parametrize(
    "redirected",
    ["2>&1 | head -c 1", ">/dev/full 2>&1", ">&- 2>&- <&-"],
)
def test_output_that_goes_nowhere_ends_no_training(redirected: str, tmp_path: Path) -> None:
    line = shlex.join(command(tmp_path))
    shell = f"{line} {redirected}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=300)
    assert ended.returncode == 0 and len(results(tmp_path)) == 1, ended.stderr


def test_an_ascii_terminal_that_is_closed_ends_no_training(tmp_path: Path) -> None:
    """With an umlaut in the runs' folder, which the terminal's encoding lacks."""
    (tmp_path / "läufe").mkdir()
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "xterm"}
    process = subprocess.Popen(
        command(tmp_path / "läufe"), cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    assert os.read(ours, 1)  # it has begun to write
    os.close(ours)
    assert process.wait(300) == 0 and len(results(tmp_path / "läufe")) == 1


def test_an_ascii_terminal_shows_what_it_can(tmp_path: Path) -> None:
    (tmp_path / "läufe").mkdir()
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command(tmp_path / "läufe"), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and r"l\xe4ufe" in done.stdout, done.stderr


def test_a_working_directory_that_is_deleted_ends_no_training(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    words = command(tmp_path, "tracker=wandb", "linear_eval=true", "probe=cached", "probe.epochs=1", "epochs=4")
    process = subprocess.Popen(words, cwd=gone, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 300
    while not list(tmp_path.glob("runs/*/lease.json")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    shutil.rmtree(gone)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and len(results(tmp_path)) == 1 and "warning:" not in said, said


def test_one_that_was_deleted_before_is_named(tmp_path: Path) -> None:
    line = shlex.join(command(tmp_path))
    shell = f"mkdir gone; cd gone; rmdir ../gone; {line}"
    ended = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("error: the working directory is gone"), ended.stderr
    assert len(ended.stderr.splitlines()) == 1
