"""Hydra's side of the launchers `local` and `slurm`: composes the points and hands them to moco.launch.

Scanned at every start, so nothing heavy is imported here.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from moco.launch.options import LocalOptions, SlurmOptions

if TYPE_CHECKING:
    from moco.launch.job import Task
    from moco.runs.state import State

UNHEEDED = {  # keys of Hydra's that a sweep does not heed, and what to do instead
    "hydra.sweep.dir": "give runs_dir",
    "hydra.sweep.subdir": "a run's folder is named by its id",
    "hydra.run.dir": "give runs_dir",
    "hydra.job.chdir": "jobs stay in the working directory",
    "hydra.output_subdir": "the configuration lies in the run's config.json",
}
TARGET = "hydra_plugins.moco.launchers.MocoLauncher"


@dataclass
class LocalConf(LocalOptions):
    _target_: str = TARGET


@dataclass
class SlurmConf(SlurmOptions):
    _target_: str = TARGET


class MocoLauncher(Launcher):
    """Checks every point before any starts; launches what is not done."""

    exit_code = 0

    def __init__(self, **options: object):
        """Hydra hands over the options one by one; `launch` takes them typed from the configuration."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from moco.entry import run_or_exit

        return run_or_exit(lambda: self._launch(job_overrides))

    def _launch(self, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
        from moco.config.compose import Composer
        from moco.errors import UserError
        from moco.launch import plan
        from moco.launch.options import known
        from moco.launch.preflight import Point, alike, preflight
        from moco.runs.lease import EXIT_STOPPED
        from moco.runs.sweep import Sweep

        hydra = self.config.hydra
        options = known(OmegaConf.to_object(hydra.launcher))
        for line in without_effect(hydra):
            print(line, file=sys.stderr)
        compose = Composer(self.context.config_loader, self.config)
        tasks = preflight([Point(words, partial(compose, words)) for words in job_overrides])
        runs_dir, rerun = alike(tasks, self.config.runs_dir, bool(self.config.rerun))
        if name := options.sweep or hydra.runtime.choices.get("sweeps"):
            sweep = Sweep.named(runs_dir, str(name))
        else:
            sweep = Sweep.unnamed(runs_dir, *self._varied(job_overrides))
        if isinstance(options, SlurmOptions) and not (self._is_grid or options.wait or options.dry_run):
            raise UserError("this sweeper asks for points by the scores of earlier ones: add hydra.launcher.wait=true")
        os.environ.update({str(key): str(value) for key, value in hydra.job.env_set.items()})  # the jobs inherit it
        ends = plan.launch(tasks, options, sweep, rerun, more_follow=not self._is_grid)
        self.exit_code = plan.exit_code(ends)
        if options.dry_run and not self._is_grid:
            print("a dry run shows the first points that the sweeper asks for: the others follow from their scores")
            sys.exit(0)
        if self.exit_code == EXIT_STOPPED and not self._is_grid:  # which would take it for a failure
            sys.exit(EXIT_STOPPED)
        return [_returned(task, words, ends[task.run.folder]) for task, words in zip(tasks, job_overrides)]

    @property
    def _is_grid(self) -> bool:
        """Whether the sweeper gives all points at once; another one asks for a few, and for more by their scores."""
        return str(self.config.hydra.sweeper._target_).startswith("hydra_plugins.moco.")

    def _varied(self, job_overrides: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
        """The keys that vary in the sweep, and the words that hold for all of its points."""
        if self._is_grid:
            return _varied(job_overrides)
        parse = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides
        typed = parse(list(self.config.hydra.overrides.task))
        swept = {override.key_or_group for override in typed if override.is_sweep_override()}
        swept |= {str(key) for key in self.config.hydra.sweeper.get("params") or {}}
        return sorted(swept), [str(o.input_line) for o in typed if o.key_or_group not in swept]


def without_effect(hydra: DictConfig) -> list[str]:
    """A line for each of Hydra's own settings that somebody made and that a sweep does not heed."""
    keys = {word.partition("=")[0].lstrip("+~") for word in hydra.overrides.hydra}
    lines = [f"{key} has no effect: {why}" for key, why in UNHEEDED.items() if key in keys]
    callbacks = hydra.get("callbacks") or {}
    if callbacks:
        names = ", ".join(callbacks)
        lines.append(f"hydra.callbacks ({names}): on_job_start and on_job_end are not called, jobs are other processes")
    return lines


def _returned(task: "Task", words: Sequence[str], end: "State") -> JobReturn:
    """What a sweeper gets of a point: its objective, or an error."""
    from moco.errors import UserError
    from moco.launch.plan import ENDED_WELL

    well = end in ENDED_WELL
    returned = JobReturn(overrides=list(words), status=JobStatus.COMPLETED if well else JobStatus.FAILED)
    returned.return_value = task.value() if well else UserError(f"{task.label} {end}: see {task.run.folder}")
    return returned


def _varied(job_overrides: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The keys in which the points differ, and the words that they share."""
    values: dict[str, dict[str, None]] = {}
    for words in job_overrides:
        for word in words:
            values.setdefault(word.partition("=")[0].lstrip("+~"), {})[word] = None
    shared = [word for seen in values.values() if len(seen) == 1 for word in seen]
    return sorted(key for key, seen in values.items() if len(seen) > 1), shared


store = ConfigStore.instance()
store.store(group="hydra/launcher", name="local", node=LocalConf, provider="moco")
store.store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="moco")
