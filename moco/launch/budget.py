"""What a halved sweep may be, in which order its points start, and what it costs in epochs. Imports no torch."""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from moco.errors import UserError
from moco.launch.halving import Halving, Race, total_epochs
from moco.launch.job import Task
from moco.launch.options import LauncherOptions
from moco.runs.identity import flatten
from moco.runs.run import Run
from moco.runs.settings import Alike, alike_but_for_seed
from moco.runs.state import State
from moco.runs.sweep import Sweep


def asked(options: LauncherOptions) -> Halving | None:
    """The halving that the options ask for, of two rungs where they do not say; None where all points go to their ends."""
    return Halving(options.halving, options.rungs or 2) if options.halving else None


def halved(tasks: Sequence[Task], halving: Halving, resume_paused: bool) -> list[Task]:
    """The tasks, to be paused at the rungs.

    Args:
        resume_paused: those that are paused go to their ends.

    Raises:
        UserError: a run has too few epochs for the rungs, or there is nothing to be trained.
    """
    if any(task.config is None for task in tasks):
        raise UserError("hydra.launcher.halving pauses trainings, and a linear evaluation is none: leave it out")
    least = halving.eta**halving.rungs
    if short := sorted({task.config.epochs for task in tasks if task.config and task.config.epochs < least}):
        raise UserError(
            f"epochs={short[0]} leaves no epoch before the first rung of hydra.launcher.halving={halving.eta} with "
            f"rungs={halving.rungs}: give at least {least} epochs, or fewer rungs"
        )
    return [
        replace(task, halving=None if resume_paused and task.state() == State.PAUSED else halving) for task in tasks
    ]


def refuse_alone(tasks: Sequence[Task], others: Sequence[str]) -> None:
    """Refuses a halving that has nothing to compare.

    Raises:
        UserError: all the sweep's points are one configuration.
    """
    if len(by_configuration(tasks)) == 1 and not others:
        raise UserError(
            "hydra.launcher.halving compares configurations, and there is one, as seeds of one rise together: sweep over "
            "more, or leave it out"
        )


def warnings(tasks: Sequence[Task]) -> list[str]:
    """What is to be said of a halving that can be done all the same."""
    configs, said = [task.config for task in tasks if task.config], []
    if any(not config.data.validation for config in configs):
        said.append(
            "warning: which points go on is chosen by their kNN on the test set, so the best one's number will be a little too "
            "good: data.validation=0.1 chooses on held-out training images"
        )
    if len({config.epochs for config in configs}) > 1:
        said.append(
            "warning: epochs vary, so rungs are shares of each point's own: longer runs are ranked at later epochs"
        )
    if len({(config.data.name, config.data.validation) for config in configs}) > 1:
        said.append("warning: the points are scored on different images: each is ranked among those of its own data")
    return said


def by_configuration(tasks: Sequence[Task]) -> dict[Alike, list[Task]]:
    """The tasks of each configuration, which differ in the seed alone."""
    groups: dict[Alike, list[Task]] = {}
    for task in tasks:
        flat = flatten(task.config.frozen()) if task.config else task.run.flat_config
        groups.setdefault(alike_but_for_seed(flat), []).append(task)
    return groups


def in_turn(tasks: Sequence[Task]) -> list[Task]:
    """The tasks in the order to start them: seeds of one configuration together, configurations by their ids.

    Ids are as good as random. A grid's own order often goes from bad to good values, in which each point is the best when it
    arrives, and goes on.
    """
    groups = by_configuration(tasks).values()
    return [task for group in sorted(groups, key=lambda group: min(t.run.id for t in group)) for task in group]


def promoted(
    paused: Sequence[Task],
    sweep: Sweep,
    tasks: Sequence[Task],
    gone: Collection[Path] = (),
    left_out: Collection[str] | None = None,
) -> list[Task]:
    """Those of the paused tasks that rank among the best by now, to go on to the next rung.

    Args:
        tasks: all of this launch, which compete with those of earlier launches of the sweep.
        gone: folders of runs that have ended without reaching their rung, and count as last.
        left_out: folders, by name, of runs that nobody asks for any more; None: what the sweep says.
    """
    halving = next((task.halving for task in paused if task.halving), None)
    if halving is None:
        return []
    names = dict.fromkeys([*sweep.members(), *(task.run.folder.name for task in tasks)])
    asked = {task.run.folder.name for task in tasks}
    out = {*(sweep.left_out() if left_out is None else left_out)} - asked
    race = Race([Run(sweep.runs_dir / name) for name in names], halving, gone, out)
    verdicts = [(task, race.verdict(task.run)) for task in paused]
    return [replace(task, passed=verdict.reached) for task, verdict in verdicts if verdict.goes_on]


def expected(tasks: Sequence[Task], halving: Halving) -> list[str]:
    """What a dry run tells: the rungs in epochs, and what the sweep costs from its beginning."""
    ends = sorted({task.config.epochs for task in tasks if task.config})
    rungs = [f"{', '.join(map(str, halving.epochs(total)))} of {total}" for total in ends]
    return [
        f"rungs at epoch {'; '.join(rungs)}: the best 1/{halving.eta} go on, the others are paused",
        f"the sweep takes {_costs(tasks, halving)}",
    ]


def least(tasks: Sequence[Task]) -> int:
    """Epochs that those of the tasks take at least which are to be halved, from their beginning."""
    halved = [task for task in tasks if task.halving]
    return _costs(halved, halved[0].halving).least if halved and halved[0].halving else 0


def _costs(tasks: Sequence[Task], halving: Halving) -> "Cost":
    """What the sweep costs: each race apart, in which points are scored on the same images."""
    races: dict[tuple[str | None, float], list[list[int]]] = {}
    for group in by_configuration(tasks).values():
        configs = [task.config for task in group if task.config]
        races.setdefault((configs[0].data.name, configs[0].data.validation), []).append([c.epochs for c in configs])
    return Cost(*map(sum, zip(*(cost(race, halving) for race in races.values()))))


class Spent(NamedTuple):
    """Epochs that the runs of a sweep have trained, and those of the whole grid."""

    trained: int
    grid: int

    def __str__(self) -> str:
        share = f" ({100 * self.trained / self.grid:.0f} %)" if self.grid else ""
        return f"{self.trained} of the grid's {self.grid} epochs{share}"


def spent(runs: Sequence[Run]) -> Spent:
    """What the runs have cost up to now; damaged folders are left out."""
    trained = grid = 0
    for run in runs:
        with contextlib.suppress(UserError):
            grid += total_epochs(run.flat_config)
            trained += standing(run)
    return Spent(trained, grid)


def standing(run: Run) -> int:
    """The last epoch that the run has completed; 0 before the first."""
    epoch = run.last_metrics().get("epoch")
    return epoch if isinstance(epoch, int) else 0


class Cost(NamedTuple):
    """Epochs of training that a halved sweep takes at least and at most, and those of the whole grid."""

    least: int
    most: int
    grid: int

    def __str__(self) -> str:
        least, most = (f"{100 * epochs / self.grid:.0f} %" for epochs in (self.least, self.most))
        return f"{self.least} to {self.most} epochs of the grid's {self.grid} ({least} to {most})"


def cost(epochs: Sequence[Sequence[int]], halving: Halving) -> Cost:
    """What a halved sweep costs, from its beginning.

    At least: no more go on than in synchronous halving. At most: the points come from the worst to the best, so that all but
    the first eta - 1 are among the best when they arrive.

    Args:
        epochs: of each configuration the epochs of its seeds.
    """
    parts = sorted((_parts(seeds, halving) for seeds in epochs), key=sum)
    least = most = sum(part[0] for part in parts)
    few = many = len(parts)
    for rung in range(1, halving.rungs + 1):
        few, many = max(1, few // halving.eta), many - min(halving.eta, few) + 1
        least += sum(part[rung] for part in parts[:few])
        most += sum(part[rung] for part in parts[-many:])
    return Cost(least, most, sum(map(sum, parts)))


def _parts(seeds: Sequence[int], halving: Halving) -> list[int]:
    """The epochs of a configuration's seeds up to the first rung, from there to the second, ..., to the end."""
    ends = [[0, *halving.epochs(total), total] for total in seeds]
    return [sum(end[i + 1] - end[i] for end in ends) for i in range(halving.rungs + 1)]
