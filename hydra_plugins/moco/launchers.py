"""Hydra's side of the launchers `local` and `slurm`: composes the points and hands them to moco.launch.

Scanned at every start, so nothing heavy is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from moco.launch.options import LocalOptions, SlurmOptions

if TYPE_CHECKING:
    from moco.launch.job import Task
    from moco.runs.state import State

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
        from moco.launch import plan
        from moco.launch.options import known
        from moco.launch.preflight import Point, preflight
        from moco.runs.sweep import Sweep

        options = known(OmegaConf.to_object(self.config.hydra.launcher))
        compose = Composer(self.context.config_loader, self.config)
        tasks = preflight([Point(words, partial(compose, words)) for words in job_overrides])
        name = options.sweep or self.config.hydra.runtime.choices.get("sweeps") or _swept(job_overrides)
        ends = plan.launch(tasks, options, Sweep(self.config.runs_dir, name), rerun=bool(self.config.rerun))
        self.exit_code = plan.exit_code(ends)
        return [_returned(task, words, ends[task.run.folder]) for task, words in zip(tasks, job_overrides)]


def _returned(task: "Task", words: Sequence[str], end: "State") -> JobReturn:
    """What a sweeper gets of a point: its objective, or an error."""
    from moco.launch.plan import ENDED_WELL

    well = end in ENDED_WELL
    returned = JobReturn(overrides=list(words), status=JobStatus.COMPLETED if well else JobStatus.FAILED)
    returned.return_value = task.value() if well else RuntimeError(f"{task.label} {end}: see {task.run.folder}")
    return returned


def _swept(job_overrides: Sequence[Sequence[str]]) -> str:
    """A name for a sweep that has none: the keys in which its points differ."""
    values: dict[str, set[str]] = {}
    for words in job_overrides:
        for word in words:
            key, _, value = word.partition("=")
            values.setdefault(key.lstrip("+~"), set()).add(value)
    return "+".join(sorted(key for key, seen in values.items() if len(seen) > 1)) or "single"


store = ConfigStore.instance()
store.store(group="hydra/launcher", name="local", node=LocalConf, provider="moco")
store.store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="moco")
