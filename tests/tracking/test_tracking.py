"""wandb for real, offline: what it holds is what was logged, and nothing that it does stops a training."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from tracked import CONFIG, LINES, SETTINGS, STEPS

from moco.config.schema import Tracking
from moco.errors import UserError
from moco.runs.lease import BY_HAND, Place
from moco.runs.run import Run
from moco.tracking.tracker import Tracker, open_tracker
from moco.tracking.wandb_mirror import folders, is_whole

pytestmark = pytest.mark.usefixtures("without_login")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "runs" / "moco-small-digits-abcdefghij"
    folder.mkdir(parents=True)
    return Run(folder)


def read_back(run: Run) -> list[list[dict[str, Any]]]:
    """The records of each of the run's wandb files, oldest first."""
    wandb_command = Path(sys.executable).with_name("wandb")
    found = []
    for path in sorted((run.folder / "wandb").glob("offline-run-*/*.wandb")):
        text = subprocess.run(
            [wandb_command, "leet", "inspect", "--json", path], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        found.append([json.loads(line) for line in text.splitlines()])
    return found


def of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def history(records: list[dict[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    items = [entry["item"] for entry in of(records, "history")]
    return [(item["_step"], {k: v for k, v in item.items() if not k.startswith("_")}) for item in items]


def test_an_attempt_that_ends_before_it_has_caught_up_is_not_whole(run: Run):
    """Else sync would take it for the newest state of the run, and lose what the attempts before it have logged."""
    for line in STEPS:
        run.append_metrics(line)
    with pytest.raises(UserError), open_tracker(SETTINGS, run, CONFIG, "train", BY_HAND):
        raise UserError("the checkpoint is cut short")
    assert not is_whole(folders(run)[-1])
    with open_tracker(SETTINGS, run, CONFIG, "train", BY_HAND) as tracker:
        tracker.catch_up(run.metrics())
    assert is_whole(folders(run)[-1])


def test_what_is_logged_is_what_wandb_holds(run: Run, capfd):
    tracker = open_tracker(SETTINGS, run, CONFIG, "train", Place(sweep="temperatures"))
    for i, line in enumerate(LINES):
        tracker.log(10 * (i + 1), line)
    tracker.finish()
    # Linear evaluation later, in a process of its own as far as wandb knows: same id, another part of the same run.
    tracker = open_tracker(SETTINGS, run, CONFIG, "linear_eval", BY_HAND)
    tracker.log(30, {"linear/top1": 61.0, "linear/top5": 95.0})
    tracker.finish(1)
    assert wandb.run is None and capfd.readouterr() == ("", "")

    training, probing = read_back(run)

    assert history(training) == [(10, LINES[0]), (20, LINES[1]), (30, LINES[2])]
    assert history(probing) == [(30, {"linear/top1": 61.0, "linear/top5": 95.0})]
    [begun] = of(training, "run")[:1]
    assert (begun["run_id"], begun["display_name"]) == (run.id, run.folder.name) == ("abcdefghij", run.folder.name)
    assert (begun["project"], begun["run_group"], begun["job_type"]) == ("moco", "temperatures", "train")
    assert sorted(begun["tags"]) == ["a", "b"]
    config = begun["config"]["update"]
    assert (config["temperature"], config["m"], config["method"]["name"], config["optimizer"]["lr"]) == (
        0.1,
        64,
        "moco",
        0.06,
    )
    assert "tracker" not in config and not {"m", "_target_"} & set(config["method"])
    assert (of(probing, "run")[0]["run_id"], of(probing, "run")[0]["job_type"]) == (run.id, "linear_eval")
    summary: dict[str, Any] = {}
    for record in of(training, "summary"):
        summary |= record.get("update", {})
    assert summary["knn/top1"] == {"max": 55.0} and summary["knn/top5"] == {"max": 90.0}
    assert summary["train/loss"] == 2.0
    assert [of(records, "exit")[0].get("exit_code", 0) for records in (training, probing)] == [0, 1]


def test_the_group_that_is_asked_for_wins_over_the_sweep(run: Run, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: asked.append(arguments) or _Recorder())
    for group, sweep in (("mine", "swept"), (None, "swept"), (None, None)):
        open_tracker(SETTINGS.model_copy(update={"group": group}), run, CONFIG, "train", Place(sweep=sweep))
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    open_tracker(SETTINGS, run, CONFIG, "train", BY_HAND)  # alone it would be the id of every point of a sweep
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")  # as an agent of a wandb sweep sets both
    open_tracker(SETTINGS, run, CONFIG, "train", BY_HAND)
    assert [a["group"] for a in asked] == ["mine", "swept", None, None, None]
    assert [a["id"] for a in asked] == [run.id] * 4 + ["theirs"]


class _Recorder:
    """A wandb run that raises as soon as `broken` is set."""

    def __init__(self):
        self.broken, self.calls = False, []
        self.starting_step, self.summary = 0, {}

    def define_metric(self, name, summary):
        pass

    def _note(self, what):
        self.calls.append(what)
        if self.broken:
            raise OSError("no space left on device\nand more lines")

    def log(self, metrics, step):
        self._note(("log", step, metrics))

    def finish(self, exit_code):
        self._note(("finish", exit_code))


def test_a_tracker_that_fails_says_so_once_and_falls_silent(run: Run, monkeypatch: pytest.MonkeyPatch, capsys):
    recorder = _Recorder()
    monkeypatch.setattr(wandb, "init", lambda **arguments: recorder)
    tracker = open_tracker(SETTINGS, run, CONFIG, "train", BY_HAND)
    tracker.log(1, LINES[0])
    recorder.broken = True
    for step in (2, 3):
        tracker.log(step, LINES[1])
    tracker.finish()
    assert recorder.calls == [("log", 1, LINES[0]), ("log", 2, LINES[1])]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: wandb failed and is left out from here on (OSError: no space left on device")


def test_one_that_cannot_start_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch, capsys):
    def fail(**arguments):
        raise wandb.errors.CommError("the service does not answer")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = open_tracker(SETTINGS, run, CONFIG, "train", BY_HAND)
    tracker.log(1, LINES[0])
    tracker.finish()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: wandb failed and is left out from here on (CommError: the service does not answer")


def test_training_goes_on_without_its_tracker(tiny, monkeypatch: pytest.MonkeyPatch, capsys):
    from moco.training.pretrain import train

    recorder = _Recorder()
    recorder.broken = True
    monkeypatch.setattr(wandb, "init", lambda **arguments: recorder)
    top1 = train(tiny("moco", "tracker=wandb", "epochs=1"))
    assert top1 > 10  # better than a guess among ten digits, with every line logged to a tracker that fails
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: wandb failed")]
    assert len(warnings) == 1 and len(recorder.calls) == 1


def test_online_without_a_key_goes_on_offline_with_one_line(run: Run, capfd):
    tracker = open_tracker(SETTINGS.model_copy(update={"mode": "online"}), run, CONFIG, "train", BY_HAND)
    tracker.log(10, LINES[0])
    tracker.finish()
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: wandb cannot go online (")
    assert line.endswith("this run goes on offline, and `python -m moco sync` uploads it later")
    assert "wandb login" in line
    [records] = read_back(run)
    assert history(records) == [(10, LINES[0])]


def test_none_keeps_nothing(run: Run):
    tracker = open_tracker(Tracking(name="none"), run, CONFIG, "train", BY_HAND)
    tracker.log(1, LINES[0])
    tracker.finish()
    assert type(tracker) is Tracker and not list(run.folder.iterdir())
