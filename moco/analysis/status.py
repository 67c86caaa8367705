"""python -m moco status: where each run stands, read off the disk and off SLURM's queue where there is one."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from moco.analysis.records import describe, read, state_counts, states
from moco.launch import slurm_client as slurm
from moco.runs.lease import machine
from moco.runs.run import Run
from moco.training.progress import duration

COLUMNS = ("id", "state", "epoch", "loss", "kNN", "linear", "left", "where", "job", "point")
COLORS = {"done": "32", "running": "36", "queued": "33", "pending": "2", "stopped": "33"}  # of ANSI; the rest is red


def row(run: Run, state: str, queue: dict[str, dict[str, str]]) -> dict[str, str]:
    """One run's line, all texts; a damaged folder says what is wrong in place of a point."""
    holder, job = run.holder() or {}, run.job() or {}
    entry = queue.get(job.get("job", ""))
    last, progress = run.last_metrics(), holder.get("progress") or {}
    running = state == "running"
    epoch = progress.get("epoch") if running and progress.get("epoch") else last.get("epoch", "")
    return {
        "id": run.id,
        "state": state,
        "epoch": str(epoch),
        "loss": _number(progress.get("loss") if running else last.get("train/loss"), 4),
        "kNN": _number(last.get("knn/top1")),
        "linear": _number(last.get("linear/top1", last.get("linear_cached/top1"))),
        "left": duration(progress["left"]) if running and "left" in progress else "",
        "where": _where(holder, entry) if running else (entry or {}).get("reason", ""),
        "job": str(job.get("job", "")),
    }


def _where(holder: dict[str, Any], entry: dict[str, str] | None) -> str:
    """The node with the device or slot."""
    node = (entry or {}).get("node") or holder.get("host", "")
    visible = holder.get("visible")
    device = "gpu " + visible if visible else holder.get("slot") or holder.get("device")
    return f"{node}:{device}" if device else node


def _number(value: Any, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""


def rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A line a run, with the settings in which the runs differ."""
    entries = [read(run) for run in runs]
    texts = iter(describe([entry.flat for entry in entries if not entry.problem]))
    queue = slurm.queued(runs)
    found = []
    for entry, state in zip(entries, states(runs, queue)):
        line = row(entry.run, state, queue)
        if line["epoch"] and entry.flat.get("epochs"):
            line["epoch"] += f"/{entry.flat['epochs']}"
        found.append(line | {"point": entry.problem or next(texts) or entry.run.folder.name})
    return found


def text(lines: Sequence[dict[str, str]], color: bool) -> str:
    """The lines as a table, with a count of the states below; columns that are empty throughout are left out."""
    names = [name for name in COLUMNS if any(line[name] for line in lines)]
    widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in names[:-1]}
    out = ["  ".join(name.ljust(widths.get(name, 0)) for name in names)]
    for line in lines:
        cells = [line[name].ljust(widths.get(name, 0)) for name in names]
        if color:
            at = names.index("state")
            cells[at] = f"\033[{COLORS.get(line['state'], '31')}m{cells[at]}\033[0m"
        out.append("  ".join(cells).rstrip())
    return "\n".join([*out, "", state_counts([line["state"] for line in lines])])


def watch(look: Any, seconds: float) -> None:
    """Redraws until nothing runs or waits in a queue any more, or Ctrl-C."""
    color = sys.stdout.isatty()
    try:
        while True:
            lines = look()
            if color:
                sys.stdout.write("\033[H\033[2J")
            print(f"{time.strftime('%H:%M:%S')}  every {seconds:g}s, Ctrl-C ends\n\n{text(lines, color)}", flush=True)
            if not any(line["state"] in ("running", "queued", "pending") for line in lines):
                return
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _terminate(pid: int) -> bool:
    """Whether there was a process to send SIGTERM to: it may have ended since it was looked at."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def cancel(runs: Sequence[Run], launchers: Sequence[int]) -> list[str]:
    """Stops launchers and running jobs, checkpoints saved, and takes queued jobs out; says what it did."""
    said = []
    for pid in launchers:
        if _terminate(pid):
            said.append(f"launcher {pid} told to stop its jobs")
    queue = slurm.queued(runs)
    jobs = [job for run in runs if (job := slurm.queued_job(run, queue))]
    slurm.cancel_jobs(jobs)
    said += [f"SLURM job {job} cancelled" for job in jobs]
    for run in runs:
        holder = run.holder() or {}
        if run.attempt() != "running" or holder.get("job") in jobs:
            continue
        if holder["machine"] == machine():
            if _terminate(holder["pid"]):
                said.append(f"{run.folder.name}: process {holder['pid']} told to save and stop")
        else:
            said.append(f"{run.folder.name} runs as process {holder['pid']} on {holder['host']}: cancel it from there")
    return said
