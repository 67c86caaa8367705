"""Two people on one runs_dir: what is done needs no right to write, and a folder of somebody else's is one named point."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from common import ENVIRONMENT, METHODS, ROOT, TINY, checked
from folders import write_run

from moco.io import writing
from moco.launch import plan
from moco.launch.job import Task
from moco.launch.options import LocalOptions
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

NOBODY = 65534
WORDS = [*METHODS["simclr"], *TINY, "epochs=1", "hydra.launcher.devices=cpu"]
SINGLE = WORDS[:-1]


def by_nobody(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """train.py by a user who owns none of the files."""
    environment = ENVIRONMENT | {"HOME": str(cwd), "XDG_CACHE_HOME": str(cwd / "cache")}
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
    return subprocess.run(
        [*command, "--bounding-set=-all", sys.executable, str(ROOT / "train.py"), *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")


@pytest.fixture
def cwd() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_sweep_that_is_done_needs_no_right_to_write(cwd: Path) -> None:
    for seed in (0, 1):
        write_run(cwd / "runs", checked(*SINGLE, f"seed={seed}"))
    before = files(cwd)
    answer = by_nobody(cwd, "-m", *WORDS, "seed=0,1")
    assert answer.returncode == 0 and "2 done" in answer.stdout, answer.stdout + answer.stderr
    single = by_nobody(cwd, *SINGLE, "seed=0")
    assert single.returncode == 0 and "is done: kNN" in single.stdout, single.stderr
    assert files(cwd) == before


def test_a_new_run_that_cannot_be_written_is_one_line(cwd: Path) -> None:
    (cwd / "runs").mkdir()
    for words in (SINGLE, ["-m", *WORDS, "seed=0,1"]):
        answer = by_nobody(cwd, *words)
        assert answer.returncode == 1 and len(answer.stderr.splitlines()) == 1, answer.stderr
        assert "(Permission denied): " in answer.stderr and "give another" in answer.stderr
    assert files(cwd) == [cwd / "runs"]


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_foreign_folder_is_one_named_point(mode: int, cwd: Path) -> None:
    foreign = cwd / "runs" / folder_name(checked(*SINGLE, "seed=0"))
    foreign.mkdir(parents=True)
    (cwd / "runs" / "sweeps").mkdir()
    for shared in (cwd, cwd / "runs", cwd / "runs" / "sweeps"):
        shared.chmod(0o777)
    foreign.chmod(mode)
    write_run(cwd / "runs", checked(*SINGLE, "seed=2"))
    answer = by_nobody(cwd, "-m", *WORDS, "seed=0,2")
    assert answer.returncode == 1 and "Traceback" not in answer.stderr, answer.stderr
    [line] = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: seed=0: ") and "ask root, whose folder it is, or" in line
    assert "failed: seed=0" in answer.stderr and not list(foreign.iterdir())
    single = by_nobody(cwd, *SINGLE, "seed=0")
    assert single.returncode == 1 and single.stderr.startswith("error: ") and "ask root" in single.stderr
    assert "Traceback" not in single.stderr


def test_the_points_beside_it_are_started(cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    started: list[Task] = []

    class Launcher:
        def begin(self, start: Sequence[Task], waiting: Sequence[Task], paused: Sequence[Task]) -> None:
            started.extend(start)

        def finish(self) -> dict[Path, State]:
            return {task.run.folder: State.DONE for task in started}

    freeze = Task.freeze

    def frozen(task: Task, order: str | None) -> None:
        with writing(task.run.folder):
            if task.label == "b":
                raise PermissionError(13, "Permission denied")
        freeze(task, order)

    monkeypatch.setattr(plan, "make", lambda options, sweep: Launcher())
    monkeypatch.setattr(Task, "freeze", frozen)
    tasks = []
    for seed, label in enumerate("abc"):
        config = checked(*SINGLE, f"seed={seed}")
        tasks.append(Task(Run(cwd / "runs" / folder_name(config)), config, label=label))
    ends = plan.launch(tasks, LocalOptions(), Sweep(cwd / "runs", "s"))
    assert [task.label for task in started] == ["a", "c"] and plan.exit_code(ends) == 1
    assert [ends[task.run.folder] for task in tasks] == [State.DONE, State.FAILED, State.DONE]
    said = capsys.readouterr()
    assert "3 runs, 0 done, 0 running elsewhere, 2 to start" in said.out
    assert [line for line in said.err.splitlines() if line.startswith("error: b: ")]
