"""Uploading to W&B what runs have kept offline, to a stand-in for its server. The network is this machine alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import wandb
from common import python
from folders import write_paused
from tracked import STEPS, offline, rows, track
from wandb_server import wandb_server

from moco.analysis import sync
from moco.errors import UserError
from moco.io import read_mapping, write_json
from moco.runs.lease import Place
from moco.runs.run import Run
from moco.tracking.wandb_mirror import WHOLE

pytestmark = pytest.mark.usefixtures("without_login")
LINEAR: dict[str, Any] = {"step": 30, "linear/top1": 61.0}


def test_sync_uploads_interrupted_runs_as_one_and_names_what_fails(run: Run, tmp_path: Path, capsys, monkeypatch):
    track(run, STEPS[:2], place=Place("temperatures", "temperature=0.1"))
    run.note_job("1", "log", "local", "temperatures", "temperature=0.1")
    track(run, STEPS, before=1)  # the second step was not in the checkpoint: it is repeated
    track(run, [*STEPS, LINEAR], before=3, job_type="linear_eval")
    other = Run(tmp_path / "runs" / "moco-small-digits-bbbbbbbbbb")
    other.folder.mkdir()
    track(other, STEPS)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        wandb.teardown()
        server.refuse = {other.id}
        with pytest.raises(UserError, match="^1 of 2 runs were not uploaded"):
            sync.sync([run, other])
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].startswith(f"{run.folder.name}: uploaded, {server.address}/me/moco/runs/{run.id}")
        assert shown[1] == f"{other.folder.name}: failed (permission denied)"
        assert server.history(run.id) == [{"_step": step, **row} for step, row in rows([*STEPS, LINEAR])]
        kept = server.runs[run.id]
        assert (kept["groupName"], kept["displayName"]) == ("temperatures", f"temperature=0.1 ({run.id})")
        assert kept["summary"]["knn/top1"] == {"max": 55.0} and kept["summary"]["linear/top1"] == {"max": 61.0}
        assert json.loads(kept["config"])["method"]["value"]["name"] == "moco"
        assert sync.pending(run) is None and sync.pending(other) is not None

        server.refuse = set()
        sync.sync([run, other])
        assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == [
            f"{other.folder.name}: uploaded"
        ]
        sync.sync([run, other])
        assert capsys.readouterr().out.startswith("nothing to upload: none of 2 runs has")


def test_the_newest_file_that_holds_anything_is_uploaded(run: Run) -> None:
    assert sync.pending(run) is None
    old, new = offline(run, "000001"), offline(run, "000002")
    offline(run, "000003", b"")
    assert sync.pending(run) == new
    assert sync.command(new)[1:] == ["-m", "wandb", "sync", str(new.absolute())]
    sync.mark(old).touch()
    assert sync.pending(run) == new
    sync.mark(new).touch()
    assert sync.pending(run) is None
    offline(run, "000004")
    assert sync.pending(run) is not None
    online = offline(run, "000005", mode="run")  # the run went on online, and was cut off there
    assert sync.pending(run) == online
    (online.parent / WHOLE).touch()
    assert sync.pending(run) is None


def test_a_run_that_is_running_is_left_for_later(run: Run, capsys) -> None:
    offline(run, "000001")
    with run.lease(what="train"):
        sync.sync([run])
    assert capsys.readouterr().out == f"{run.folder.name}: is running, upload it when it has ended\n"


def test_without_a_key_or_a_server_one_line_says_what_to_do(run: Run, monkeypatch, tmp_path: Path) -> None:
    offline(run, "000001")
    with pytest.raises(UserError, match=r"wandb has no key for http://127.0.0.1:9: get a key at .* `wandb login`, or"):
        sync.sync([run])
    shown = python("-m", "moco", "sync", cwd=tmp_path, **os.environ)
    assert shown.returncode == 1 and len(shown.stderr.splitlines()) == 1 and "WANDB_API_KEY" in shown.stderr
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    with pytest.raises(UserError, match="^http://127.0.0.1:9 does not answer .* sync where there is a network$"):
        sync.sync([run])


@pytest.mark.parametrize("ended, code", [("paused", 0), ("killed", 1), (None, 0)])
def test_a_file_that_is_written_anew_says_how_the_run_ended(
    checked, finish, tmp_path, monkeypatch, ended, code
) -> None:
    """As failed (1), unless the run is done or only paused."""
    made = []

    class Mirror:
        def __init__(self, *about: object):
            made.append(self)

        def catch_up(self, lines: list[dict[str, Any]]) -> None:
            self.lines = lines

        def finish(self, exit_code: int) -> None:
            self.exit_code = exit_code

    monkeypatch.setattr(sync, "WandbMirror", Mirror)
    run = Run(write_paused(tmp_path / "runs", checked("epochs=90"), 10) if ended else finish())
    if ended:
        write_json(run.folder / "lease.json", {**read_mapping(run.folder / "lease.json"), "ended": ended})
    sync.write_anew(run)
    [mirror] = made
    assert mirror.exit_code == code and mirror.lines == run.metrics()
