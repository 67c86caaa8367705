"""What a launcher can be told: `hydra.launcher.*`, typed. Names that hydra-submitit-launcher has mean the same here."""

import os
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from moco.errors import UserError
from moco.training.distributed import several

Parameter: TypeAlias = bool | int | float | str | None  # of sbatch


@dataclass
class LauncherOptions:
    """What both launchers take.

    Attributes:
        sweep: the sweep's name; None: that of the sweeps/ file, else the swept keys.
        dry_run: print the points and their states, start nothing.
        fail_fast: stop after so many failures; 0 = never.
        snapshot: run from a copy of the tracked code.
        timeout_min: minutes that a job may take; None: no limit.
        cpus_per_task: cores of each process; None: the launcher's choice.
        signal_delay_s: seconds between the warning that time is up and the end.
        setup: shell lines before the job.
        halving: at each rung the best one of so many configurations goes on, the others are paused; None: all go on.
        rungs: how many there are; None: two.
        resume_paused: points that are paused go on to their ends.

    Raises:
        UserError: a value that cannot be.
    """

    sweep: str | None = None
    dry_run: bool = False
    fail_fast: int = 0
    snapshot: bool = False
    timeout_min: int | None = None
    cpus_per_task: int | None = None
    signal_delay_s: int = 120
    setup: list[str] | None = None
    halving: int | None = None
    rungs: int | None = None
    resume_paused: bool = False

    def __post_init__(self) -> None:
        _at_least(2, halving=self.halving)
        _at_least(1, rungs=self.rungs)
        if self.rungs is not None and self.halving is None:
            raise UserError(
                f"hydra.launcher.rungs={self.rungs} has no effect without halving: add hydra.launcher.halving=3"
            )
        _at_least(0, fail_fast=self.fail_fast, signal_delay_s=self.signal_delay_s)
        _at_least(1, timeout_min=self.timeout_min, cpus_per_task=self.cpus_per_task)
        if self.timeout_min and self.signal_delay_s >= 60 * self.timeout_min:
            raise UserError(
                f"hydra.launcher.signal_delay_s={self.signal_delay_s} should be less than the {60 * self.timeout_min} s of "
                f"timeout_min={self.timeout_min}: the warning would come at the start"
            )

    @property
    def ranks(self) -> int:
        """The processes of a point, each on a device of its own."""
        return 1


@dataclass
class LocalOptions(LauncherOptions):
    """Slots of this machine.

    Attributes:
        devices: auto, cpu, or a list of GPUs as CUDA_VISIBLE_DEVICES names them.
        jobs_per_device: None: one on a GPU; without GPUs one per core, at most eight.
        gpus_per_point: so many of the devices are one slot, whose point they train together.
    """

    devices: Any = "auto"  # OmegaConf knows no union of text and list
    jobs_per_device: int | None = None
    gpus_per_point: int = 1

    @property
    def ranks(self) -> int:
        return self.gpus_per_point

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, jobs_per_device=self.jobs_per_device, gpus_per_point=self.gpus_per_point)
        if self.devices not in ("auto", "cpu") and not (isinstance(self.devices, list) and self.devices):
            raise UserError(
                f"hydra.launcher.devices={self.devices} should be auto, cpu or a list of GPUs such as [0,1]"
            )
        if self.devices == "cpu" and self.gpus_per_point > 1:
            raise UserError(
                f"hydra.launcher.gpus_per_point={self.gpus_per_point} takes several devices, and devices=cpu is one: leave "
                "one of them out"
            )


@dataclass
class SlurmOptions(LauncherOptions):
    """Job arrays of SLURM.

    Attributes:
        wait: follow the jobs to their ends.
        array_parallelism: how many jobs may run at a time.
        points_per_job: how many points share a job: its cores, memory, GPUs and time; a process each.
        name: of the jobs, in SLURM's queue.
        nodes, tasks_per_node: of a point, whose processes its tasks are.
        mem_gb: memory of a job, on each of its nodes.
        additional_parameters: more of sbatch's: +hydra.launcher.additional_parameters.reservation=mine.
    """

    wait: bool = False
    timeout_min: int | None = 60
    array_parallelism: int = 256
    points_per_job: int = 1
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
    additional_parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(
            1,
            nodes=self.nodes,
            tasks_per_node=self.tasks_per_node,
            array_parallelism=self.array_parallelism,
            points_per_job=self.points_per_job,
            gpus_per_node=self.gpus_per_node,
            gpus_per_task=self.gpus_per_task,
            cpus_per_gpu=self.cpus_per_gpu,
        )
        if self.mem_gb is not None and not 0 < self.mem_gb < 1e6:
            raise UserError(f"hydra.launcher.mem_gb={self.mem_gb} should be a number of GB greater than 0")
        self._check_tasks()
        if self.fail_fast and not self.wait:
            raise UserError(
                "hydra.launcher.fail_fast on SLURM takes a launcher that stays: add hydra.launcher.wait=true"
            )

    def _check_tasks(self) -> None:
        if self.points_per_job > 1 and self.ranks > 1:
            raise UserError(
                f"hydra.launcher.points_per_job={self.points_per_job} lets points share one task, and nodes={self.nodes} "
                f"tasks_per_node={self.tasks_per_node} gives each point several: leave one of them out"
            )
        if self.gpus_per_node is not None and self.gpus_per_node < self.tasks_per_node > 1:
            raise UserError(
                f"hydra.launcher.gpus_per_node={self.gpus_per_node} is less than tasks_per_node={self.tasks_per_node}, and "
                "each task takes a GPU: give as many GPUs as tasks"
            )


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"hydra.launcher.{name}={value} should be a whole number of at least {least}")


def known(options: object) -> LauncherOptions:
    """The options, where they are those of a launcher of ours, and this process is alone.

    Raises:
        UserError: they belong to a launcher that somebody else wrote; or torchrun, say, has started several of this process.
    """
    if several():
        raise UserError(
            f"launchers start the processes of each point, and WORLD_SIZE={os.environ['WORLD_SIZE']} says that this is one "
            "of several: start it alone (without torchrun), with hydra.launcher.gpus_per_point=2, say"
        )
    if isinstance(options, LauncherOptions):
        return options
    raise UserError("give hydra/launcher=local or hydra/launcher=slurm: another launcher cannot do this")
