"""The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them (0, GPU-5a..., MIG-...). Loads no torch."""

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import takewhile

from moco.errors import UserError

NODES = "/dev/nvidia[0-9]*"  # of the GPUs, where nvidia-smi is absent, as in some containers, or too slow


def chosen_gpus(devices: str | list[int | str]) -> list[str]:
    """The GPUs that hydra.launcher.devices names; none for cpu."""
    if devices == "auto":
        return visible_gpus()
    return [] if devices == "cpu" else [str(device) for device in devices]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = (name.strip() for name in listed.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))  # -1 hides what follows
    return [str(i) for i in range(_count(_installed()) or len(glob.glob(NODES)))]


def slots(devices: Sequence[str], each: int) -> list[str]:
    """The devices in groups of so many, as CUDA_VISIBLE_DEVICES names them; `idle` has the rest.

    Raises:
        UserError: there are fewer.
    """
    if len(devices) < each:
        number = {0: "this machine has none", 1: "there is one"}.get(len(devices), f"there are {len(devices)}")
        there = f"{number} ({', '.join(devices)})" if devices else number
        raise UserError(f"hydra.launcher.gpus_per_point={each} takes {each} GPUs, and {there}: give fewer, or 1")
    return [",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]


def idle(devices: Sequence[str], each: int) -> list[str]:
    """The devices that fill no group of so many."""
    return [*devices[len(devices) // each * each :]]


def refuse_absent(devices: str | list[int | str]) -> None:
    """Refuses GPUs that this machine does not have, where the driver tells which it has.

    Raises:
        UserError: hydra.launcher.devices names such a GPU.
    """
    if isinstance(devices, str):
        return
    there = _installed()
    absent = [str(device) for device in devices if _is_absent(str(device), there)]
    if there and absent:
        last = _count(there) - 1
        raise UserError(
            f"hydra.launcher.devices=[{','.join(map(str, devices))}]: this machine has no GPU {', '.join(absent)}: "
            f"it has {f'0 to {last}' if last else '0 alone'} (nvidia-smi -L)"
        )


def _is_absent(device: str, there: Sequence[str]) -> bool:
    """Whether none of the GPUs is meant; the beginning of a UUID will do. Names of another kind are not judged."""
    if re.fullmatch(r"-?\d+", device):
        return not 0 <= int(device) < _count(there)
    if re.fullmatch(r"(GPU|MIG)-[0-9a-fA-F-]+", device):
        return not any(name.startswith(device) for name in there)
    return False


def _count(installed: Sequence[str]) -> int:
    """How many of them are whole GPUs."""
    return sum(name.startswith("GPU") for name in installed)


def _installed() -> list[str]:
    """The UUIDs of the GPUs and of their MIG parts, in order; empty where nvidia-smi does not tell."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"UUID: ([^)\s]+)", found.stdout)
