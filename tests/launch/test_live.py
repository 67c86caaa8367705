"""What a launcher shows on a terminal while jobs run: reckoned, drawn in several widths, and in a real one."""

import dataclasses
import io
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import write_paused, write_run
from rich.console import Console
from sweeping import LONG, SHORT, TRAIN, leases, lines, results, wait_for
from terminals import Terminal, plain, terminal

from moco.config.schema import Config
from moco.io import write_json
from moco.launch.halving import Halving
from moco.launch.job import Task
from moco.launch.live import Screen, Sight, counts, over, picture
from moco.launch.pace import Job, Pace, Point, point, stands, units
from moco.runs.how_far import HowFar, time_left
from moco.runs.lease import Holder, born, machine
from moco.runs.run import Run
from moco.runs.state import State

Checked = Callable[..., Config]
SLOT = ["hydra.launcher.devices=cpu", "hydra.launcher.jobs_per_device=1"]
UP = "\033[1A"  # the cursor goes up a line, to draw in place


def hold(run: Run, what: str = "train", **progress: float) -> None:
    """A lease of a process that lives: this one."""
    pid = os.getpid()
    holder = Holder("x", machine(), "here", pid, born(pid), time.time(), what, "cpu", progress=progress)
    write_json(run.folder / "lease.json", dataclasses.asdict(holder))


def test_what_waits_begins_where_a_job_ends_first() -> None:
    assert time_left([], [], 2) == 0
    assert time_left([30.0], [], 2) == 30
    assert time_left([30.0, 10.0], [40.0, 40.0], 2) == 70  # 10 + 40, 30 + 40
    assert time_left([30.0], [10.0, 10.0, 10.0], 2) == 30
    assert time_left([5.0], [10.0, 10.0], 1) == 25


def test_pace_is_the_mean_over_epochs() -> None:
    assert Pace().of(3) is None
    assert Pace().plus(10, 1).plus(20, 5).of(3) == 15


def test_work_goes_to_the_next_rung_that_is_not_decided(checked: Checked, tmp_path: Path) -> None:
    config = checked("epochs=27")
    task = Task(Run(write_run(tmp_path, config, epochs=2)), config)
    assert stands(task) == 2 and units(task, 2) == 25
    halved = dataclasses.replace(task, halving=Halving(3, 2))  # rungs at 3 and 9
    assert [units(halved, epoch) for epoch in (0, 2, 3, 8, 9)] == [3, 1, 6, 1, 18]
    assert units(dataclasses.replace(halved, passed=1), 2) == 7
    (task.run.folder / "again.knn").write_text("one\n")
    assert stands(dataclasses.replace(task, launch="one")) == 0 and stands(task) == 2
    assert units(Task(task.run), 2) == 1


def test_a_job_that_runs(checked: Checked, tmp_path: Path) -> None:
    """Its lease tells of the epoch that runs, its metrics of those before; what has not held its run is starting."""
    config = checked("epochs=9")
    task = Task(Run(write_run(tmp_path, config, epochs=5)), config, label="m=64")
    job = Job(task, 2, time.time(), began=True)
    hold(task.run)
    assert point(job, False) == Point(
        "m=64", "training", HowFar(5, pytest.approx(2 + 5 / 6), pytest.approx(50 - 30 * (4 / 9) ** 2), None), 9, None, 7
    )
    hold(task.run, step=390 * 5 + 1, epoch=6, loss=6.5, left=80.0)
    seen = point(job, False)
    assert (seen.far.epoch, seen.far.loss, seen.epochs, seen.units) == (6, 6.5, 9, 7)
    assert seen.left == seen.far.left and 79 < (seen.left or 0) <= 80
    halved = dataclasses.replace(task, halving=Halving(3, 1))  # a rung at 3, which is passed
    assert point(job._replace(task=halved), False).units == 7
    hold(task.run, step=390 + 1, epoch=2, loss=6.5, left=80.0)  # behind the metrics, as after a kill
    assert point(job, False).far.epoch == 5
    hold(task.run, "linear_eval", step=7, epoch=2, loss=0.5, left=3.0)
    probe = point(job, False)
    assert (probe.doing, probe.far.epoch, probe.far.loss, probe.epochs) == ("linear evaluation", 2, 0.5, None)
    assert point(job, True).doing == "stopping"
    assert point(job._replace(began=False), False) == Point("m=64", "starting", units=7)


def test_of_a_halved_run_the_time_to_its_rung_counts(checked: Checked, tmp_path: Path) -> None:
    config = checked("epochs=9")
    task = Task(Run(write_run(tmp_path, config, epochs=1)), config, halving=Halving(3, 1))
    hold(task.run, step=390 + 1, epoch=2, loss=6.5, left=80.0)
    seen = point(Job(task, 0, time.time(), began=True), False)
    assert seen.units == 3 and seen.left == pytest.approx((seen.far.left or 0) * 2 / 8)


def test_a_halved_sweep_is_over_no_earlier_than_halving_allows(checked: Checked, tmp_path: Path) -> None:
    """Nine points of 9 epochs with a rung at 3 train 9 * 3 + 3 * 6 epochs at least, here one after another."""
    configs = [checked("epochs=9", f"temperature=0.{i}") for i in range(1, 10)]
    tasks = [Task(Run(write_run(tmp_path, config, epochs=0)), config, halving=Halving(3, 1)) for config in configs]
    screen, now = Screen(), time.time()
    screen.pace = Pace(45.0, 45)
    sight = Sight([], tasks, [], [], {}, 1)
    assert screen._left(sight, [], now) == 45
    stands_at_rung = dataclasses.replace(tasks[0], run=Run(write_paused(tmp_path / "other", configs[0], 3)))
    screen = Screen()
    screen.pace = Pace(45.0, 45)
    assert screen._left(Sight([], tasks[1:], [], [stands_at_rung], {}, 1), [], now) == 42
    assert screen._left(sight, [], now) is not None and Screen()._left(sight, [], now) is None


def test_counts_and_the_end() -> None:
    ends = {Path("a"): State.DONE, Path("b"): State.FAILED, Path("c"): State.DONE}
    assert counts(Sight([], [], [], [], {}, 1)) == "0 of 0 done"
    task = Task(Run("x"))
    sight = Sight([Job(task, 0, 0.0, False)], [task, task], [task], [], ends, 1)
    assert counts(sight) == "2 of 7 done, 1 running, 1 running elsewhere, 1 failed, 2 left"
    noon = time.mktime((2026, 3, 2, 12, 0, 0, 0, 0, -1))
    assert over(noon, 5400, False) == "over at about 13:30, in 1h30m"
    assert over(noon, 86400, True) == "over not before Tue 03 Mar 12:00, in 24h00m"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_fits_the_terminal(width: int) -> None:
    far = HowFar(123, 6.54321, 48.333, 7777.0)
    points = [
        Point(f"temperature=0.{i} optimizer.weight_decay=0.0005", "training", far, 200, 7777.0) for i in range(10, 40)
    ]
    points.append(Point("temperature=1 optimizer.weight_decay=0.0005", "starting"))
    lines = ["3 of 99 done, 31 running, 65 left", "best 81.25: temperature=0.07 optimizer.weight_decay=0.0005"]
    for height in (12, 20, 180):
        console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
        console.print(picture(points, lines, console))
        shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, shown)) <= width and len(shown) < height, shown
        text = " ".join(" ".join(shown).split())
        assert "31 running, 65 left" in text and "temperature=0.10" in text and "123/200" in text and "2h09m" in text
        assert ("loss" in text) == (width > 40) and not shown[-1].strip()
        assert ("starting" in text) == (height == 180 and width > 60) and ("more" in text) == (height < 180)


def test_a_sweep_in_a_terminal_shows_its_jobs_and_goes_on_when_asked_to_stop(tmp_path: Path) -> None:
    words = [TRAIN, "-m", *LONG, "epochs=30", "seed=0,1", *SLOT]

    def interrupt(screen: Terminal) -> None:
        screen.wait("starting")
        wait_for(lambda: lines(tmp_path) >= 2)
        screen.wait("training")
        screen.wait("0 of 2 done, 1 running, 1 left")
        screen.type(b"\x03")

    seen = terminal(words, 80, 24, interrupt, code=75, cwd=tmp_path)
    assert "SIGINT: 1 job saves its checkpoint and stops" in plain(seen) and "Traceback" not in seen
    assert UP in seen and seen.count("\033[?25l") == seen.count("\033[?25h") == 1  # the cursor is there again
    assert {lease["ended"] for lease in leases(tmp_path)} == {"stopped"}
    seen = terminal(words, 80, 24, cwd=tmp_path)
    assert all(re.search(rf"\[{i}/2\] done  seed=\d  \d+\.\d\d  \(", plain(seen)) for i in (1, 2)), seen
    assert "best" in plain(seen) and "over at about" in plain(seen)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain(seen))) <= 80
    assert len(results(tmp_path)) == 2


def test_elsewhere_than_on_a_terminal_lines_stay_as_they_are(tmp_path: Path) -> None:
    """So they do on a terminal that cannot draw in place."""
    words = [TRAIN, "-m", *SHORT, "seed=0,1", "hydra.launcher.devices=cpu"]
    seen = terminal(words, 60, 24, cwd=tmp_path, TERM="dumb")
    assert "\033" not in seen and len(re.findall(r"^\[./2\] done  seed=. ", seen, re.MULTILINE)) == 2


def test_a_terminal_that_is_closed_does_not_end_the_sweep(tmp_path: Path) -> None:
    words = [TRAIN, "-m", *SHORT, "seed=0,1", *SLOT]

    def hang_up(screen: Terminal) -> None:
        screen.wait("starting")
        os.close(screen.master)

    terminal(words, 80, 24, hang_up, cwd=tmp_path)
    assert len(results(tmp_path)) == 2


def test_no_rich_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Screen() as screen:
        screen.show(lambda: pytest.fail("nobody sees it"))
        assert screen.live is None
