"""What optimizers of this package share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class GroupedOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer that updates the parameters of a group together."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; returns what `closure`, called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.update([p for p in group["params"] if p.grad is not None], group)
        return loss

    @abstractmethod
    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Changes the parameters of a group that have a gradient, of which there may be none."""

    def kept(self, params: Iterable[Tensor], name: str) -> list[Tensor]:
        """What the state keeps of each parameter under that name, at first zeros."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]


def gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """Of each of the parameters, all of which have one."""
    return [p.grad for p in params if p.grad is not None]
