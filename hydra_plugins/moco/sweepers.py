"""Hydra's basic sweeper less what the launcher does better: no file is written and no point composed before its preflight."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweeperConf:
    _target_: str = "hydra_plugins.moco.sweepers.GridSweeper"
    # key: "values as on the command line", which win over these
    params: dict[str, bool | int | float | str | None] = field(default_factory=dict)


class GridSweeper(Sweeper):
    """Every combination of the swept values, in one launch."""

    def __init__(self, params: dict[str, object]):
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.context = hydra_context
        self.grid_launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words = [f"{key}={value}" for key, value in self.params.items()] + arguments  # of one key, the last counts
        overrides = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(words)
        [points] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        returns: Sequence[JobReturn] = self.grid_launcher.launch(points, initial_job_idx=0)
        if code := getattr(self.grid_launcher, "exit_code", 0):  # another launcher has none
            sys.exit(code)
        return returns


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=SweeperConf, provider="moco")
