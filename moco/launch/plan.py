"""From tasks to jobs: leave out what is done or running, freeze the rest, launch it and report how it ended.

State is read from the runs' folders, never from a launcher's own memory.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from moco.errors import UserError
from moco.launch import slurm_client as slurm
from moco.launch.job import Task
from moco.launch.local import LocalLauncher
from moco.launch.options import LauncherOptions, LocalOptions, SlurmOptions
from moco.launch.preflight import in_vain, merged
from moco.launch.slurm import SlurmLauncher
from moco.protocols import KNN
from moco.runs.lease import EXIT_STOPPED
from moco.runs.state import State
from moco.runs.sweep import Sweep

ENDED_WELL = (State.DONE, State.QUEUED, State.RUNNING)  # the last two where nobody waits for SLURM's jobs


class Plan(NamedTuple):
    """What is left of the tasks, and the state of each run. What is neither started nor awaited is done."""

    start: list[Task]
    waiting: list[Task]  # for others, who work on them
    states: dict[Path, State]


class Launcher(Protocol):
    """Where tasks run: slots of this machine, or SLURM's arrays."""

    def run(self, start: Sequence[Task], waiting: Sequence[Task]) -> dict[Path, State]:
        """Does the tasks of a plan; how each run ended, by its folder, or how it stands where nobody waits."""


def make(options: LauncherOptions, sweep: Sweep) -> Launcher:
    """The launcher that takes these options.

    Raises:
        UserError: they belong to a launcher that somebody else wrote, or the launcher cannot work here.
    """
    if isinstance(options, SlurmOptions):
        return SlurmLauncher(options, sweep)
    assert isinstance(options, LocalOptions)
    return LocalLauncher(options, sweep)


def launch(tasks: Sequence[Task], options: LauncherOptions, sweep: Sweep, rerun: bool = False) -> dict[Path, State]:
    """Does what the tasks ask for, one job per run; how each run ended, by its folder.

    Raises:
        UserError: the launcher refuses; nothing stays half-submitted.
    """
    if line := in_vain(tasks):
        print(line)
    tasks = merged(tasks)
    if options.dry_run:
        print(dry_run(tasks, rerun))
        return {task.run.folder: State.DONE for task in tasks}
    launcher = make(options, sweep)
    start, waiting, ends = plan(tasks, rerun)
    sweep.record([task.run.folder.name for task in tasks])
    for task in start:
        task.freeze(again=rerun)
    done = len(tasks) - len(start) - len(waiting)
    runs = "1 run" if len(tasks) == 1 else f"{len(tasks)} runs"
    print(f"sweep {sweep.name}: {runs}, {done} done, {len(waiting)} running elsewhere, {len(start)} to start")
    try:
        ends |= launcher.run(start, waiting)
    except UserError:
        for task in start:
            task.withdraw()
        raise
    report(tasks, ends)
    return ends


def plan(tasks: Sequence[Task], rerun: bool) -> Plan:
    """What is to be started of the tasks, each of another run, and what others work on."""
    queued = slurm.queued(task.run for task in tasks)
    states = {task.run.folder: slurm.corrected(task.run, task.state(), queued) for task in tasks}
    start, waiting = list[Task](), list[Task]()
    for task in tasks:
        state = states[task.run.folder]
        if state == State.RUNNING or slurm.queued_job(task.run, queued):
            waiting.append(task)
        elif rerun or state != State.DONE:
            start.append(task)
    return Plan(start, waiting, states)


def dry_run(tasks: Sequence[Task], rerun: bool) -> str:
    """The table of runs: state, what would be done, and what varies."""
    start, waiting, states = plan(tasks, rerun)
    would = {task.run.folder: "start" for task in start} | {task.run.folder: "await" for task in waiting}
    for task in start:
        again = rerun or task.run.order(KNN.prefix).exists()
        if task.config and task.run.checkpoint.exists() and not again:
            would[task.run.folder] = "resume"
    rows = [(t.run.id, states[t.run.folder], would.get(t.run.folder, ""), t.label) for t in tasks]
    return "\n".join(f"{a}  {b:<9} {c:<7} {d}" for a, b, c, d in [("id        ", "state", "would", "point"), *rows])


def report(tasks: Sequence[Task], ends: Mapping[Path, State]) -> None:
    """Every run that did not end well, with the tail of its own log."""
    for task in tasks:
        end = ends[task.run.folder]
        if end not in ENDED_WELL:
            print(f"{end}: {task.label}  ({task.run.folder})", file=sys.stderr)
            for line in task.run.log_tail(5):
                print(f"    {line}", file=sys.stderr)


def exit_code(ends: Mapping[Path, State]) -> int:
    """0 where all ended well, EX_TEMPFAIL where some were stopped and none failed, else 1."""
    bad = {end for end in ends.values() if end not in ENDED_WELL}
    return 0 if not bad else EXIT_STOPPED if bad <= {State.STOPPED, State.PENDING} else 1
