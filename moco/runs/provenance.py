"""Where a result came from: commit and diff, package versions, hardware."""

import hashlib
import json
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from moco.errors import UserError

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "wandb", "submitit", "timm")
ROOT = Path(__file__).parents[2]
FROZEN = ROOT / "snapshot.json"  # in a snapshot: the git_state that it was made from


def git_state() -> tuple[str | None, str]:
    """The commit of this code and its uncommitted changes, (None, "") outside a checkout."""
    if FROZEN.exists():
        commit, diff = json.loads(FROZEN.read_text())
        return commit, diff
    try:
        run = lambda *a: subprocess.run(["git", "-C", str(ROOT), *a], capture_output=True, text=True, check=True).stdout  # noqa: E731
        return run("rev-parse", "HEAD").strip(), run("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None, ""


def snapshot(folder: Path) -> Path:
    """A copy of the tracked files as they are now, uncommitted changes included, under `folder`; made once a state.

    Raises:
        UserError: this is no git checkout.
    """
    commit, diff = git_state()
    if commit is None:
        raise UserError("snapshot=true copies what git tracks, and this is no git checkout: leave snapshot out")
    target = folder / f"code-{commit[:10]}-{hashlib.sha256(diff.encode()).hexdigest()[:6]}"
    if not target.exists():
        aside = Path(tempfile.mkdtemp(dir=folder))
        names = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout
        for name in filter(None, names.decode().split("\0")):
            if (ROOT / name).is_file():  # a file deleted since the last commit is tracked still
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, aside / name)
        (aside / FROZEN.name).write_text(json.dumps([commit, diff]))
        aside.rename(target)
    return target


def collect(device: Any) -> dict[str, Any]:
    """Versions, processor and device, for provenance.json."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    card = torch.cuda.get_device_name(device) if getattr(device, "type", "") == "cuda" else None
    return {
        "python": platform.python_version(),
        "packages": versions,
        "host": platform.node(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "card": card,
    }
