"""Hydra's side of the launchers `local` and `slurm`: composes the points and hands them to moco.launching.

Scanned at every start, so nothing heavy is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class Common:
    """What both launchers take; names that hydra-submitit-launcher has mean the same here."""

    kind: str = "local"
    sweep: str | None = None  # the sweep's name; null: the sweeps/ file's, else the swept keys'
    dry_run: bool = False  # print the points and their states, start nothing
    fail_fast: int = 0  # stop after so many failures; 0 = never
    snapshot: bool = False  # run from a copy of the tracked code
    timeout_min: int | None = None
    cpus_per_task: int | None = None
    signal_delay_s: int = 120  # between the warning that time is up and the end
    setup: list[str] | None = None  # shell lines before the job


@dataclass
class LocalConf(Common):
    _target_: str = "hydra_plugins.moco.launchers.MocoLauncher"
    devices: Any = "auto"  # auto, cpu, or a list of GPU indices
    jobs_per_device: int | None = None  # null: one on a GPU; on CPUs one a core, at most eight


@dataclass
class SlurmConf(Common):
    _target_: str = "hydra_plugins.moco.launchers.MocoLauncher"
    kind: str = "slurm"
    wait: bool = False  # follow the jobs to their ends
    timeout_min: int | None = 60
    array_parallelism: int = 256
    name: str = "moco"
    partition: str | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    gpus_per_task: int | None = None
    cpus_per_gpu: int | None = None
    mem_gb: float | None = None
    mem_per_cpu: str | None = None
    mem_per_gpu: str | None = None
    gres: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    srun_args: list[str] | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)


class MocoLauncher(Launcher):
    """Checks every point before any starts; queues what is not done."""

    def __init__(self, **options: Any):
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from moco.config.compose import Composer
        from moco.launch import plan as launching
        from moco.runs.sweep import Sweep

        compose = Composer(self.context.config_loader, self.config)
        tasks = launching.preflight([(" ".join(o), partial(compose, o)) for o in job_overrides])
        name = self.options["sweep"] or self.config.hydra.runtime.choices.get("sweeps") or _swept(job_overrides)
        sweep = Sweep(self.config.runs_dir, name)
        ends = launching.launch(tasks, self.options, sweep, rerun=bool(self.config.rerun))
        self.exit_code = launching.exit_code(ends)
        return [self._returned(task, list(o), ends[task.run.folder]) for task, o in zip(tasks, job_overrides)]

    def _returned(self, task: Any, overrides: list[str], end: str) -> JobReturn:
        from moco.launch.plan import ENDED_WELL

        well = end in ENDED_WELL
        value = task.value() if well else RuntimeError(f"{task.label} {end}: see {task.run.folder}")
        returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED if well else JobStatus.FAILED)
        returned.return_value = value
        return returned


def _swept(job_overrides: Sequence[Sequence[str]]) -> str:
    """A name for a sweep that has none: the keys in which its points differ."""
    values: dict[str, set[str]] = {}
    for overrides in job_overrides:
        for override in overrides:
            key, _, value = override.partition("=")
            values.setdefault(key.lstrip("+~"), set()).add(value)
    return "+".join(sorted(key for key, seen in values.items() if len(seen) > 1)) or "single"


store = ConfigStore.instance()
store.store(group="hydra/launcher", name="local", node=LocalConf, provider="moco")
store.store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="moco")
