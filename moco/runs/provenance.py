"""Where a result came from: commit and diff, package versions, hardware."""

import datetime
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from moco.config.places import CODE, INSTALLED
from moco.errors import UserError
from moco.io import Json, Unwritable, read_json, write_atomic, write_json

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "wandb", "submitit", "timm", "moco-sweeps")
GIT_SECONDS = 60.0  # for git to answer
FROZEN = CODE / "snapshot.json"  # in a snapshot: the git_state that it was made from


def git_state() -> tuple[str | None, str]:
    """The commit of this code and its uncommitted changes; (None, "") outside of a checkout."""
    if FROZEN.exists():
        commit, diff = json.loads(FROZEN.read_text())
        return commit, diff
    if INSTALLED:  # in whatever checkout the environment may lie, it is not this code's
        return None, ""
    try:
        return _git("rev-parse", "HEAD").strip(), _git("diff", "--no-ext-diff", "--no-color", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None, ""


def _git(*words: str) -> str:
    """What git prints; bytes that are not UTF-8 are kept as Python keeps them in names of files."""
    command = ["git", "-C", str(CODE), *words]
    done = subprocess.run(command, capture_output=True, check=True, timeout=GIT_SECONDS)
    return done.stdout.decode(errors="surrogateescape")


def snapshot(folder: Path) -> Path:
    """A copy of the tracked files as they are now, uncommitted changes included, under `folder`; made once per state.

    Raises:
        UserError: this is not a git checkout.
    """
    commit, diff = git_state()
    if commit is None:
        raise UserError("snapshot=true copies what git tracks, and this is not a git checkout: leave snapshot out")
    changes = hashlib.sha256(diff.encode(errors="surrogateescape")).hexdigest()
    target = folder / f"code-{commit[:10]}-{changes[:6]}"
    tracked = _listed()
    for module in _left_out(tracked):
        print(f"warning: snapshot=true leaves {module} out, which tracked code imports: git add it", file=sys.stderr)
    if not target.exists():
        aside = Path(tempfile.mkdtemp(dir=folder))
        for name in tracked:
            path = CODE / name
            if path.is_file() or path.is_symlink():  # a file deleted since the last commit is tracked still
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, aside / name, follow_symlinks=False)  # moco/conf is a link
        (aside / FROZEN.name).write_text(json.dumps([commit, diff]))
        aside.rename(target)
    return target


def _listed(*options: str) -> list[str]:
    """The files that git tracks, or that these options ask for."""
    return [name for name in _git("ls-files", "-z", *options).split("\0") if name]


def _left_out(tracked: list[str]) -> list[str]:
    """The modules that git does not track and that tracked code imports: a copy of what is tracked cannot do without them."""
    untracked = _listed("--others", "--exclude-standard", "--", "*.py")
    found = []
    for name in untracked:
        *package, module = name.removesuffix(".py").removesuffix("/__init__").split("/")
        dotted = re.escape(".".join([*package, module]))
        ways = [rf"(from|import) {dotted}\b"]
        if package:
            ways.append(rf"from {re.escape('.'.join(package))} import [^\n]*\b{re.escape(module)}\b")
        imported = re.compile(rf"^\s*({'|'.join(ways)})", re.MULTILINE)
        if any(imported.search(_text(CODE / other)) for other in tracked if other.endswith(".py")):
            found.append(name)
    return found


def _text(path: Path) -> str:
    """The file's text; empty where it was deleted since the last commit."""
    return path.read_text(errors="replace") if path.is_file() else ""


def record(folder: Path, device: "torch.device", precision: str) -> None:
    """Adds the attempt that begins to provenance.json in a run's folder, with git.diff beside it; never stops a run."""
    try:
        _record(folder, device, precision)
    except (Unwritable, OSError, ValueError) as error:  # a result without its origin is worth more than none
        print(f"warning: provenance.json is not written ({error})", file=sys.stderr, flush=True)


def precision(folder: Path) -> str | None:
    """That of the last attempt; None where that is not known."""
    attempts = read_json(folder / "provenance.json")
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    found = last.get("precision") if isinstance(last, dict) else None
    return found if isinstance(found, str) else None


def _record(folder: Path, device: "torch.device", precision: str) -> None:
    path = folder / "provenance.json"
    commit, diff = git_state()
    attempts = read_json(path)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    attempt: dict[str, Json] = {"started": started, "commit": commit, "dirty": bool(diff), **collect(device)}
    write_json(path, [*(attempts if isinstance(attempts, list) else []), {**attempt, "precision": precision}])
    if diff:
        write_atomic(folder / "git.diff", diff)


def collect(device: "torch.device") -> dict[str, Json]:
    """Versions, processor and device."""
    import torch

    versions: dict[str, Json] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": versions,
        "host": platform.node(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "card": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def processor() -> str:
    """The name of this machine's CPU."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def cpu_info(key: str) -> str:
    """What Linux says of the first CPU under that key; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
