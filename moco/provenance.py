"""Where a result came from: commit and diff, package versions, hardware."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "wandb", "submitit", "timm")
ROOT = Path(__file__).parents[1]


def git_state() -> tuple[str | None, str]:
    """The commit of this code and its uncommitted changes, (None, "") outside a checkout."""
    try:
        run = lambda *a: subprocess.run(["git", "-C", str(ROOT), *a], capture_output=True, text=True, check=True).stdout  # noqa: E731
        return run("rev-parse", "HEAD").strip(), run("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None, ""


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
        cpu = next((line.partition(":")[2].strip() for line in info.open() if line.startswith("model name")), cpu)
    card = torch.cuda.get_device_name(device) if getattr(device, "type", "") == "cuda" else None
    return {
        "python": platform.python_version(), "packages": versions, "host": platform.node(), "cpu": cpu,
        "threads": torch.get_num_threads(), "device": str(device), "card": card,
    }  # fmt: skip
