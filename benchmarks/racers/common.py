"""What the contestants of benchmarks/race.py share: the network, the clock, and snapshots of the backbone while it trains.

A contestant runs in an environment of its own, where its library is installed and moco is not, under a Python that may be
older. Of moco it takes the one file of the network.
"""

import importlib.util
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NETWORK = Path(__file__).parents[2] / "moco" / "models" / "small_resnet.py"


@dataclass
class Race:
    """What the race asks of a contestant; read from the environment variable RACE.

    Attributes:
        images: folder with train/<class>/.
        out: folder of the snapshots.
        began: when the contestant was started, seconds since the epoch; None counts from its first step.
        moments: when to take a snapshot, seconds after that; the last is the end.
        steps: length of the training that its schedule is made for.
        model: arguments of the network.
        bf16: whether this CPU is faster in bf16.
        workers: processes that load images.
    """

    images: str
    out: str
    began: Any  # float or None, which Python 3.9 cannot write with a bar
    moments: list[float]
    steps: int
    model: dict[str, Any]
    bf16: bool
    workers: int
    _taken: int = field(default=0, init=False)

    @classmethod
    def of_environment(cls) -> "Race":
        return cls(**json.loads(os.environ["RACE"]))

    @property
    def loading(self) -> Any:
        """Arguments of torch's DataLoader."""
        return {"shuffle": True, "drop_last": True, "num_workers": self.workers, "persistent_workers": True}

    def training(self, base: type) -> Any:
        """Arguments of a Trainer of Lightning 2, which takes the snapshots and ends with the time.

        Args:
            base: as for `stop_when_over`.
        """
        return {
            "max_epochs": -1,
            "max_steps": self.steps,
            "accelerator": "cpu",
            "precision": "bf16-mixed" if self.bf16 else "32-true",
            "callbacks": [stop_when_over(self, base)],
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
        }

    def network(self) -> Any:
        """The network that all train, moco.models.SmallResNet, with weights drawn anew."""
        import torch

        spec = importlib.util.spec_from_file_location("small_resnet", NETWORK)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        return module.SmallResNet(**self.model)

    def look(self, backbone: Any, *, steps: int) -> bool:
        """Called after every step: takes a snapshot where one is due. Returns whether the training is over.

        Args:
            steps: that were made so far.
        """
        self.began = self.began or time.time()
        at = time.time() - self.began
        if at >= self.moments[self._taken]:
            self._save(backbone, at, steps)
            while self._taken < len(self.moments) - 1 and at >= self.moments[self._taken]:
                self._taken += 1
        return at >= self.moments[-1] or steps >= self.steps

    def finish(self, backbone: Any, *, steps: int) -> None:
        """Takes the last snapshot of a training that ends before the time is over, and says that all are there."""
        at = time.time() - (self.began or time.time())
        if at < self.moments[-1]:
            self._save(backbone, at, steps)
        Path(self.out, "over").touch()

    def _save(self, backbone: Any, at: float, steps: int) -> None:
        import torch

        path = Path(self.out) / f"{at:08.1f}.pt"
        torch.save({"seconds": at, "steps": steps, "backbone": backbone.state_dict()}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)


def stop_when_over(race: Race, base: type) -> Any:
    """A callback of Lightning that takes the snapshots of `module.backbone` and ends the training when the time is over.

    Args:
        base: Lightning's Callback, of the package that the library uses.
    """

    class Snapshots(base):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any, **__: Any) -> None:
            if race.look(module.backbone, steps=trainer.global_step):
                trainer.should_stop = True

        def on_train_end(self, trainer: Any, module: Any) -> None:
            race.finish(module.backbone, steps=trainer.global_step)

    return Snapshots()
