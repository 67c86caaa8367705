"""From tasks to jobs: leave out what is done or running, freeze the rest, launch it and report how it ended.

State is read from the runs' folders, never from a launcher's own memory.
"""

import contextlib
import gc
import os
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from moco.errors import UserError
from moco.io import Unwritable
from moco.launch import budget
from moco.launch import slurm_client as slurm
from moco.launch.data import refuse_changed, refuse_missing
from moco.launch.gpus import chosen_gpus, idle, refuse_absent, slots
from moco.launch.halving import Halving
from moco.launch.job import Task
from moco.launch.local import LocalLauncher
from moco.launch.models import refuse_models
from moco.launch.options import LauncherOptions, LocalOptions, SlurmOptions
from moco.launch.preflight import collected, in_vain, merged, refuse_unshared
from moco.launch.slurm import SlurmLauncher
from moco.runs.lease import EXIT_STOPPED, Damaged
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

ENDED_WELL = (State.DONE, State.PAUSED, State.QUEUED, State.RUNNING)  # the last two where nobody waits for SLURM's jobs
TAIL = 5  # lines that are shown of a log
SHOWN = 10  # runs that are listed of those that ended alike for one reason


class Plan(NamedTuple):
    """What is left of the tasks, and the state of each run. What is neither started nor awaited is done."""

    start: list[Task]
    waiting: list[Task]  # for others, who work on them
    paused: list[Task]  # at a rung, until they rank among the best there
    states: dict[Path, State]
    left_out: list[str]  # the sweep's unfinished runs, by folder name, that nobody asks for any more


class Launcher(Protocol):
    """Where tasks run: slots of this machine, or SLURM's arrays."""

    def begin(self, start: Sequence[Task], waiting: Sequence[Task], paused: Sequence[Task]) -> None:
        """Takes the tasks of a plan: those to start, those that others work on, and those that are paused.

        Raises:
            UserError: it is refused; nothing of it stays in a queue.
        """

    def finish(self) -> dict[Path, State]:
        """How each run ended, by its folder, or how it stands where nobody waits."""


def make(options: LauncherOptions, sweep: Sweep) -> Launcher:
    """The launcher that takes these options.

    Raises:
        UserError: they belong to a launcher that somebody else wrote, or the launcher cannot work here.
    """
    if isinstance(options, SlurmOptions):
        return SlurmLauncher(options, sweep)
    assert isinstance(options, LocalOptions)
    return LocalLauncher(options, sweep)


def launch(
    tasks: Sequence[Task], options: LauncherOptions, sweep: Sweep, rerun: bool = False, more_follow: bool = False
) -> dict[Path, State]:
    """Does what the tasks ask for, one job per run; how each run ended, by its folder.

    Args:
        more_follow: whether the sweeper may ask for other points once it knows the scores of these.

    Raises:
        UserError: the launcher refuses; nothing stays half-submitted.
    """
    if isinstance(options, LocalOptions):
        refuse_absent(options.devices)
        _refuse_few(options)
    refuse_unshared(tasks, options.ranks)
    if line := in_vain(tasks):
        print(line)
    tasks = merged(tasks)
    halving = budget.asked(options)
    if halving:
        tasks = _halved(tasks, halving, sweep, options.resume_paused, more_follow)
    if not rerun:
        refuse_changed(tasks)
    if options.dry_run:
        shared = [f"each point takes {options.ranks} devices"] * (options.ranks > 1)
        expected = budget.expected(tasks, halving) if halving else []
        print("\n".join([dry_run(tasks, rerun, sweep), *shared, *expected]))
        gc.freeze()  # else Python looks for cycles in all that was loaded before it ends, a twelfth of the command
        return {task.run.folder: State.DONE for task in tasks}
    launcher, names = make(options, sweep), [task.run.folder.name for task in tasks]
    if not rerun and all(task.state() == State.DONE for task in tasks):  # which takes no right to write
        with contextlib.suppress(UserError):
            sweep.record(names)
        print(f"sweep {sweep.name}: {counted(len(tasks), 'run')}, {len(tasks)} done, 0 running elsewhere, 0 to start")
        for line in differing(tasks, []):
            print(line)
        return {task.run.folder: State.DONE for task in tasks}
    if isinstance(options, LocalOptions):  # a cluster's nodes may see other disks
        refuse_missing([task for task in tasks if rerun or task.state() != State.DONE])
    refuse_models(task for task in tasks if rerun or task.state() != State.DONE)
    ends = _begin(launcher, sweep, tasks, rerun)
    ends |= launcher.finish()
    report(tasks, ends)
    if halving and State.PAUSED in ends.values():
        paused, runs = [*ends.values()].count(State.PAUSED), [task.run for task in tasks]
        print(
            f"{budget.spent(runs)} are trained; {paused} of {counted(len(runs), 'run')} are paused: without halving they go on"
        )
    return ends


def _refuse_few(options: LocalOptions) -> None:
    """Refuses points that take more devices than there are; says which devices none of them takes.

    Raises:
        UserError: so it is.
    """
    if options.gpus_per_point > 1:
        gpus, each = chosen_gpus(options.devices), options.gpus_per_point
        slots(gpus, each)
        if left := idle(gpus, each):
            print(f"hydra.launcher.gpus_per_point={each} leaves {', '.join(left)} of the GPUs idle", file=sys.stderr)


def _halved(
    tasks: Sequence[Task], halving: Halving, sweep: Sweep, resume_paused: bool, more_follow: bool
) -> list[Task]:
    """The tasks, to be paused at the rungs; says what is to be said of that.

    Raises:
        UserError: there is nothing to compare, or no epoch before a rung.
    """
    tasks = budget.halved(tasks, halving, resume_paused)
    names = {task.run.folder.name for task in tasks}
    if not more_follow:
        budget.refuse_alone(tasks, [name for name in sweep.members() if name not in names])
    for line in budget.warnings(tasks):
        print(line, file=sys.stderr)
    return tasks


def _frozen(tasks: Sequence[Task], order: str | None, ends: dict[Path, State]) -> list[Task]:
    """The tasks whose folders are ready for their jobs; one that cannot be written is named, and the others go on."""
    ready = []
    for task in tasks:
        try:
            task.freeze(order)
            ready.append(task)
        except Unwritable as error:
            ends[task.run.folder] = State.FAILED
            print(f"error: {task.label}: {error}", file=sys.stderr)
    return ready


def _begin(launcher: Launcher, sweep: Sweep, tasks: Sequence[Task], rerun: bool) -> dict[Path, State]:
    """Plans, freezes and gives to the launcher; the ends that are known already.

    Raises:
        UserError: it is refused, or Ctrl-C came; nothing of it stays.
    """
    with sweep.claim():  # of two launchers at once, the second finds the first one's jobs
        start, waiting, paused, ends, left_out = plan(tasks, rerun, sweep)
        before = sweep.record([task.run.folder.name for task in tasks], left_out)
        done, all_to_start = len(tasks) - len(start) - len(waiting) - len(paused), start
        try:
            start = _frozen(start, uuid.uuid4().hex if rerun else None, ends)
            runs = counted(len(tasks), "run")
            at_rungs = f"{len(paused)} paused, " if paused else ""
            print(
                f"sweep {sweep.name}: {runs}, {done} done, {at_rungs}{len(waiting)} running elsewhere, {len(start)} to start"
            )
            if left_out and any(task.halving for task in tasks):
                print(
                    f"{counted(len(left_out), 'unfinished run')} of earlier launches: not asked for now, so not waited for"
                )
            for line in filter(None, [erased(start) if rerun else "", *differing(tasks, start)]):
                print(line)
            sys.stdout.flush()
            launcher.begin(start, waiting, paused)
        except BaseException as error:
            for task in all_to_start:
                task.undo()
            sweep.restore(before)
            if isinstance(error, KeyboardInterrupt):
                raise UserError("interrupted before anything was started: nothing has changed") from error
            raise
    return ends


def counted(number: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def erased(tasks: Sequence[Task]) -> str:
    """One line on what the tasks will erase where they are done again; empty where there is nothing."""
    there = Counter(name for task in tasks for name in task.erases())
    listed = " and ".join(counted(number, name) for name, number in there.items())
    return f"rerun=true erases {listed}, each when its job begins" if listed else ""


def differing(tasks: Sequence[Task], start: Sequence[Task]) -> list[str]:
    """A line for each linear evaluation that is not to be done since there is one with other settings."""
    started = {task.run.folder for task in start}
    done = [task for task in tasks if task.run.folder not in started]
    return collected([(task.label, line) for task in done for line in task.differences()])


def plan(tasks: Sequence[Task], rerun: bool, sweep: Sweep) -> Plan:
    """What is to be started of the tasks, each of another run, what others work on, and what waits at a rung."""
    queued = slurm.queued(task.run for task in tasks)
    states = {task.run.folder: slurm.corrected(task.run, task.state(), queued) for task in tasks}
    start, waiting, paused = list[Task](), list[Task](), list[Task]()
    for task in tasks:
        state = states[task.run.folder]
        if state == State.RUNNING or slurm.queued_job(task.run, queued):
            waiting.append(task)
        elif state == State.PAUSED and task.halving and not rerun:
            paused.append(task)
        elif rerun or state != State.DONE:
            start.append(task)
    left_out = _left_out(sweep, tasks)
    promoted = budget.promoted(paused, sweep, tasks, left_out=left_out)
    taken = {task.run.folder for task in promoted}
    paused = [task for task in paused if task.run.folder not in taken]
    halved = any(task.halving for task in start)
    return Plan([*promoted, *(budget.in_turn(start) if halved else start)], waiting, paused, states, left_out)


def _left_out(sweep: Sweep, tasks: Sequence[Task]) -> list[str]:
    """The sweep's unfinished runs, by folder name, that neither these tasks nor anybody else asks for any more."""
    asked = {task.run.folder.name for task in tasks}
    as_before = [name for name in sweep.left_out() if name not in asked]
    if all(task.config is None for task in tasks) or any(pid != os.getpid() for pid in sweep.launchers()):
        return as_before  # another launcher may ask for the rest
    others = [Run(sweep.runs_dir / name) for name in sweep.members() if name not in asked]
    queued, found = slurm.queued(others), list[str]()
    if queued.away:
        return as_before
    for run in others:
        with contextlib.suppress(Damaged):
            state = slurm.corrected(run, run.state(), queued)
            if state not in (State.DONE, State.RUNNING, State.QUEUED) and not slurm.queued_job(run, queued):
                found.append(run.folder.name)
    return found


def dry_run(tasks: Sequence[Task], rerun: bool, sweep: Sweep) -> str:
    """The table of runs: state, what would be done, and what varies."""
    start, waiting, _, states, _ = plan(tasks, rerun, sweep)
    would = {task.run.folder: "start" for task in start} | {task.run.folder: "await" for task in waiting}
    for task in start:
        if rerun and task.erases():
            would[task.run.folder] = "erase"
        elif task.config and task.run.checkpoint.exists():
            would[task.run.folder] = "resume"
    rows = [(t.run.id, states[t.run.folder], would.get(t.run.folder, ""), t.label) for t in tasks]
    table = [f"{a}  {b:<9} {c:<7} {d}" for a, b, c, d in [("id        ", "state", "would", "point"), *rows]]
    return "\n".join([*table, *filter(None, [erased(start) if rerun else "", *differing(tasks, start)])])


def report(tasks: Sequence[Task], ends: Mapping[Path, State]) -> None:
    """Every run that did not end well, and why: where several share a reason, it stands once below them."""
    shared: dict[tuple[State, tuple[str, ...]], list[str]] = {}
    for task in tasks:
        end = ends[task.run.folder]
        if end not in ENDED_WELL:
            line = f"{end}: {task.label}  ({task.run.folder})"
            shared.setdefault((end, reason(task.run, end)), []).append(line)
    for (_, why), lines in shared.items():
        more = [f"... and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
        for line in [*lines[:SHOWN], *more, *(f"    {line}" for line in why)]:
            print(line, file=sys.stderr)


def reason(run: Run, end: State) -> tuple[str, ...]:
    """The last lines of a run's error, else of its job's log; none where it was stopped, which needs no explanation."""
    if end in (State.STOPPED, State.PENDING, State.CANCELLED):
        return ()
    lines = run.failure().splitlines()
    return tuple(lines[-TAIL - 1 :] or run.log_tail(TAIL))  # with a head


def exit_code(ends: Mapping[Path, State]) -> int:
    """0 where all ended well, EX_TEMPFAIL where some were stopped and none failed, else 1."""
    bad = {end for end in ends.values() if end not in ENDED_WELL}
    return 0 if not bad else EXIT_STOPPED if bad <= {State.STOPPED, State.PENDING} else 1
