"""From a sweep's points to tasks: all are checked before one starts, and what is one run becomes one task."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from moco.config.check import check, check_linear_eval, typed_keys
from moco.config.ranks import problems
from moco.config.refusals import in_one_line
from moco.config.schema import Config, Data, LinearEval, OtherData, Tracking, WeightsEval
from moco.errors import UserError
from moco.io import Json
from moco.launch.job import Task
from moco.runs.identity import flatten, folder_name, identifies
from moco.runs.listing import find
from moco.runs.run import Run
from moco.runs.settings import describe, identifying, varying
from moco.runs.sweep import Sweep
from moco.tracking.environment import check_environment

DONE_APART = ("version", "rerun", "linear_eval")  # keys outside of the identity that are never in vain
SHOWN = 20  # lines at most about points that are wrong


class Point(NamedTuple):
    """A point of a sweep: its command-line words, and what composes the configuration from them."""

    words: Sequence[str]
    compose: Callable[[], Mapping[str, Json]]


def preflight(points: Iterable[Point]) -> list[Task]:
    """One task per point, in order.

    Raises:
        UserError: all bad points, a line for each thing that is wrong; nothing has been written.
    """
    points, problems, composed = list(points), list[tuple[str, str]](), []
    told = _apart([point.words for point in points])
    for point in points:
        try:
            composed.append((point.words, point.compose()))
        except Exception as error:  # Hydra's, OmegaConf's and the user's resolvers' alike
            problems.append((told(point.words), in_one_line(error)))
    # In a sweep over methods a key that one of them lacks is dropped there: those points are one run.
    fold = len({_method(values) for _, values in composed}) > 1
    tasks = []
    for words, values in composed:
        try:
            tasks.append(_task(values, words, fold))
        except UserError as error:
            problems += [(told(words), line) for line in str(error).splitlines()]
    if problems:
        raise UserError("\n".join(collected(problems)))
    _check_trackers(tasks)
    return _labelled(tasks)


def _check_trackers(tasks: Sequence[Task]) -> None:
    """Refuses what W&B would refuse in the environment, once for all points."""
    kept = [task.config.tracker for task in tasks if task.config]
    kept += [asked.tracker for task in tasks for asked in task.evaluations]
    seen: list[Tracking] = []
    for tracker in kept:
        if tracker not in seen:
            seen.append(tracker)
            check_environment(tracker)


def _apart(points: Sequence[Sequence[str]]) -> Callable[[Sequence[str]], str]:
    """Names a point by the words that others of the sweep lack; by all of its own where there is none."""
    shared = set(points[0]).intersection(*points[1:]) if len(points) > 1 else set()
    return lambda words: " ".join(word for word in words if word not in shared) or " ".join(words)


def refuse_unshared(tasks: Sequence[Task], ranks: int) -> None:
    """Refuses settings that so many devices of a point cannot share.

    Raises:
        UserError: a line for each, with its points.
    """
    asked = [(task.label, config) for task in tasks for config in (task.config, *task.evaluations) if config]
    if found := dict.fromkeys((label, line) for label, config in asked for line in problems(config, ranks)):
        raise UserError("\n".join(collected(found)))


def alike(tasks: Sequence[Task], runs_dir: str, rerun: bool) -> tuple[str, bool]:
    """Where the runs lie and whether all are to be done again, which is one thing for all points of a sweep.

    Args:
        runs_dir, rerun: what holds where no point trains.

    Raises:
        UserError: it is not.
    """
    configs = [task.config for task in tasks if task.config]
    folders, again = {config.runs_dir for config in configs}, {config.rerun for config in configs}
    if len(folders) > 1:
        raise UserError(
            f"runs_dir is one for all points of a sweep: start one sweep for each of {_listed(sorted(folders))}"
        )
    if len(again) > 1:
        raise UserError("rerun is one for all points of a sweep: start those with rerun=true apart")
    return next(iter(folders), runs_dir), next(iter(again), rerun)


def collected(problems: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each thing that is said of points, with the first of them and their number."""
    points: dict[str, list[str]] = {}
    for point, line in problems:
        points.setdefault(line, []).append(point)
    said = [
        f"{at[0]}: {line}" if len(at) == 1 else f"{line} ({len(at)} points, the first is {at[0]})"
        for line, at in points.items()
    ]
    return said[:SHOWN] + [f"... and {len(said) - SHOWN} more"] * (len(said) > SHOWN)


def linear_tasks(asked: LinearEval) -> list[Task]:
    """Linear evaluation of every finished run of the sweep that is named.

    Raises:
        UserError: there is no such sweep, or nothing in it is finished.
    """
    runs = Sweep(asked.runs_dir, str(asked.sweep)).runs()
    done = [run for run in runs if run.result]
    if len(done) < len(runs):
        print(f"{len(runs) - len(done)} of {len(runs)} runs of sweep {asked.sweep} are not done: they are left out")
    if not done:
        raise UserError(f"no run of sweep {asked.sweep} is done: look at python -m moco status {asked.sweep}")
    check_environment(asked.tracker)
    return _labelled([_evaluation(run, asked) for run in done])


def merged(tasks: Sequence[Task]) -> list[Task]:
    """One task per run, which does all that the points of that run ask for.

    Raises:
        UserError: two linear evaluations of one run are by the same protocol and differ.
    """
    return [
        replace(group[0], evaluations=_union(group[0].run, [asked for task in group for asked in task.evaluations]))
        for group in _by_run(tasks)
    ]


def in_vain(tasks: Sequence[Task]) -> str:
    """One line on points that differ and are one run all the same, with the keys that tell them apart; else empty."""
    same: list[list[Task]] = []
    keys: dict[str, None] = {}
    for group in (group for group in _by_run(tasks) if len(group) > 1):
        evaluated = any(task.evaluations for task in group)
        if differing := varying([_indifferent(task.config, evaluated) for task in group if task.config]):
            same.append(group)
            keys |= dict.fromkeys(key.removesuffix(".name") for key in differing)
    if not same:
        return ""
    points, runs = sum(map(len, same)), "one run" if len(same) == 1 else f"{len(same)} runs"
    do = "does" if len(keys) == 1 else "do"
    return f"{points} points are {runs}: they differ in {_listed(keys)} alone, which {do} not change the result"


def _method(values: Mapping[str, Json]) -> Json:
    """The name of a point's method; None for a linear evaluation."""
    method = values.get("method")
    return method.get("name") if isinstance(method, dict) else None


def _task(values: Mapping[str, Json], words: Sequence[str], fold: bool) -> Task:
    if "method" not in values:
        asked = check_linear_eval(values, typed_keys(words))
        if isinstance(asked, WeightsEval):
            raise UserError("weights=... is evaluated here, one file at a time: leave -m and hydra.launcher out")
        if asked.run is None:
            raise UserError("run is missing: give the id or folder of a finished run, run=<id>")
        return _evaluation(find(asked.runs_dir, asked.run), asked)
    config = check(values, typed_keys(words), fold=fold)
    run = Run(Path(config.runs_dir).absolute() / folder_name(config))
    return Task(run, config, (config.evaluation(),) if config.linear_eval else ())


def _evaluation(run: Run, asked: LinearEval) -> Task:
    """A linear evaluation; an order to do it again goes into the run's folder, where a job obeys it once."""
    return Task(Run(run.folder.absolute()), None, (asked.model_copy(update={"rerun": False}),))


def _labelled(tasks: Sequence[Task]) -> list[Task]:
    """The tasks with the settings in which each differs from the others, as people would type them."""
    flats = [identifying(flatten(task.config.frozen()) if task.config else task.run.flat_config) for task in tasks]
    return [replace(task, label=text or task.run.folder.name) for task, text in zip(tasks, describe(flats))]


def _by_run(tasks: Sequence[Task]) -> list[list[Task]]:
    """The tasks of each run, in order."""
    groups: dict[Path, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.run.folder, []).append(task)
    return list(groups.values())


def _union(run: Run, evaluations: Iterable[LinearEval]) -> tuple[LinearEval, ...]:
    """The evaluations, each protocol once."""
    found: dict[str, LinearEval] = {}
    for asked in evaluations:
        other = found.setdefault(asked.protocol.prefix, asked)
        if (asked.probe, asked.seed, _transfer(asked)) != (other.probe, other.seed, _transfer(other)):
            raise UserError(f"two linear evaluations of {run.folder.name} that differ: start one after the other")
    return tuple(found.values())


def _transfer(asked: LinearEval) -> Data | None:
    """The other data set that it is on."""
    return asked.data if isinstance(asked, OtherData) else None


def _indifferent(config: Config, evaluated: bool) -> dict[str, Json]:
    """The settings that change nothing of a run's result; of probe only where no linear evaluation is asked for."""
    flat = flatten(config.frozen())
    left_out = (*DONE_APART, "probe") if evaluated else DONE_APART
    return {key: value for key, value in flat.items() if not identifies(key) and key.partition(".")[0] not in left_out}


def _listed(names: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = names
    return " and ".join(filter(None, [", ".join(first), last]))
