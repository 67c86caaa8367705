"""A method of the user's own: the module and the YAML of docs/extend.md, outside of the checkout."""

import json
import re
import shlex
from pathlib import Path

from common import ROOT, TINY, python

PAGE = (ROOT / "docs/extend.md").read_text()


def block(language: str) -> str:
    """The page's first block of that language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def test_a_users_method_without_a_temperature(tmp_path: Path) -> None:
    (tmp_path / "own_methods.py").write_text(block("python"))
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "simsiam.yaml").write_text(block("yaml"))
    path, *typed = shlex.split(
        block("sh")
    )  # PYTHONPATH=. moco train --config-dir conf method=simsiam recipe=quickstart
    assert path == "PYTHONPATH=." and typed[0] == "moco"
    words = ["-m", *typed, *TINY]
    done = python(*words, "epochs=1", cwd=tmp_path, PYTHONPATH=f"{ROOT}:.")
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("runs/simsiam-small-digits-*/result.json")
    assert json.loads(path.read_text())["knn/top1"] > 20
    refused = python(*words, "temperature=0.1", cwd=tmp_path, PYTHONPATH=f"{ROOT}:.")
    assert (
        refused.returncode == 1
        and "temperature=0.1 is not used by method=simsiam: leave temperature out" in refused.stderr
    )
    table = python("-m", "moco", "table", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert table.returncode == 0 and "simsiam" in table.stdout
