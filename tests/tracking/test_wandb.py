"""wandb over kills and resumptions, under an agent of W&B's, and W&B's sweep files. There is no network."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from common import ENVIRONMENT, METHODS, ROOT, TINY, composed, python
from test_tracking import history, of, read_back
from tracked import CONFIG, STEPS, offline, rows, track

from moco.config.help import help_text
from moco.runs.identity import flatten
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.tracking.wandb_mirror import columns, display_name, last_id
from moco.training import pretrain as jobs

SWEEPS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))
LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by wandb, which read it


pytestmark = pytest.mark.usefixtures("without_login")


def merged(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in of(records, kind):
        found |= record.get("update", {})
    return found


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


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "runs" / "moco-small-digits-abcdefghij"
    folder.mkdir(parents=True)
    run = Run(folder)
    run.write_config(CONFIG)
    return run


def test_names_ids_and_columns(run: Run) -> None:
    assert display_name(run, None) == run.folder.name
    assert display_name(run, "temperature=0.1 m=64") == "temperature=0.1 m=64 (abcdefghij)"
    assert len(display_name(run, "x" * 500)) < 128  # W&B's limit
    assert last_id(run) is None
    offline(run, "000001", mode="run").parent.rename(run.folder / "wandb" / "run-20260101_000001-theirs")
    assert last_id(run) == "theirs"  # linear evaluation joins the run that an agent made
    shown = columns(CONFIG)
    assert shown["m"] == 64 and shown["optimizer"]["lr"] == 0.06
    assert {"name", "splits"} <= set(shown["method"]) and not {"_target_", "m", "temperature"} & set(shown["method"])
    assert not {"version", "tracker", "rerun", "runs_dir", "recipe"} & set(shown)
    run.note_job("1", "log", "local", "s", "m=64")
    run.note_job("2", "log", "local", "s")  # linear evaluation, in whose sweep nothing varies
    job = run.job()
    assert job is not None and job.label == "m=64"


@LEFT_OPEN
def test_an_agents_choice_names_the_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"wandb_version": 1, "temperature": {"value": 0.2}, "m": {"value": 512}}
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "chosen.yaml"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
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
    assert jobs.train(run.config, run) == 52.0
    [records] = read_back(run)
    assert of(records, "run")[0]["run_id"] == "drawn" and history(records) == rows(STEPS)


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
            assert flatten(base(*agent_words(sweep, middle | {key: value})).frozen())[key] == value
    cfg = base(*agent_words(sweep, middle))
    assert cfg.tracker.mode == "online" and cfg.data.validation > 0
    assert sweep["early_terminate"]["min_iter"] * sweep["early_terminate"]["eta"] < cfg.epochs / cfg.eval_every


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


def test_hydra_does_not_offer_wandbs_sweeps() -> None:
    assert [path.stem for path in SWEEPS] == ["moco", "simclr"]
    [line] = [line for line in help_text(composed()).splitlines() if line.startswith("  sweeps: ")]
    assert "wandb" not in line and "temperature" in line


def test_a_sweeps_launcher_repeats_what_tracking_warns_of_once(tmp_path: Path) -> None:
    words = [*METHODS["simclr"], *TINY, "epochs=1", "tracker=wandb", "tracker.mode=online", "seed=0,1"]
    shown = python(str(ROOT / "train.py"), "-m", *words, "hydra.launcher.devices=cpu", cwd=tmp_path, **os.environ)
    assert shown.returncode == 0, shown.stderr
    assert (shown.stdout + shown.stderr).count("warning: wandb cannot go online (wandb has no key for") == 1
    assert len(list(tmp_path.glob("runs/*/wandb/offline-run-*/whole"))) == 2
