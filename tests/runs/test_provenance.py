"""Where a result came from: whatever git and the disk make of it, it never stops a run."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from moco.runs import provenance

CPU = torch.device("cpu")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two files, in place of this code's; one has been changed since."""
    code = tmp_path / "code"
    code.mkdir()

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(code), "-c", "user.name=n", "-c", "user.email=e", *words], check=True)

    git("init", "--quiet")
    (code / "a.py").write_bytes(b"x = 1\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "CODE", code)
    monkeypatch.setattr(provenance, "FROZEN", code / "snapshot.json")
    monkeypatch.setattr(provenance, "INSTALLED", False)
    return code


def recorded(folder: Path) -> list[dict[str, object]]:
    folder.mkdir(exist_ok=True)
    provenance.record(folder, CPU, "fp32")
    found: list[dict[str, object]] = json.loads((folder / "provenance.json").read_text())
    return found


def test_bytes_that_are_not_utf8_are_kept_as_they_are(checkout: Path, tmp_path: Path) -> None:
    (checkout / "a.py").write_bytes(b"x = 1\n# caf\xe9\n")
    [attempt] = recorded(tmp_path / "run")
    assert attempt["dirty"] and len(str(attempt["commit"])) == 40
    assert b"+# caf\xe9\n" in (tmp_path / "run" / "git.diff").read_bytes()
    copy = provenance.snapshot(tmp_path)
    assert (copy / "a.py").read_bytes() == b"x = 1\n# caf\xe9\n"
    assert json.loads((copy / "snapshot.json").read_text())[1].encode(errors="surrogateescape").count(b"caf\xe9") == 1


def test_settings_of_git_do_not_change_the_diff(checkout: Path, tmp_path: Path) -> None:
    for key, value in (("color.ui", "always"), ("diff.external", "false")):
        subprocess.run(["git", "-C", str(checkout), "config", key, value], check=True)
    (checkout / "a.py").write_bytes(b"x = 2\n")
    [attempt] = recorded(tmp_path / "run")
    assert attempt["dirty"] and "\n+x = 2\n" in (tmp_path / "run" / "git.diff").read_text()


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("git", 60), FileNotFoundError("git")])
def test_a_git_that_hangs_or_is_absent_leaves_the_commit_out(
    error: Exception, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        assert provenance.git_state() == (None, "")
        [attempt] = recorded(tmp_path / "run")
    assert attempt["commit"] is None


def test_what_cannot_be_written_or_read_is_a_warning(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "provenance.json").mkdir(parents=True)
    provenance.record(tmp_path / "run", CPU, "fp32")
    assert capsys.readouterr().err.startswith("warning: provenance.json is not written (")
    (checkout / "snapshot.json").write_text("{")  # of a copy that was damaged
    provenance.record(tmp_path / "run", CPU, "fp32")
    assert capsys.readouterr().err.startswith("warning: provenance.json is not written (")


@pytest.mark.parametrize(
    "line, told",
    [
        ("import helper", True),
        ("from helper import x", True),
        ("from tools import deep", False),
        ("import helpers", False),
    ],
)
def test_a_copy_warns_of_modules_that_it_lacks(
    line: str, told: bool, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "helper.py").write_text("x = 1\n")
    (checkout / "a.py").write_text(f"{line}\n")
    copy = provenance.snapshot(tmp_path)
    assert not (copy / "helper.py").exists()
    warned = (
        "warning: snapshot=true leaves helper.py out, which tracked code imports: git add it" in capsys.readouterr().err
    )
    assert warned is told


def test_a_module_inside_of_a_package_is_named_by_its_path(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "tools").mkdir()
    (checkout / "tools" / "deep.py").write_text("")
    (checkout / "a.py").write_text("from tools import other, deep\n")
    provenance.snapshot(tmp_path)
    assert "leaves tools/deep.py out" in capsys.readouterr().err
