"""From a sweep's points to jobs: check all of them, drop what is done or running, freeze the rest and queue it.

State is read from the folders, never from a queue's own memory.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moco.analysis.records import describe, settings
from moco.config import schema as config
from moco.errors import UserError
from moco.launch import local as queues
from moco.launch import slurm_client as slurm
from moco.launch.job import Task
from moco.runs.lease import EXIT_STOPPED
from moco.runs.run import Run, find, flatten, folder_name
from moco.runs.sweep import Sweep

ENDED_WELL = ("done", "submitted", "running elsewhere")


def preflight(points: Sequence[tuple[str, Callable[[], Mapping[str, Any]]]]) -> list[Task]:
    """One task a point, in order; equal points share a run.

    Args:
        points: of each point its overrides, for messages, and a function that composes it.

    Raises:
        UserError: all bad points, a line for each thing that is wrong; nothing has been written.
    """
    problems, composed = [], []
    for name, compose in points:
        try:
            composed.append((name, compose()))
        except Exception as error:  # Hydra's, OmegaConf's and the user's resolvers' alike
            problems += [f"{name}: {str(error).splitlines()[0]}"]
    # In a sweep over methods a key that one of them lacks is dropped there: those points are one run.
    fold = len({c["method"]["name"] for _, c in composed if "method" in c}) > 1
    tasks = []
    for name, values in composed:
        try:
            tasks.append(_task(values, fold))
        except UserError as error:
            problems += [f"{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise UserError("\n".join(problems))
    return label(tasks)


def _task(values: Mapping[str, Any], fold: bool) -> Task:
    if "method" not in values:
        cfg = config.check(values, config.LinearEval)
        if cfg["run"] is None:
            raise UserError("run is missing: give the id or folder of a finished run, run=<id>")
        return Task(find(cfg["runs_dir"], str(cfg["run"])), "linear_eval", cfg)
    cfg = config.named(config.check(values, fold=fold))
    config.check_arguments(cfg)
    return Task(Run(Path(cfg["runs_dir"]).absolute() / folder_name(cfg)), "train", cfg)


def linear_tasks(cfg: dict[str, Any]) -> list[Task]:
    """Linear evaluation of every finished run of the sweep that `cfg` (of linear_eval.py) names.

    Raises:
        UserError: there is no such sweep, or nothing in it is finished.
    """
    runs = Sweep(cfg["runs_dir"], cfg["sweep"]).runs()
    done = [run for run in runs if run.result]
    if len(done) < len(runs):
        print(f"{len(runs) - len(done)} of {len(runs)} runs of sweep {cfg['sweep']} are not done: they are left out")
    if not done:
        raise UserError(f"no run of sweep {cfg['sweep']} is done: look at python -m moco status {cfg['sweep']}")
    return label([Task(run, "linear_eval", cfg) for run in done])


def label(tasks: list[Task]) -> list[Task]:
    """Gives each task the settings in which it differs from the others, as people would type them."""
    flats = [settings(flatten(t.arguments) if t.what == "train" else t.run.flat_config) for t in tasks]
    for task, text in zip(tasks, describe(flats)):
        task.label = text or task.run.folder.name
    return tasks


def unique(tasks: Sequence[Task]) -> list[Task]:
    """The tasks with each run once.

    Raises:
        UserError: two linear evaluations of one run differ.
    """
    found: dict[Path, Task] = {}
    for task in tasks:
        other = found.setdefault(task.run.folder, task)
        # Not all arguments: one run may be named by its id and by its folder.
        if task.what == "linear_eval" and any(task.arguments[key] != other.arguments[key] for key in ("probe", "seed")):
            raise UserError(f"two linear evaluations of {task.run.folder.name} that differ: start one after the other")
    return list(found.values())


def plan(tasks: Sequence[Task], rerun: bool) -> tuple[list[Task], list[Task], dict[Path, str]]:
    """Of the tasks those to start, those that run elsewhere and are awaited, and the state of each run.

    What is in neither list is done.
    """
    queued = slurm.queued(task.run for task in tasks)
    states = {task.run.folder: slurm.corrected(task.run, task.state(), queued) for task in tasks}
    waiting = [t for t in tasks if states[t.run.folder] == "running" or slurm.queued_job(t.run, queued)]
    held = {t.run.folder for t in waiting}
    start = [t for t in tasks if t.run.folder not in held and (rerun or states[t.run.folder] != "done")]
    return start, waiting, states


def dry_run(tasks: Sequence[Task], rerun: bool) -> str:
    """The table of points: what varies, state, and what would be started."""
    start, waiting, states = plan(tasks, rerun)
    todo = {t.run.folder: "start" for t in start} | {t.run.folder: "await" for t in waiting}
    for task in start:
        if task.what == "train" and task.run.checkpoint.exists() and not (rerun or task.run.order("knn").exists()):
            todo[task.run.folder] = "resume"
    rows = [(t.run.id, states[t.run.folder], todo.get(t.run.folder, ""), t.label) for t in tasks]
    return "\n".join(f"{a}  {b:<9} {c:<7} {d}" for a, b, c, d in [("id        ", "state", "would", "point"), *rows])


def launch(tasks: list[Task], options: Mapping[str, Any], sweep: Sweep, rerun: bool = False) -> dict[Path, str]:
    """Runs or submits the tasks through the queue that `options` describe; the end of each, by its folder.

    Raises:
        UserError: the queue refuses; nothing stays half-submitted.
    """
    tasks = unique(tasks)
    if options["dry_run"]:
        print(dry_run(tasks, rerun))
        return {task.run.folder: "done" for task in tasks}
    queue = queues.make(options, sweep)
    start, waiting, ends = plan(tasks, rerun)
    sweep.record([task.run.folder.name for task in tasks])
    for task in start:
        task.freeze(again=rerun)
    done = len(tasks) - len(start) - len(waiting)
    print(
        f"sweep {sweep.name}: {len(tasks)} points, {done} done, {len(waiting)} running elsewhere, {len(start)} to start"
    )
    try:
        ends |= queue.run(start, waiting)
    except UserError:
        for task in start:
            task.withdraw()
        raise
    report(tasks, ends)
    return ends


def report(tasks: Sequence[Task], ends: Mapping[Path, str]) -> None:
    """Every point that did not end well, with the tail of its own log."""
    for task in tasks:
        end = ends[task.run.folder]
        if end not in ENDED_WELL:
            print(f"{end}: {task.label}  ({task.run.folder})", file=sys.stderr)
            for line in task.run.log_tail(5):
                print(f"    {line}", file=sys.stderr)


def exit_code(ends: Mapping[Path, str]) -> int:
    """0 where all ended well, EX_TEMPFAIL where some were stopped and none failed, else 1."""
    bad = {end for end in ends.values() if end not in ENDED_WELL}
    return 0 if not bad else EXIT_STOPPED if bad <= {"stopped", "pending"} else 1
