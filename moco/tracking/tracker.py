"""What a training tells of its metrics, and to whom: the tracker that keeps nothing, and the choice among trackers."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from moco.io import Json
from moco.runs.lease import Paused

if TYPE_CHECKING:
    from moco.config.schema import Config, Tracking
    from moco.runs.lease import Place
    from moco.runs.run import Run


class Tracker:
    """Takes everything and keeps nothing. As a context, finishes with exit code 1 where an error leaves it, else 0."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(int(kind is not None and not issubclass(kind, Paused)))

    def catch_up(self, lines: Sequence[Mapping[str, Json]]) -> None:
        """Takes the lines of metrics.jsonl that stand from earlier attempts; before the first log."""

    def log(self, step: int, metrics: Mapping[str, Json]) -> None:
        """Takes the metrics of a step."""

    def finish(self, exit_code: int = 0) -> None:
        """Ends the attempt."""


def open_tracker(asked: "Tracking", run: "Run", config: "Config", job_type: str, place: "Place") -> Tracker:
    """The tracker that the configuration and the environment name; job_type is train or linear_eval.

    Raises:
        UserError: W&B would refuse a variable of the environment.
    """
    from moco.tracking.environment import effective

    asked = effective(asked)
    if asked.name == "none":
        return Tracker()
    from moco.tracking.wandb_mirror import WandbMirror

    return WandbMirror(asked, run, config, job_type, place)
