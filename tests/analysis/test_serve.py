"""The live page in a real browser and as an HTTP client sees it: what it shows, what it reads, and whom it answers."""

import dataclasses
import gzip
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from browsers import prefer
from commands import call, contents
from common import ENVIRONMENT, METHODS, ROOT, TINY, checked
from folders import point, write_paused, write_run

from moco.analysis import board, feed, serve
from moco.analysis.board import Board
from moco.analysis.repeat import alone, resuming
from moco.config.check import check
from moco.config.compose import composed
from moco.config.schema import Config
from moco.errors import UserError
from moco.runs.identity import folder_name
from moco.runs.lease import Holder, Place, born, machine
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

pytest.importorskip("plotly")
MARKUP = "<img src=x onerror=hacked=1>"


def hold(folder: Path, pid: int, epoch: int, ended: State | None = None, host: str = "") -> None:
    """A lease of that process, which has come so far."""
    now, progress = time.time(), {"epoch": epoch, "step": 390 * epoch + 1, "loss": 2.5, "left": 312.0}
    place = Place(sweep="s", queue="local", job="12")
    held = Holder("", host or machine(), "node7", pid, born(pid), now, "train", "cpu", place, progress, ended, "", now)
    (folder / "lease.json").write_text(json.dumps(dataclasses.asdict(held)))


def log(folder: Path, text: str) -> None:
    """Adds to the log of the run's job."""
    with open(folder / "log.out", "a") as file:
        file.write(text)
    record = {"job": "12", "log": f"{folder}/log.out", "queue": "local", "sweep": "s", "submitted": 0.0}
    (folder / "job.json").write_text(json.dumps(record))


def write_sweep_in_motion(runs_dir: Path) -> dict[str, Path]:
    """Two that are done, one that runs, one that failed, one that was stopped, one that is paused, one that is damaged."""
    cfg = checked("recipe=quickstart", "tracker=none", f"runs_dir={runs_dir}")
    at = lambda t: point(cfg, {"temperature": t})  # noqa: E731
    for i in range(2):
        write_run(runs_dir, at(0.05 * (i + 1)), top1=80.0 + i)
    found = {
        "running": write_run(runs_dir, at(0.3), epochs=6),
        "failed": write_run(runs_dir, at(0.5), epochs=3, error=f"RuntimeError: {MARKUP}\n"),
        "stopped": write_run(runs_dir, at(0.6), epochs=5),
        "paused": write_paused(runs_dir, at(0.8), 5),
        "damaged": runs_dir / f"a{MARKUP}-b-abc",
    }
    hold(found["running"], os.getpid(), 7)
    hold(found["stopped"], 1, 5, State.STOPPED)
    log(found["running"], f"epoch 6\n\033[31m{MARKUP}\033[0m\n")
    found["damaged"].mkdir()
    (found["damaged"] / "config.json").write_text("{")
    return found


class Served(NamedTuple):
    server: serve.Server
    folders: dict[str, Path]

    def get(self, path: str, host: str = "", token: str | None = None, **query: str) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers of an answer."""
        client = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        known = self.server.token if token is None else token
        words = "&".join(f"{key}={value}" for key, value in {"token": known, **query}.items())
        client.request("GET", f"{path}?{words}", headers={"Host": host or "127.0.0.1", "Accept-Encoding": "gzip"})
        answer = client.getresponse()
        text = gzip.decompress(answer.read()).decode()
        client.close()
        return answer.status, text, dict(answer.headers)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    for module, name, seconds in ((feed, "LOOK", 0.05), (feed, "SHARE", 0), (feed, "RENEW", 0), (board, "ALL", 0.2)):
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.chdir(tmp_path)
    folders = write_sweep_in_motion(tmp_path / "runs")
    server = serve.Server("runs", [], 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Served(server, folders)
    server.feed.end()
    server.shutdown()
    thread.join()
    server.server_close()


def until(browser: Any, script: str, wanted: object = True) -> None:
    """Waits until the script returns that."""
    deadline, found = time.monotonic() + 60, None
    while time.monotonic() < deadline:
        found = browser.execute_script(f"return {script}")
        if found == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"{script} is {found}")


@pytest.fixture
def visit(browser: Any, served: Served) -> Callable[..., Any]:
    """visit(width=390, scheme="dark") -> the browser with the page, which has its runs and its report."""

    def load(width: int = 1280, scheme: str = "light") -> Any:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        prefer(browser, scheme)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(served.server.address)
        until(browser, "document.querySelectorAll('.run').length", 5)
        until(browser, "document.querySelectorAll('iframe:not(.coming)').length", 1)
        return browser

    yield load
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    browser.get("about:blank")


def of(folder: Path, part: str) -> str:
    """Script for a part of the run's line."""
    return f"document.querySelector('.run[data-folder=\"{folder.name}\"] {part}')"


def test_it_shows_what_happens_now_and_the_report_below(visit, served) -> None:
    for width, scheme in ((1280, "light"), (390, "dark")):
        browser = visit(width, scheme)
        states = browser.execute_script(
            "return [...document.querySelectorAll('.states button')].map((b) => b.innerText)"
        )
        assert states[0] == "1 running" and sorted(states[1:4]) == ["1 damaged", "1 failed", "1 stopped"]
        assert states[4:] == ["1 paused", "2 done"]
        first = browser.execute_script("return document.querySelector('.run').innerText")
        for part in ("running", "temperature=0.3", "epoch 7 of 20", "loss 2.5000", "kNN ", "s left", "node7"):
            assert part in first, first
        overflow, drawn = browser.execute_script(
            "return [document.documentElement.scrollWidth - innerWidth, document.querySelectorAll('.plot .main-svg').length]"
        )
        assert overflow <= 0 and drawn >= 2
        report = browser.execute_script(
            "const page = document.querySelector('iframe').contentDocument;"
            "return [page.querySelector('.answer').innerText, page.querySelectorAll('.plot .main-svg').length,"
            " document.querySelector('iframe').clientHeight - page.documentElement.offsetHeight]"
        )
        assert "temperature=0.1" in report[0] and report[1] >= 4 and abs(report[2]) <= 1
    browser.execute_script("[...document.querySelectorAll('.states button')].at(-1).click()")
    until(browser, "document.querySelectorAll('.run').length", 2)


def test_it_grows_while_it_is_open(visit, served) -> None:
    browser, folder = visit(), served.folders["running"]
    curve = "[...document.querySelectorAll('#curves .plot')].at(-1).data.find((trace) => trace.showlegend).x.at(-1)"
    until(browser, curve, 6)
    browser.execute_script(
        "document.querySelector('#curves .plot').kept = true;"
        "const box = document.querySelector('iframe').contentDocument.getElementById('filter');"
        "box.value = 'temperature=0.3'; box.dispatchEvent(new Event('input')); document.querySelector('iframe').first = true"
    )
    line = {"epoch": 7, "step": 2730, "train/loss": 1.25, "knn/top1": 77.25, "knn/top5": 99.0, "seconds": 400.0}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    hold(folder, os.getpid(), 8)
    until(browser, f"{of(folder, '.knn')}.textContent", "kNN 77.25 %")
    until(browser, f"{of(folder, '.epoch span')}.textContent", "epoch 8 of 20")
    until(browser, curve, 7)
    assert browser.execute_script("return document.querySelector('#curves .plot').kept")  # what was zoomed stays
    browser.execute_script(f"{of(folder, 'button:last-child')}.click()")
    until(browser, f"{of(folder, '.end')}.textContent", f"epoch 6\n{MARKUP}")
    log(folder, "epoch 8\n")
    hold(folder, os.getpid(), 9)
    until(browser, f"{of(folder, '.end')}.textContent.split('\\n').at(-1)", "epoch 8")
    finished = next((folder.parent).glob("*/result.json")).read_text()
    hold(folder, os.getpid(), 20, State.DONE)
    (folder / "result.json").write_text(finished)
    until(browser, "[...document.querySelectorAll('.states button')].at(-1).textContent", "3 done")
    until(browser, "[...document.querySelectorAll('iframe:not(.coming)')].some((frame) => !frame.first)")
    words = "return document.querySelector('iframe:not(.coming)').contentDocument.getElementById('filter').value"
    assert browser.execute_script(words) == "temperature=0.3"


def test_what_folders_hold_is_text(visit, served) -> None:
    browser = visit()
    said = f"{of(served.folders['failed'], '.said')}.textContent"
    script = f"return [window.hacked, {said}, document.querySelectorAll('img').length]"
    assert browser.execute_script(script) == [None, f"RuntimeError: {MARKUP}", 0]
    assert MARKUP in browser.execute_script("return document.getElementById('runs').innerText.replace(/\\n/g, '')")
    frame = "const page = document.querySelector('iframe').contentWindow;"
    found = browser.execute_script(frame + "return [page.hacked, page.document.querySelectorAll('img').length]")
    assert found == [None, 0]


def test_the_button_copies_a_command_that_gives_the_run(visit, served) -> None:
    browser, folder = visit(), served.folders["stopped"]
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    browser.execute_script(f"{of(folder, '.copy')}.click()")
    until(browser, f"{of(folder, '.copy')}.textContent", "Copied")
    copied = browser.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
    )
    python, script, *words = shlex.split(copied)
    assert (python, script) == ("python", "train.py")
    assert folder_name(check(composed(words), [])) == folder.name
    shown = browser.execute_script("return [...document.querySelectorAll('.copy')].filter((one) => !one.hidden).length")
    assert shown == 3  # failed, stopped, paused; neither running nor damaged


def test_who_lacks_the_token_or_calls_it_by_a_foreign_name_gets_nothing(served) -> None:
    foreign = ("evil.example:80", "127.0.0.1.evil.example", "[")
    wrong = [*({"token": token} for token in ("", "x", "%C3%A4")), *({"host": host} for host in foreign)]
    for path in ("/", "/events", "/report", "/plotly.js", "/log", "/command", "/nothing"):
        for how in wrong:
            status, text, _ = served.get(path, **how)
            assert status == 403 and text.startswith("403: "), (path, how)
    with served.server.feed.reading():
        assert served.server.feed.since(0, 60)
    for host in ("localhost:9999", "127.0.0.1:1", "[::1]:80"):  # through a tunnel
        assert served.get("/log", host=host, run=served.folders["stopped"].name)[0] == 200
    for run in ("", "..", "../runs", "%2e%2e%2f", "nope"):
        assert served.get("/log", run=run)[0] == served.get("/command", run=run)[0] == 404
    assert served.get("/nothing")[0] == 404


def test_headers(served) -> None:
    _, page, headers = served.get("/")
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])[1]
    assert page.count(f'nonce="{nonce}"') == page.count("<script") == 3 and "unsafe" not in headers[
        "Content-Security-Policy"
    ].replace("style-src 'unsafe-inline'", "")
    for path in ("/", "/report"):
        _, text, headers = served.get(path)
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        assert (
            headers["X-Content-Type-Options"] == "nosniff" and "frame-ancestors" in headers["Content-Security-Policy"]
        )
        assert "http://" not in text and "https://" not in text


def test_only_folders_that_changed_are_read_and_only_rows_that_changed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_sweep_in_motion(tmp_path / "runs")
    one = Board(tmp_path / "runs", [])
    assert one.look() and len(one.since(0)["rows"]) == 7 and len(one.since(0)["curves"]) == 5
    read: list[str] = []
    before = Run.last_metrics
    monkeypatch.setattr(Run, "last_metrics", lambda run: read.append(run.folder.name) or before(run))
    monkeypatch.setattr(
        Run, "flat_config", property(lambda run: pytest.fail("a configuration is read again")), raising=True
    )
    assert not one.look() and read == []
    monkeypatch.undo()
    monkeypatch.setattr(Run, "last_metrics", lambda run: read.append(run.folder.name) or before(run))
    version = one.version
    hold(folders["running"], os.getpid(), 8)
    assert one.look() and set(read) == {folders["running"].name}
    told = one.since(version)
    assert [row["epoch"] for row in told["rows"]] == [8] and told["all"] is None and told["curves"] == {}
    assert len(json.dumps(told)) < len(json.dumps(one.since(0))) / 3


def test_a_holder_that_dies_is_seen_without_a_word_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = write_sweep_in_motion(tmp_path / "runs")
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    hold(folders["running"], launcher.pid, 8)
    one = Board(tmp_path / "runs", [])
    state = lambda: one.seen[folders["running"].name].row["state"]  # noqa: E731
    one.look()
    assert state() == "running"
    launcher.communicate(b"\n")
    monkeypatch.setattr(board, "ALL", 0)
    assert one.look() and state() == "killed" and one.seen[folders["running"].name].row["again"]


def test_runs_that_come_and_folders_that_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "ALL", 0)
    folders = write_sweep_in_motion(tmp_path / "runs")
    one = Board(tmp_path / "runs", [])
    one.look()
    version = one.version
    new = write_run(tmp_path / "runs", checked("recipe=quickstart", "tracker=none", "temperature=0.9", "seed=3"))
    assert one.look() and new.name in one.since(version)["all"]
    assert "seed=0" in one.seen[folders["running"].name].row["settings"]  # which tells it from the new one
    (tmp_path / "runs").rename(tmp_path / "away")
    assert one.look() and "there are no runs" in " ".join(one.since(0)["notes"]) and len(one.seen) == 8


def test_a_process_of_its_own_writes_nothing_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    folders = write_sweep_in_motion(tmp_path / "runs")
    hold(folders["stopped"], 1, 5, host="elsewhere")  # of which the clock would be asked
    before = contents(tmp_path)
    command = [sys.executable, "-m", "moco", "status", "--serve"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, stdout=-1, stderr=-1, text=True
    )
    assert process.stdout and process.stderr
    address, tunnel = process.stdout.readline().strip(), process.stdout.readline()
    port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})", address).groups()
    assert re.search(rf"ssh -N -L {port}:127\.0\.0\.1:{port} \S+@{re.escape(os.uname().nodename)}$", tunnel.strip())
    with urllib.request.urlopen(address.replace("/?", "/events?"), timeout=60) as events:
        assert events.readline() and len(json.loads(events.readline().removeprefix(b"data: "))["rows"]) == 7
        with urllib.request.urlopen(address.replace("/?", "/report?"), timeout=60) as report:
            assert b"is the highest of 2" in report.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == "\nended\n" and token not in out
    assert contents(tmp_path) == before


def test_a_port_that_is_taken(served, capsys) -> None:
    assert call(["report", "--serve", "--port", str(served.server.server_port)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: port {served.server.server_port} cannot be had (Address already in use): give another"
    )


WORDS = [
    *([*METHODS[method], *TINY] for method in METHODS),
    ["recipe=moco_v2plus", "temperature=0.3", "data=image_folder", "data.root='/a b'", "data.name=p"],
    ["recipe=simclr_cifar", "optimizer=adam", "augment.crop=[0.3,0.9]", "eval_every=7", "seed=1"],
    ["model=timm", "model.architecture=resnet10t", "batch_size=64", "linear_eval=true", "probe=cached", "probe.lr=0.5"],
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_the_words_of_a_command_give_the_same_configuration(words: list[str], checked, tmp_path: Path) -> None:
    config: Config = checked(*words)
    command = shlex.split(alone(Run(write_run(tmp_path / "runs", config)), tmp_path / "runs"))
    assert command[:2] == ["python", "train.py"] and command[-1] == f"runs_dir={tmp_path}/runs"
    assert check(composed(command[2:]), []) == config
    assert len(command) <= len(words) + 6


def test_a_run_of_slurm_goes_on_by_its_sweeps_command_and_what_has_none_says_so(
    checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(write_run(tmp_path / "runs", checked("temperature=0.3"), epochs=3))
    typed = ["train.py", "-m", "hydra/launcher=slurm", "temperature=0.3", "data.root=/a b"]
    monkeypatch.setattr(sys, "argv", typed)
    Sweep(tmp_path / "runs", "both").record([run.folder.name])
    run.note_job("12_0", "log", "slurm", "both")
    assert resuming(run, "runs") == "python " + shlex.join(typed)
    monkeypatch.setattr(sys, "argv", ["linear_eval.py", "sweep=both", "hydra/launcher=slurm"])
    Sweep(tmp_path / "runs", "both").record([])  # of the runs that are done
    assert resuming(run, "runs") == "python " + shlex.join(typed)
    (run.folder / "job.json").unlink()
    frozen = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(frozen | {"seed": 5}))
    with pytest.raises(UserError, match="launch it as before"):
        resuming(run, "runs")
