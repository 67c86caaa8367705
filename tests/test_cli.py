"""The commands as people type them, as processes, from another directory than the repository's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import ENVIRONMENT, METHODS, ROOT, TINY, python

TRAIN, LINEAR = str(ROOT / "train.py"), str(ROOT / "linear_eval.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose runs/ holds a sweep over feature_dim and its linear evaluation, made by the commands."""
    cwd = tmp_path_factory.mktemp("user")
    swept = python(TRAIN, "-m", "feature_dim=16,32", "epochs=1", *METHODS["moco"], *without(TINY, "epochs"), cwd=cwd)
    assert swept.returncode == 0, swept.stderr
    assert swept.stdout.count("done  feature_dim=") == 2
    return cwd


def without(words: list[str], key: str) -> list[str]:
    return [word for word in words if not word.startswith(f"{key}=")]


def test_sweep_then_linear_evaluation_then_table(trained: Path) -> None:
    folders = sorted(p.parent for p in (trained / "runs").glob("*/result.json"))
    assert len(folders) == 2
    probe = python(
        LINEAR, f"run={folders[0].name}", "probe=cached", "probe.epochs=3", "tracker=none", "device=cpu", cwd=trained
    )
    assert probe.returncode == 0 and "Linear (cached)" in probe.stdout, probe.stderr
    again = python(LINEAR, f"run={folders[0]}", "probe=cached", "probe.epochs=3", "tracker=none", cwd=trained)
    assert again.returncode == 0 and "has its linear evaluation" in again.stdout
    table = python("-m", "moco", "table", cwd=trained)
    result = json.loads((folders[0] / "result.json").read_text())
    assert table.returncode == 0 and f"{result['linear_cached/top1']:.2f}" in table.stdout
    assert table.stdout.count("| kNN |") == 2 and table.stdout.count("| Linear (cached) |") == 1
    elsewhere = python(
        "-m", "moco", "table", "feature_dim", "--format", "json", "--runs-dir", str(trained / "runs"), cwd=ROOT
    )
    assert {row["feature_dim"] for row in json.loads(elsewhere.stdout)} == {16, 32}


def test_started_again_it_says_that_it_is_done(trained: Path) -> None:
    words = ["feature_dim=16", "epochs=1", *METHODS["moco"], *without(TINY, "epochs")]
    again = python(TRAIN, *words, cwd=trained)
    assert again.returncode == 0 and "is done: kNN" in again.stdout
    swept = python(
        TRAIN, "-m", "feature_dim=16,32,0x", "epochs=1", *METHODS["moco"], *without(TINY, "epochs"), cwd=trained
    )
    assert swept.returncode == 1 and "feature_dim=0x" in swept.stderr and len(swept.stderr.splitlines()) == 1


def test_status_logs_and_export(trained: Path) -> None:
    status = python("-m", "moco", "status", "feature_dim", cwd=trained)
    assert status.returncode == 0 and "2 done" in status.stdout and "feature_dim=32" in status.stdout
    name = next((trained / "runs").glob("*/result.json")).parent.name
    logs = python("-m", "moco", "logs", name.rpartition("-")[2], cwd=trained)
    assert "is done: kNN" in logs.stdout
    exported = python("-m", "moco", "export", name, "--to", "safetensors", cwd=trained)
    assert exported.returncode == 0 and (trained / f"{name}.safetensors").exists(), exported.stderr
    for words in (["export", name, "--out", "nowhere/x.pth"], ["table", "--into", "nowhere/table.md"]):
        refused = python("-m", "moco", *words, cwd=trained)
        assert refused.returncode == 1 and refused.stderr.startswith("error: nowhere/"), refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    code = exported.stdout.partition("\n\n")[2]
    assert python("-c", code, cwd=trained, PYTHONPATH=str(ROOT)).returncode == 0


def test_help_loads_no_torch_and_explains_the_keys(tmp_path: Path) -> None:
    code = f"import runpy, sys, atexit; sys.argv = [{TRAIN!r}, '--help']\n" + (
        "atexit.register(lambda: print('loaded', sorted({'torch', 'torchvision', 'wandb'} & set(sys.modules))))\n"
        f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({TRAIN!r}, run_name='__main__')"
    )
    answer = python("-c", code, cwd=tmp_path)
    assert "loaded []" in answer.stdout and "m=4096" in answer.stdout and "negatives: queue size" in answer.stdout
    # Wrong words or many values: the help all the same.
    for words in (["-m", "temperature=0.1,0.2"], ["nothing=1"], ["method=none"]):
        answer = python(TRAIN, *words, "--help", cwd=tmp_path)
        assert answer.returncode == (words == ["nothing=1"]) and "Traceback" not in answer.stderr
        assert "m=4096" in answer.stdout or "unknown key nothing" in answer.stderr
    simclr = python(TRAIN, "method=simclr", "--help", cwd=tmp_path)
    assert "temperature=0.5" in simclr.stdout and "m=null" in simclr.stdout


def test_status_and_dry_run_load_no_torch(trained: Path) -> None:
    for words in (
        ["-m", "moco", "status"],
        ["-m", "moco", "table"],
        [TRAIN, "-m", "seed=0,1", "hydra.launcher.dry_run=true"],
    ):
        answer = python("-X", "importtime", *words, cwd=trained)
        loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
        assert answer.returncode == 0 and not loaded & {"torch", "torchvision", "wandb"}


def test_sigterm_saves_with_its_own_exit_code_and_the_command_goes_on(tmp_path: Path) -> None:
    words = [TRAIN, *METHODS["moco"], *without(TINY, "epochs"), "epochs=400", "eval_every=400"]
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=ENVIRONMENT)
    deadline = time.time() + 120
    while (
        not list(tmp_path.glob("runs/*/metrics.jsonl")) or not next(tmp_path.glob("runs/*/metrics.jsonl")).read_text()
    ):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.1)
    second = python(*words, cwd=tmp_path)
    assert second.returncode == 1 and f"is held by process {process.pid} on" in second.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    status = python("-m", "moco", "status", cwd=tmp_path)
    assert "1 stopped" in status.stdout
    before = len(next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines())
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=ENVIRONMENT)
    while len(next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines()) <= before:
        assert time.time() < deadline + 120 and process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "1 killed" in python("-m", "moco", "status", cwd=tmp_path).stdout
