"""wandb as the shared dashboard: killed runs, upload, workspace, W&B sweep files. The network is this machine alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from common import ENVIRONMENT, METHODS, ROOT, TINY, python
from folders import point, write_run, write_sweep
from test_tracking import CONFIG, LINES, SETTINGS, history, of, read_back
from wandb_server import wandb_server

from moco.analysis import dashboard, sync
from moco.config import schema as config
from moco.errors import UserError
from moco.launch.job import Task
from moco.runs.run import Run, all_runs
from moco.tracking.wandb_mirror import columns, display_name, last_id, open_tracker
from moco.training import pretrain as jobs

SWEEPS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))
LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by wandb, which read it


pytestmark = pytest.mark.usefixtures("without_login")


def merged(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in of(records, kind):
        found |= record.get("update", {})
    return found


def rows(lines: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The rows that wandb should hold: one a step, lines of one step joined."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["step"], {}).update(line)
    return list(found.items())


def test_wandb_holds_metrics_jsonl_over_kill_resume_and_linear_evaluation(tmp_path: Path) -> None:
    words = [*METHODS["moco"], *TINY, "tracker=wandb", "epochs=30", "checkpoint_minutes=0", "tracker.group=mine"]
    environment = ENVIRONMENT | os.environ
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not any(len(run.metrics()) >= 3 for run in all_runs(tmp_path / "runs")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [run] = all_runs(tmp_path / "runs")
    assert not run.result and run.checkpoint.exists() and len(run.metrics()) >= 3

    resumed = python(str(ROOT / "train.py"), *words, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    probe = ["probe=cached", "probe.epochs=2", "device=cpu", "tracker.group=mine"]
    probed = python(str(ROOT / "linear_eval.py"), f"run={run.id}", *probe, cwd=tmp_path)
    assert probed.returncode == 0, probed.stderr

    lines = run.metrics()
    assert len(lines) == 31 and "linear_cached/top1" in lines[-1]
    newest = read_back(run)[-2:]  # the killed attempt's file may be empty
    training, probing = newest
    assert history(training) == rows(lines[:-1])
    assert history(probing) == rows(lines)
    for records, kind in ((training, "train"), (probing, "linear_eval")):
        [begun] = of(records, "run")[:1]
        assert (begun["run_id"], begun["run_group"], begun["job_type"]) == (run.id, "mine", kind)
    top1 = max(line["knn/top1"] for line in lines if "knn/top1" in line)
    assert merged(training, "summary")["knn/top1"] == {"max": top1} == merged(probing, "summary")["knn/top1"]
    assert merged(probing, "summary")["linear_cached/top1"] == {"max": lines[-1]["linear_cached/top1"]}


def track(run: Run, lines: list[dict[str, Any]], *, before: int = 0, job_type: str = "train", **details: str) -> None:
    """An attempt that logs the lines from `before` on, after those that stand already."""
    tracker = open_tracker(SETTINGS, run, CONFIG, job_type, details)
    tracker.catch_up(lines[:before])
    for line in lines[before:]:
        tracker.log(line["step"], line)
    tracker.finish()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "runs" / "moco-small-digits-abcdefghij"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return Run(folder)


STEPS: list[dict[str, Any]] = [{"step": 10 * i, **line} for i, line in enumerate(LINES, 1)]
LINEAR: dict[str, Any] = {"step": 30, "linear/top1": 61.0}


def test_sync_uploads_interrupted_runs_as_one_and_names_what_fails(run: Run, tmp_path: Path, capsys, monkeypatch):
    track(run, STEPS[:2], sweep="temperatures", label="temperature=0.1")
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
        assert json.loads(kept["config"])["method"]["value"] == {"name": "moco", "m": 64}
        assert sync.pending(run) is None and sync.pending(other) is not None

        server.refuse = set()
        sync.sync([run, other])
        assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == [
            f"{other.folder.name}: uploaded"
        ]
        sync.sync([run, other])
        assert capsys.readouterr().out.startswith("nothing to upload: of 2 runs none has")


def offline(run: Run, moment: str, content: bytes = b"x", mode: str = "offline-run") -> Path:
    """A file where wandb would leave it."""
    folder = run.folder / "wandb" / f"{mode}-20260101_{moment}-{run.id}"
    folder.mkdir(parents=True)
    file = folder / f"run-{run.id}.wandb"
    file.write_bytes(content)
    return file


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
    offline(run, "000005", mode="run")  # the run went on online
    assert sync.pending(run) is None


def test_a_run_that_is_running_is_left_for_later(run: Run, capsys) -> None:
    offline(run, "000001")
    with run.claim(what="train"):
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


def test_names_ids_and_columns(run: Run) -> None:
    assert display_name(run, None) == run.folder.name
    assert display_name(run, "temperature=0.1 m=64") == "temperature=0.1 m=64 (abcdefghij)"
    assert len(display_name(run, "x" * 500)) < 128  # W&B's limit
    assert last_id(run) is None
    offline(run, "000001", mode="run").parent.rename(run.folder / "wandb" / "run-20260101_000001-theirs")
    assert last_id(run) == "theirs"  # linear evaluation joins the run that an agent made
    nested = {
        "m": 64,
        "optimizer": {"name": "sgd", "lr": 0.1, "_target_": "torch.optim.SGD"},
        "tracker": {"name": "wandb"},
        "method": {"name": "moco", "_target_": "x.Y", "m": 64, "splits": 2},
        "rerun": False,
        "recipe": None,
    }
    assert columns(nested) == {
        "m": 64,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "method": {"name": "moco", "splits": 2},
    }
    train, probe = Task(run, "train", {}, "m=64"), Task(run, "linear_eval", {}, "m=64")
    assert (train.varies, probe.varies) == ("m=64", "")
    run.note_job("1", "log", "local", "s", train.varies)
    run.note_job("2", "log", "local", "s", probe.varies)
    assert (run.job() or {})["label"] == "m=64"


@LEFT_OPEN
def test_an_agents_choice_names_the_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"wandb_version": 1, "temperature": {"value": 0.2}, "m": {"value": 512}}
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "chosen.yaml"))
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    track(run, STEPS[:1])
    [records] = read_back(run)
    [begun] = of(records, "run")[:1]
    assert (begun["run_id"], begun["display_name"]) == ("theirs", f"temperature=0.2 m=512 ({run.id})")
    assert last_id(run) == "theirs"


def test_an_agent_that_draws_a_finished_point_gets_its_metrics(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in STEPS:
        run.append_metrics(step)
    run.write_result({"knn/top1": 52.0, "knn/top5": 90.0})
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "drawn")
    cfg = {**run.config, "data": {"name": "digits"}, "tracker": SETTINGS, "rerun": False, "linear_eval": False}
    assert jobs.train(cfg, run) == 52.0
    [records] = read_back(run)
    assert of(records, "run")[0]["run_id"] == "drawn" and history(records) == rows(STEPS)


@pytest.fixture
def swept(checked, tmp_path: Path) -> Path:
    base = checked("model=small", "epochs=4", "tracker.project=ours", "tracker.entity=team")
    made = []
    for m, temperature in ((64, 0.05), (64, 0.5), (4096, 0.05), (4096, 0.5)):
        changed = point(base, {"m": m, "temperature": temperature})
        made.append(write_run(tmp_path / "runs", changed, 50 + m / 1000, linear=60.0))
    write_sweep(tmp_path / "runs", "grid", made)
    return tmp_path / "runs"


def test_dashboard_shows_what_varies(swept: Path) -> None:
    specified = dashboard.specification(all_runs(swept), "grid")
    assert (specified["project"], specified["entity"], specified["group"]) == ("ours", "team", "grid")
    assert sorted(specified["columns"]) == ["m", "temperature"] and specified["metrics"] == ["knn/top1", "linear/top1"]
    shown = {one["name"]: one["panels"] for one in specified["sections"]}
    against = [(p["metric"], p["x"]["setting"], p["x"]["axis"]) for p in shown["Settings"] if p["panel"] == "against"]
    assert sorted(against) == [
        (metric, key, "log") for metric in ("knn/top1", "linear/top1") for key in ("m", "temperature")
    ]
    assert shown["Settings"][-1]["panel"] == "parallel"
    assert [p["metric"] for p in shown["Learning curves"]] == ["knn/top1", "train/loss"]
    assert dashboard.specification(all_runs(swept))["group"] is None


def test_dashboard_is_a_workspace_that_wandb_takes(swept: Path) -> None:
    specified = dashboard.specification(all_runs(swept), "grid")
    view = dashboard.workspace(specified, "team")._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    sections = view["section"]["panelBankConfig"]["sections"]
    assert [one["name"] for one in sections] == ["Results", "Settings", "Learning curves"]
    kinds = [panel["viewType"] for one in sections for panel in one["panels"]]
    assert kinds.count("Scatter Plot") == 4 and kinds.count("Parallel Coordinates Plot") == 1
    assert kinds.count("Bar Chart") == 2 and kinds.count("Run History Line Plot") == 2
    scatter = next(p for p in sections[1]["panels"] if p["viewType"] == "Scatter Plot")["config"]
    assert scatter["xAxis"].startswith("config:") and scatter["xAxis"].endswith(".value")
    assert scatter["yAxis"] == "summary:knn/top1.max" and scatter["xAxisLogScale"] is True
    [runset] = view["section"]["runSets"]
    assert "grid" in json.dumps(runset["filters"])
    assert {"summary:knn/top1.max", "config:m.value"} <= set(runset["runFeed"]["columnPinned"])
    assert dashboard._stored("optimizer.lr") == "optimizer.value.lr"


def test_words_are_bars_and_not_scattered(checked, tmp_path: Path) -> None:
    for method in ("moco", "simclr"):
        write_run(tmp_path / "runs", checked(*METHODS[method], "model=small", "epochs=4"))
    specified = dashboard.specification(all_runs(tmp_path / "runs"))
    [panel] = specified["sections"][1]["panels"]
    assert (panel["x"], panel["panel"]) == ({"setting": "method.name", "axis": "category"}, "against")
    view = dashboard.workspace(specified, "team")._to_model().spec.model_dump(by_alias=True)
    assert view["section"]["panelBankConfig"]["sections"][1]["panels"][0]["viewType"] == "Bar Chart"


def test_dashboard_command(swept: Path, tmp_path: Path) -> None:
    shown = python("-m", "moco", "dashboard", "grid", "--dry-run", cwd=tmp_path, **os.environ)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == dashboard.specification(all_runs(swept), "grid")
    for words, said in ((["grid"], "wandb has no key for"), (["gird"], "there is no sweep gird")):
        refused = python("-m", "moco", "dashboard", *words, cwd=tmp_path, **os.environ)
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1 and said in refused.stderr


def test_dashboard_of_untracked_runs_says_so(checked, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", checked("tracker=none"))
    with pytest.raises(UserError, match="tracker=none: W&B knows nothing of them"):
        dashboard.specification(all_runs(tmp_path / "runs"))


def agent_words(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """The words after the program that W&B's own agent would call it with."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    filled = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    filled |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    words: list[str] = []
    for chunk in create_sweep_command(list(sweep["command"])):
        words += filled[chunk[2:-1]] if chunk.startswith("${") else [chunk]
    assert words[:3] == ["/usr/bin/env", "python", "train.py"]
    return words[3:]


def values(parameter: dict[str, Any]) -> list[Any]:
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_value_of_a_wandb_sweep_composes(path: Path, base) -> None:
    sweep = yaml.safe_load(path.read_text())
    middle = {key: values(parameter)[0] for key, parameter in sweep["parameters"].items()}
    for key, parameter in sweep["parameters"].items():
        for value in values(parameter):
            cfg = base(*agent_words(sweep, middle | {key: value}))
            for part in key.split("."):
                cfg = cfg[part]
            assert cfg == value, key
    cfg = base(*agent_words(sweep, middle))
    assert cfg["tracker"]["mode"] == "online" and cfg["data"]["validation"] > 0
    assert sweep["early_terminate"]["min_iter"] * sweep["early_terminate"]["eta"] < cfg["epochs"] / cfg["eval_every"]


@LEFT_OPEN
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_wandb_takes_the_sweep(path: Path) -> None:
    """By wandb's loader and its check of parameters; the keys are those that its documentation lists."""
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    sweep = load_sweep_config(str(path))
    assert sweep and _validate_config_and_fill_distribution(sweep) == sweep
    assert set(sweep) == {
        "program",
        "project",
        "name",
        "method",
        "metric",
        "early_terminate",
        "run_cap",
        "parameters",
        "command",
    }
    assert (sweep["method"], sweep["metric"]) == ("bayes", {"name": "knn/top1", "goal": "maximize"})
    assert set(sweep["early_terminate"]) == {"type", "min_iter", "eta"}
    for parameter in sweep["parameters"].values():
        assert set(parameter) in ({"values"}, {"distribution", "min", "max"})
        if "distribution" in parameter:
            assert parameter["distribution"] == "log_uniform_values" and 0 < parameter["min"] < parameter["max"]


def test_hydra_does_not_offer_wandbs_sweeps(base) -> None:
    assert [path.stem for path in SWEEPS] == ["moco", "simclr"]
    [line] = [line for line in config.help_text(base()).splitlines() if line.startswith("  sweeps: ")]
    assert "wandb" not in line and "temperature" in line
