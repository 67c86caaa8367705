"""Hydra's basic sweeper less what the launcher does better: no file is written and no point composed before its preflight."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@dataclass
class SweeperConf:
    _target_: str = "hydra_plugins.moco.sweepers.GridSweeper"
    # key: "values as on the command line", which win over these
    params: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    # keys that go through their values together, [temperature,seed], or several such lists
    paired: list[Any] = field(default_factory=list)


class GridSweeper(Sweeper):
    """Every combination of the swept values, in one launch; keys that are paired go through theirs in step."""

    def __init__(self, params: dict[str, object], paired: Sequence[object] = ()):
        self.params, self.paired = params, paired

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.context = hydra_context
        self.grid_launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        words = [f"{key}={_typed(value)}" for key, value in self.params.items()] + arguments
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        points = grid(parser.parse_overrides(words), self.paired)
        returns: Sequence[JobReturn] = self.grid_launcher.launch(points, initial_job_idx=0)
        if code := getattr(self.grid_launcher, "exit_code", 0):  # another launcher has none
            sys.exit(code)
        return returns


def grid(overrides: "Sequence[Override]", paired: Sequence[object] = ()) -> list[list[str]]:
    """The points of a grid, each as command-line words; of one key the last override counts.

    Raises:
        UserError: a key has no values, or what is paired cannot be.
    """
    found = {override.get_key_element().lstrip("+"): _words(override) for override in overrides}
    sides = [[[word] for word in words] for key, words in found.items() if key not in _flat(paired)]
    sides += [_in_step(keys, found) for keys in _groups(paired)]
    return [[word for words in point for word in words] for point in itertools.product(*sides)]


def _words(override: "Override") -> list[str]:
    """key=value for each of the override's values."""
    from moco.errors import UserError

    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(f"{key}: interval(...) has no points for a grid: list values, or give hydra/sweeper=optuna")
    words = [f"{key}={value}" for value in _values(override)]
    if not words:
        raise UserError(f"{override.input_line} has no values: give at least one")
    if key == "sweeps":
        raise UserError(f"{override.input_line} names several sweeps: give one, sweeps={words[0].partition('=')[2]}")
    return words


def _values(override: "Override") -> list[str]:
    """The values as text; those of range(0.1,0.5,0.1) as decimal numbers, in which 0.1 + 0.2 is 0.3."""
    from hydra.core.override_parser.types import FloatRange, RangeSweep

    swept, values = override.value(), [*override.sweep_string_iterator()]
    if not isinstance(swept, RangeSweep) or not isinstance(swept.range(), FloatRange):
        return values
    start, stop, step = (Decimal(str(value)) for value in (swept.start, swept.stop, swept.step))
    exact = [start + step * round((Decimal(value) - start) / step) for value in values]
    return [str(float(value)) for value in exact if (value < stop if step > 0 else value > stop)]


def _flat(paired: Sequence[object]) -> list[str]:
    return [key for keys in _groups(paired) for key in keys]


def _groups(paired: Sequence[object]) -> list[list[str]]:
    """The lists of keys that go in step: one list of keys is one of them."""
    if not paired:
        return []
    alone = all(isinstance(key, str) for key in paired)
    several = [[keys] if isinstance(keys, str) or not isinstance(keys, Sequence) else keys for keys in paired]
    lists: Sequence[Sequence[object]] = [paired] if alone else several
    return [[str(key).lstrip("+") for key in keys] for keys in lists]


def _in_step(keys: Sequence[str], found: dict[str, list[str]]) -> list[list[str]]:
    """The first value of each key, the second of each ..."""
    from moco.errors import UserError

    if missing := [key for key in keys if key not in found]:
        raise UserError(f"hydra.sweeper.paired names {missing[0]}, which has no values: give {missing[0]}=...")
    sizes = {key: len(found[key]) for key in keys}
    if len(set(sizes.values())) > 1:
        listed = " and ".join(f"{key} has {size}" for key, size in sizes.items())
        raise UserError(f"hydra.sweeper.paired takes keys with the same number of values: {listed}")
    return [list(words) for words in zip(*(found[key] for key in keys))]


def _typed(value: object) -> str:
    """A value of a YAML file as it is typed on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=SweeperConf, provider="moco")
