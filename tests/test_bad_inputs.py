"""What people type wrong, over both entry points, sweeps and every command of `python -m moco`: see bad_inputs.txt.

Each answer is one clear line per mistake on stderr, a non-zero exit code and no traceback, and nothing is written.
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import QUICK, call, contents
from common import ROOT, checked, python
from folders import write_run, write_sweep


class Case(NamedTuple):
    command: str
    words: list[str]
    lines: list[str]  # what each line of the answer holds


def cases() -> Iterator[Case]:
    for line in (ROOT / "tests/bad_inputs.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            typed, _, said = line.rpartition(" | ")
            command, *words = shlex.split(typed)
            yield Case(command, words, said.split(" && "))


CASES = list(cases())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("user")
    done = [write_run(cwd / "runs", checked(*QUICK, f"seed={seed}")) for seed in range(2)]
    write_run(cwd / "runs", checked(*QUICK, "seed=2"), epochs=1)
    write_sweep(cwd / "runs", "pair", done)
    (cwd / "a_file").write_text("a line\n")
    return cwd


def named(folder: Path, word: str) -> str:
    """The word with the folders' names in it."""
    done = {path.parent.name for path in folder.glob("runs/*/result.json")}
    known = {path.parent.name for path in folder.glob("runs/*/config.json")}
    return word.replace("{finished}", min(done)).replace("{unfinished}", min(known - done))


def typed(words: list[str]) -> list[str]:
    return [one for word in words for one in (QUICK if word == "Q" else [word])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command} {' '.join(case.words)}")
def test_one_line_per_mistake_and_nothing_written(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [case.command, *(named(folder, word) for word in typed(case.words))]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [])
    before = contents(folder)
    code = call(words)
    out, err = capfd.readouterr()
    assert code not in (0, None), out + err
    assert "Traceback" not in err and out == "", out + err
    lines = [line for line in err.splitlines() if not line.startswith("left out of the table: ")]
    assert len(lines) == len(case.lines), err
    for line, part in zip(lines, case.lines):
        assert line.startswith("error: ") and named(folder, part) in line and len(line) < 500, err
    assert contents(folder) == before


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 150 and len({(case.command, *case.words) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "words, line",
    [
        (["train.py", "method=mocco"], "method=mocco is not a choice: did you mean moco?"),
        (["train.py", "recipe=quickstart", "-m", "seed=0,x"], "seed=x should be a valid integer"),
        (["train.py", "temperature=${nope}"], "temperature: Interpolation key 'nope' not found"),
        (["linear_eval.py", "run=nope"], "there is no run nope"),
        (["-m", "moco", "table", "--where", "m"], "is not a comparison"),
        (["-m", "moco", "train", "m=0", "--foo"], "unrecognized arguments: --foo"),
    ],
)
def test_the_same_as_processes(words: list[str], line: str, folder: Path) -> None:
    before = contents(folder)
    script = [str(ROOT / words[0])] if words[0].endswith(".py") else words[:1]
    answer = python(*script, *words[1:], cwd=folder, PYTHONPATH=str(ROOT))
    assert answer.returncode == 1 and answer.stdout == "" and line in answer.stderr
    assert len(answer.stderr.splitlines()) == 1 + ("table" in words) and contents(folder) == before
