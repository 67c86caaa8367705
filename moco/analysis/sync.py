"""python -m moco sync: uploads to W&B what runs have kept offline, through `wandb sync`."""

import netrc
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

from moco.errors import UserError
from moco.runs.run import Run
from moco.runs.state import State
from moco.tracking.wandb_mirror import folders

AT_ONCE = 4  # uploads side by side
LOG_IN = "get a key at {}/authorize and run `wandb login`, or set WANDB_API_KEY"


def sync(runs: Sequence[Run]) -> None:
    """Uploads the runs that have offline data which W&B lacks, and prints a line for each as it ends.

    Raises:
        UserError: there is no key, the server does not answer, or some runs were not uploaded.
    """
    behind = [run for run in runs if pending(run)]
    running = [run for run in behind if run.attempt() == State.RUNNING]  # what wandb has of it is not whole yet
    waiting = [run for run in behind if run not in running]
    if waiting:
        require_server(require_login())
    for run in running:
        print(f"{run.folder.name}: is running, upload it when it has ended")
    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line, well in pool.map(upload, waiting):
            print(line, flush=True)
            failed += not well
    if failed:
        raise UserError(f"{failed} of {len(waiting)} runs were not uploaded: the same command tries them again")
    if not behind:
        print(f"nothing to upload: none of {len(runs)} runs has offline data that W&B lacks")


def pending(run: Run) -> Path | None:
    """wandb's file to upload: the newest, which holds the whole run, unless it or a later one is online."""
    for folder in reversed(folders(run)):
        if not folder.name.startswith("offline-"):
            return None  # the run went on online, and caught up there
        for file in folder.glob("*.wandb"):
            if mark(file).exists():
                return None
            if file.stat().st_size:  # one that was killed at once is empty
                return file
    return None


def mark(file: Path) -> Path:
    """What wandb leaves beside a file that it has uploaded."""
    return file.with_name(f"{file.name}.synced")


def command(file: Path) -> list[str]:
    """The command that uploads the file."""
    return [sys.executable, "-m", "wandb", "sync", str(file.absolute())]


def upload(run: Run) -> tuple[str, bool]:
    """Uploads the run's newest file; returns a line that says how it went, and whether it went well.

    Older files are marked as uploaded too, since each of them would replace what is newer.
    """
    file = pending(run)
    assert file is not None
    # What an agent or a training has set for itself would rename the run or shift its steps.
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_RUN_ID", "WANDB_RESUME")}
    # In the folder of the run, since wandb leaves logs where it works.
    done = subprocess.run(command(file), cwd=run.folder, capture_output=True, text=True, env=environment)
    if done.returncode or not mark(file).exists():
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "wandb gives no reason")
        return f"{run.folder.name}: failed ({why.removeprefix('wandb: ').removeprefix('ERROR ')[:200]})", False
    for folder in folders(run):
        for older in folder.glob("*.wandb"):
            mark(older).touch()
    where = re.search(r"View run .* at (\S+)", done.stdout + done.stderr)
    return f"{run.folder.name}: uploaded{f', {where[1]}' if where else ''}", True


def require_login() -> str:
    """The address of the server, where there is a key for it.

    Raises:
        UserError: there is no key; the line says how to get one.
    """
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings
    address = settings.base_url.rstrip("/")
    known = settings.api_key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    if not known and not _in_netrc(urlparse(address).hostname or ""):
        site = "https://wandb.ai" if urlparse(address).hostname == "api.wandb.ai" else address
        raise UserError(f"wandb has no key for {address}: {LOG_IN.format(site)}")
    return address


def _in_netrc(host: str) -> bool:
    """Whether a netrc file holds the host's key."""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if path and netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def require_server(address: str) -> None:
    """Asks the server for an answer once, since `wandb sync` itself would go on asking for days.

    Raises:
        UserError: it does not answer.
    """
    try:
        urllib.request.urlopen(address, timeout=20).close()
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{address} does not answer ({reason}): sync where there is a network") from error
