"""The wheel, built and installed into a fresh environment: it trains, evaluates and tabulates far from the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from common import METHODS, ROOT, TINY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy of what git tracks or would track."""
    folder = tmp_path_factory.mktemp("wheel")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    source = folder / "source"
    for name in filter(None, names):
        if name.startswith(("moco", "hydra_plugins", "conf", "sweeps")) or "/" not in name:
            path, target = ROOT / name, source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                target.symlink_to(os.readlink(path))
            elif path.is_file():
                target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel; torch and the rest come from the tests' own environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # A plain line adds the folder, and not the editable install of the checkout that is in it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_holds_each_configuration_and_nothing_of_the_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("conf", "sweeps"):
        for path in (ROOT / folder).rglob("*.yaml"):
            inside = (
                f"moco/conf/{path.relative_to(ROOT / 'conf')}"
                if folder == "conf"
                else f"moco/conf/{path.relative_to(ROOT)}"
            )
            assert inside in names
    assert {"moco/py.typed", "moco/analysis/report.html.j2", "hydra_plugins/moco/launchers.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "conf/", "train.py"))]


def test_it_trains_evaluates_sweeps_and_tabulates_outside_of_the_checkout(environment: Path, tmp_path: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def moco(*words: str) -> str:
        done = subprocess.run(
            [str(environment / "moco"), *words],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [str(environment / "python"), "-c", "import moco; print(moco.__file__)"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(environment.parent) in where
    tiny = [*METHODS["moco"], *(word for word in TINY if not word.startswith("epochs"))]
    assert "is done: kNN" in moco("train", "recipe=quickstart", "epochs=1", "tracker=none", "device=cpu")
    [run] = [path.parent for path in tmp_path.glob("runs/*/result.json")]
    assert json.loads((run / "provenance.json").read_text())[0]["commit"] is None
    moco("linear-eval", f"run={run.name}", "probe=cached", "probe.epochs=2", "tracker=none", "device=cpu")
    assert json.loads((run / "result.json").read_text())["linear_cached/top1"] > 10  # better than a guess
    words = ["sweeps=temperature", "temperature=0.1,0.2", "epochs=1", *tiny]
    assert moco("train", *words).count("done  temperature=") == 2
    table = moco("table", "temperature", "--format", "json")
    assert {row["temperature"] for row in json.loads(table)} == {0.1, 0.2}
    # A run's configurations may also come from a folder of the user's own.
    (tmp_path / "mine" / "recipe").mkdir(parents=True)
    (tmp_path / "mine" / "recipe" / "own.yaml").write_text("# @package _global_\nseed: 7\nrecipe:\n  name: own\n")
    moco("train", "--config-dir", "mine", "recipe=own", "epochs=1", *tiny)
    assert 7 in {json.loads(path.read_text())["seed"] for path in tmp_path.glob("runs/*/config.json")}
    assert "  recipe: " in moco("train", "--help") and "seed=7" in moco(
        "train", "--config-dir", "mine", "recipe=own", "--help"
    )
