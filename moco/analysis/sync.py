"""python -m moco sync: uploads to W&B what runs have kept offline, through `wandb sync`."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moco.errors import UserError
from moco.protocols import LINEAR_PROTOCOLS
from moco.runs.lease import BY_HAND
from moco.runs.run import Run
from moco.runs.state import State
from moco.tracking import server
from moco.tracking.environment import effective
from moco.tracking.wandb_mirror import WandbMirror, folders, is_whole

AT_ONCE = 4  # uploads side by side
ANSWER_SECONDS = 20.0  # for the server to answer, since `wandb sync` itself would go on asking for days


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
    for run in waiting:
        if (file := pending(run)) and not is_whole(file.parent):
            try:
                write_anew(run)
            except UserError as error:
                print(f"warning: {error}", file=sys.stderr)
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
    """wandb's file to upload: the newest, unless W&B has it, or a later one went online and was taken whole."""
    for folder in reversed(folders(run)):
        if not folder.name.startswith("offline-") and is_whole(folder):
            return None
        for file in folder.glob("*.wandb"):
            if mark(file).exists():
                return None
            if file.stat().st_size:  # one that was killed at once is empty
                return file
    return None


def write_anew(run: Run) -> None:
    """Writes an offline file of the whole run from metrics.jsonl: the newest was cut short, and would replace what is more.

    Raises:
        UserError: config.json cannot be used.
    """
    config, holder, result = run.config, run.holder(), run.result or {}
    kind = "linear_eval" if any(protocol.top1 in result for protocol in LINEAR_PROTOCOLS.values()) else "train"
    asked = effective(config.tracker.model_copy(update={"name": "wandb", "mode": "offline"}))
    mirror = WandbMirror(asked, run, config, kind, holder.place if holder else BY_HAND)
    mirror.catch_up(run.metrics())
    mirror.finish(int(not result and run.attempt() != State.PAUSED))


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
    if file is None or not is_whole(file.parent):
        return f"{run.folder.name}: failed (wandb's file was cut short, and cannot be written anew: see above)", False
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
    address = server.address()
    if missing := server.no_key(address):
        raise UserError(missing)
    return address


def require_server(address: str) -> None:
    """Raises UserError where the server does not answer."""
    if silent := server.no_answer(address, ANSWER_SECONDS):
        raise UserError(f"{address} does not answer ({silent}): sync where there is a network")
