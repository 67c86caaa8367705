"""Where runs stand: read off folders, printed plainly, drawn in terminals, watched in a real one."""

import contextlib
import dataclasses
import io
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from folders import write_paused, write_sweep
from rich.console import Console
from terminals import Terminal, plain, terminal

from moco.__main__ import main
from moco.analysis import status
from moco.analysis.standings import Standing, standings
from moco.analysis.status import text
from moco.io import write_json
from moco.launch import promotion, slurm_client
from moco.launch.slurm_client import Queue, QueueEntry
from moco.runs.lease import Holder, Place, born, machine
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Launch, Sweep

IMPORTANT = ("id", "state", "epoch", "kNN", "settings")
MANY = [
    Standing("abcdefghij", State.DONE, "temperature=0.07 m=512", 200, 200, 5.1234, 81.25, 88.5),
    Standing(
        "bcdefghijk", State.RUNNING, "temperature=0.07 m=65536", 31, 200, 6.5, 48.33, None, 7777.0, "n17:gpu 0", "12"
    ),
    Standing("cdefghijkl", State.QUEUED, "temperature=0.1 m=512", where="Resources", job="1234567_13"),
    Standing("defghijklm", State.OUT_OF_MEMORY, "temperature=0.1 m=65536", 3, 200, 7.25, 11.0, job="1234567_14"),
    Standing("efghijklmn", State.PENDING, "temperature=0.2 m=512"),
]


def hold(run: Run, place: Place, **progress: float) -> None:
    """A lease of a process that lives: this one."""
    pid, now = os.getpid(), time.time()
    holder = Holder("x", machine(), "node7", pid, born(pid), now, "train", "cuda:0", place, progress)
    write_json(run.folder / "lease.json", dataclasses.asdict(holder))


@pytest.fixture
def runs(finish: Callable[..., Path]) -> list[Run]:
    """One done, one that runs in a slot, one that failed, one that waits."""
    made = [
        finish("seed=0", top1=81.0, linear_cached=85.0),
        finish("seed=1", epochs=30),
        finish("seed=2", epochs=3, error="no"),
        finish("seed=3", epochs=5),
    ]
    runs = [Run(folder) for folder in made]
    hold(runs[1], Place("s", "seed=1", "local", "77", "gpu0", "0"), epoch=31.0, loss=6.5, left=7777.0)
    runs[1].note_job("77", "log", "local", "s")
    return runs


def test_standings_are_what_the_folders_and_the_queue_say(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    runs[3].note_job("12_3", "log", "slurm", "s")
    monkeypatch.setattr(slurm_client, "queued", lambda runs: Queue({"12_3": QueueEntry("PENDING", "Resources")}))
    done, running, failed, queued = standings(runs)
    assert done == Standing(runs[0].id, State.DONE, "seed=0", 200, 200, done.loss, 81.0, 85.0, trained=200)
    assert (running.trained, failed.trained) == (30, 3)
    assert (running.state, running.epoch, running.epochs, running.loss) == (State.RUNNING, 31, 200, 6.5)
    assert (running.where, running.job, running.linear) == ("node7:gpu 0", "77", None)
    assert running.left is not None and 7767 <= running.left <= 7777  # since the last heartbeat
    assert running.knn == runs[1].last_metrics()["knn/top1"] and running.settings == "seed=1"
    assert (failed.state, failed.epoch, failed.knn, failed.where) == (State.FAILED, 3, None, "")
    assert (queued.state, queued.where, queued.job) == (State.QUEUED, "Resources", "12_3")


def test_a_linear_evaluation_that_runs_shows_the_trainings_epochs_and_tells_no_pace(
    finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    probed, queued = Run(finish("seed=0")), Run(finish("seed=1", epochs=5))
    for i, run in enumerate((probed, queued)):
        run.note_job(f"12_{i}", "log", "slurm", "s", work=["knn", "linear"])
    hold(probed, Place("s", "seed=0", "slurm", "12_0"), epoch=12.0, loss=0.5, left=60.0)
    lease = probed.folder / "lease.json"
    lease.write_text(lease.read_text().replace('"train"', '"linear_eval"'))
    queue = Queue({"12_0": QueueEntry("RUNNING"), "12_1": QueueEntry("PENDING")})
    monkeypatch.setattr(slurm_client, "queued", lambda runs: queue)
    found = standings([probed, queued])
    assert (found[0].state, found[0].epoch, found[0].epochs) == (State.RUNNING, 200, 200)
    assert found[0].left is not None and "over in" not in text(found)


def test_a_run_whose_folder_is_gone_is_missing(tmp_path: Path) -> None:
    assert standings([Run(tmp_path / "runs" / "moco-x-y-absentabse")])[0].state == State.MISSING


def test_after_an_attempt_by_hand_the_log_of_the_job_before_tells_nothing(
    finish: Callable[..., Path], tmp_path: Path
) -> None:
    run, log = Run(finish("seed=0", epochs=3, error="RuntimeError: new\n")), tmp_path / "log"
    log.write_text("slurmstepd: error: Detected 1 oom-kill event\n")
    run.note_job("77", str(log), "slurm", "s")
    assert run.log_tail(1) == [log.read_text().strip()]
    hold(run, Place())
    lease = json.loads((run.folder / "lease.json").read_text())
    write_json(run.folder / "lease.json", lease | {"started": time.time() + 1, "ended": State.KILLED})
    assert run.log_tail(1) == ["RuntimeError: new"]
    assert slurm_client.explain(run, State.KILLED, Queue({})) == State.KILLED


def test_what_other_programs_wrote_is_shown_as_damaged_or_left_out(finish, tmp_path: Path, capsys) -> None:
    finish("seed=0")
    for i, (name, content) in enumerate(
        [
            ("lease.json", "[1]"),
            ("lease.json", '{"machine": 3}'),
            ("job.json", "17"),
            ("job.json", '{"queue": "slurm"}'),
            ("metrics.jsonl", "7\nnull\n{"),
            ("metrics.jsonl", "\xff\x00"),
            ("config.json", "\xff"),
            ("result.json", ""),
            ("error.txt", "\xff"),
        ]
    ):
        folder = finish(f"seed={i + 1}", epochs=3)
        (folder / name).write_bytes(content.encode("latin-1"))
    assert main(["status", "--runs-dir", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert all(run.id in out for run in all_runs(tmp_path / "runs"))
    assert "config.json cannot be read" in out and "result.json cannot be read" in out
    assert out.splitlines()[-1] == "4 damaged, 4 pending, 1 done, 1 failed"


def test_plain_text_has_full_width_and_no_colours() -> None:
    lines = text(MANY).splitlines()
    assert lines[0].split() == ["id", "state", "epoch", "loss", "kNN", "linear", "left", "where", "job", "settings"]
    assert lines[2].split() == ["bcdefghijk", "running", "31/200", "6.5000", "48.33", "2h09m", "n17:gpu", "0", "12"] + [
        "temperature=0.07",
        "m=65536",
    ]
    starts = [line.index("temperature=") for line in lines[1:6]]
    assert len(set(starts)) == 1 and starts[0] == lines[0].index("settings")
    assert lines[-3:] == [
        "1 done, 1 running, 1 queued, 1 out of memory, 1 pending",
        "best kNN so far 81.25: temperature=0.07 m=512",
        "over in about 2h09m, at the pace of those that run",
    ]
    assert "\033" not in text(MANY)
    assert "linear" not in text(MANY[2:]) and "left" not in text(MANY[2:])  # empty columns are left out


def drawn(found: Sequence[Standing], width: int, **options: object) -> str:
    out = io.StringIO()
    status.show(found, Console(file=out, width=width, **options))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_what_matters_stays_whole_in_a_terminal(width: int) -> None:
    shown = drawn(MANY, width)
    lines = [line.rstrip() for line in shown.splitlines()]
    assert all(len(line) <= width for line in lines) and "…" not in shown
    assert set(IMPORTANT) <= set(lines[0].split())
    words = set(shown.split())
    for one in MANY:
        numbers = {} if one.epoch is None else {f"{one.epoch}/{one.epochs}", f"{one.knn:.2f}"}
        assert {one.id, *one.state.split(), *one.settings.split(), *numbers} <= words
    left_out = [name for name in ("loss", "linear", "left", "where", "job") if name not in lines[0].split()]
    assert bool(left_out) == (width < 160)
    assert not left_out or lines[-1] == f"Not shown in {width} columns: {', '.join(left_out)}"


def test_states_have_colours_in_a_terminal() -> None:
    paused = Standing("fghijklmno", State.PAUSED, "temperature=0.2 m=65536")
    shown = drawn([*MANY, paused], 160, force_terminal=True, color_system="standard", legacy_windows=False)
    colours = {
        state: re.search(rf"\033\[([\d;]+)m *{state}", shown)[1]  # type: ignore[index]
        for state in ("done", "running", "queued", "out of memory", "pending", "paused")
    }
    assert colours == {
        "done": "32",
        "running": "36",
        "queued": "33",
        "out of memory": "31",
        "pending": "2",
        "paused": "93",
    }


def test_on_a_short_screen_what_happens_now_comes_first() -> None:
    done = [dataclasses.replace(MANY[0], id=f"done{i:06d}") for i in range(40)]
    for found, height in (([*done, *MANY[1:]], 20), (MANY, 11)):
        console = Console(file=io.StringIO(), width=160, height=height)
        lines = console.render_lines(status._screen(found, 5, console), pad=False)
        texts = ["".join(segment.text for segment in line).rstrip() for line in lines]
        assert len(texts) == height - 1 and texts[-1] == ""
        left_out = len(found) - sum(bool(re.match(r"[a-z]{4}\w{6} ", line)) for line in texts)
        assert sum(map(int, re.findall(r"\d+", texts[-2]))) == left_out and texts[-2].startswith("... and ")
        assert any(line.split()[:2] == ["id", "state"] for line in texts)
        assert "1 running" in texts[1]
        rows = [line.split()[0] for line in texts if re.match(r"[a-z]{4}\w{6} ", line)]
        assert rows[:2] == ["bcdefghijk", "cdefghijkl"]
    console = Console(file=io.StringIO(), width=160, height=40)
    whole = console.render_lines(status._screen(MANY, 5, console), pad=False)
    assert [line[0].text.split()[0] for line in whole[6:11]] == [one.id for one in MANY]


def test_watching_into_a_pipe_prints_plain_tables_until_all_have_ended(capsys) -> None:
    looks = iter([MANY, [MANY[0], MANY[3]]])
    status.watch(lambda: next(looks), 0.01, None)
    out = capsys.readouterr().out
    assert out.count("every 0.01s, Ctrl-C ends") == 2 and "\n1 done, 1 out of memory\n" in out and "\033" not in out


def test_watch_redraws_in_place_and_ctrl_c_ends_it_quietly(runs: list[Run]) -> None:
    runs_dir = str(runs[0].folder.parent)
    command = ["-m", "moco", "status", "--watch", "--seconds", "0.2", "--runs-dir", runs_dir]

    def talk(screen: Terminal) -> None:
        screen.wait("31/200")
        hold(runs[1], Place(), epoch=32.0, loss=6.25, left=60.0)
        screen.wait("32/200")
        screen.type(b"\x03")

    seen = terminal(command, 80, 30, talk)
    assert "Traceback" not in seen and "KeyboardInterrupt" not in seen
    first, _, later = seen.partition("31/200")
    assert "\033[1A" in later  # the cursor went up, the next table stands in the same place
    last = plain(seen.rpartition("id ")[2])
    assert "32/200" in last and "1 running" in last and "seed=3" in last


def test_in_a_terminal_the_table_fits_and_in_a_pipe_it_is_markdown(finish, tmp_path: Path, capsys) -> None:
    finish("recipe=moco_cifar", top1=81.25)
    words = ["table", "--runs-dir", str(tmp_path / "runs")]
    shown = terminal(["-m", "moco", *words], 60, 30)
    assert "81.25" in plain(shown) and "Neighbours=200" in plain(shown) and "| " not in plain(shown)
    assert max(len(line.rstrip()) for line in plain(shown).splitlines()) <= 60, shown
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("| Protocol | Method |")
    assert "| kNN |" in terminal(["-m", "moco", *words, "--format", "markdown"], 60, 30)


def test_no_color_is_heeded(runs: list[Run]) -> None:
    words = ["-m", "moco", "status", "--runs-dir", str(runs[0].folder.parent)]
    colour = re.compile(r"\033\[(\d+;)*(3|9)\dm")
    assert colour.search(terminal(words, 80, 30))
    assert not colour.search(terminal(words, 80, 30, NO_COLOR="1"))


def test_a_linear_evaluation_that_failed_is_told_though_its_run_is_done(finish: Callable[..., Path]) -> None:
    run = Run(finish("seed=0", top1=81.0))
    with contextlib.suppress(ZeroDivisionError), run.lease("linear_eval"):
        1 / 0  # noqa: B018
    [standing] = standings([run])
    assert (standing.state, standing.trouble) == (State.DONE, "failed")
    assert text([standing]).splitlines()[-2:] == [
        "1 done",
        f"linear evaluation of {run.id} failed: see python -m moco logs {run.id}",
    ]
    with run.lease("linear_eval"):
        assert standings([run])[0].trouble == ""
    assert "linear evaluation" not in text(standings([run]))


def test_a_job_that_loads_torch_is_starting(finish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of this machine, as long as its process lives and before it holds the run; one of SLURM's, by its queue."""
    run = Run(finish("seed=0", epochs=5))
    run.note_job(str(os.getpid()), "log", "local", "s")
    [standing] = standings([run])
    assert (standing.state, standing.epoch, standing.left) == (State.STARTING, 5, None) and not standing.has_ended
    hold(run, Place(), epoch=6.0)
    assert standings([run])[0].state == State.RUNNING
    (run.folder / "lease.json").unlink()
    run.fail(ValueError())
    assert standings([run])[0].state == State.FAILED
    run.note_job(str(2**22 + 1), "log", "local", "s")  # no process has such a number
    (run.folder / "error.txt").unlink()
    assert standings([run])[0].state == State.PENDING
    run.note_job("12_3", "log", "slurm", "s")
    for word, state in {"PENDING": State.QUEUED, "RUNNING": State.STARTING}.items():
        monkeypatch.setattr(slurm_client, "queued", lambda runs, word=word: Queue({"12_3": QueueEntry(word)}))
        assert standings([run])[0].state == state


def test_time_left_and_best_of_a_sweep() -> None:
    running = Standing("a", State.RUNNING, "m=1", 51, 100, knn=30.0, left=100.0, trained=50)
    waits = [Standing("b", State.PENDING, "m=2", epochs=100), Standing("c", State.STARTING, "m=3", epochs=100)]
    said = text([running, *waits]).splitlines()
    assert said[-1] == "over in about 5m00s, at the pace of those that run"  # two at a time: 100 + 200 s beside 200 s
    assert "best" not in said[-2]
    done = Standing("d", State.DONE, "m=4", 100, 100, knn=29.0)
    assert "best kNN so far 30.00: m=1 (running)" in text([running, done])
    assert "over in" not in text([*waits, done])
    other = dataclasses.replace(done, settings="data=digits m=4")
    assert "best" not in text([running, other])


# Paused runs

WHY = "rung 1 of 2: rank 5 of the 9 that are here, of 9"


@pytest.fixture
def paused(finish, checked, tmp_path: Path) -> list[Run]:
    """A sweep of two that are paused and one that is done; its launcher has ended."""
    at = Place("grid", queue="local", job="7")
    folders = [
        write_paused(tmp_path / "runs", checked("epochs=90", f"seed={i}"), 10, 40.0 + i, why=WHY, place=at)
        for i in range(2)
    ]
    folders.append(finish("epochs=90", "seed=2"))
    write_sweep(tmp_path / "runs", "grid", folders)
    return [Run(folder) for folder in folders]


def test_a_paused_run_tells_its_epoch_and_why(paused: list[Run]) -> None:
    first, _, done = standings(paused)
    assert (first.state, first.epoch, first.epochs, first.knn) == (State.PAUSED, 10, 90, 40.0)
    assert first.where == WHY and done.where == "" and first.has_ended and done.has_ended
    lines = text(standings(paused)).splitlines()
    assert WHY in lines[1] and "10/90" in lines[1]
    trained, grid = 10 + 10 + 90, 3 * 90
    share = f"{100 * trained / grid:.0f} %"
    said = ["2 paused, 1 done", f"{trained} of the grid's {grid} epochs ({share}) are trained"]
    assert lines[-3:] == [*said, "best kNN so far 50.00: seed=2"]
    assert "trained" not in text(MANY)


def test_of_one_paused_run_the_reason_is_told_in_any_width(paused: list[Run]) -> None:
    for width in (60, 160):
        shown = " ".join(drawn(standings(paused[:1]), width).split())
        assert "1 paused 10 of the grid's 90 epochs" in shown and f"{paused[0].id} waits at {WHY}" in shown


def test_on_a_short_screen_paused_runs_come_after_what_went_wrong() -> None:
    last = [Standing("paused", State.PAUSED, ""), MANY[3]]
    order = [one.state for one in sorted([*last, *MANY], key=status._urgency)]
    assert order == [
        State.RUNNING,
        State.QUEUED,
        State.PENDING,
        State.OUT_OF_MEMORY,
        State.OUT_OF_MEMORY,
        State.PAUSED,
        State.DONE,
    ]


def test_watching_ends_when_all_are_done_or_paused(paused: list[Run], capsys) -> None:
    status.watch(lambda: standings(paused), 0.01, None)
    assert capsys.readouterr().out.count("Ctrl-C ends") == 1


def test_watching_goes_on_while_somebody_decides_who_goes_on(paused: list[Run], capsys, monkeypatch) -> None:
    sweep = Sweep(paused[0].folder.parent, "grid")
    record = {"name": "grid", "runs": [run.folder.name for run in paused]}
    write_json(sweep.path, {**record, "launches": [dataclasses.asdict(Launch.now())]})  # this process lives
    assert [s.undecided for s in standings(paused)] == [True, True, False]
    write_json(sweep.path, {**record, "launches": []})
    looks = iter([[MANY[0], dataclasses.replace(MANY[0], state=State.PAUSED, undecided=True)], MANY[:1]])
    status.watch(lambda: next(looks), 0.01, None)
    assert capsys.readouterr().out.count("Ctrl-C ends") == 2
    promotion.note(sweep, "17")
    for queue, undecided in ({"17": QueueEntry("PENDING", "Dependency")}, True), ({}, False):
        monkeypatch.setattr(slurm_client, "queued", lambda runs, queue=queue: Queue(queue))
        assert [s.undecided for s in standings(paused)] == [undecided, undecided, False]
