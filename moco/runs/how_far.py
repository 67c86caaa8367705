"""How far a run is, as its lease and its metrics tell, and when all of several are over. Imports no torch."""

import heapq
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moco.io import Json
from moco.protocols import KNN
from moco.runs.lease import HEARTBEAT, Holder
from moco.runs.run import Run


class HowFar(NamedTuple):
    """How far a run is; None for what is unknown.

    Attributes:
        epoch: the last one that is complete, or the one that runs.
        loss: of the training, at last; of a linear evaluation that runs, its own.
        knn: the last kNN top-1 in percent.
        left: seconds to the end of what runs.
    """

    epoch: int | None = None
    loss: float | None = None
    knn: float | None = None
    left: float | None = None


def how_far(run: Run, holder: Holder | None, last: Mapping[str, Json] | None = None) -> HowFar:
    """How far the run is, by the newer of the last heartbeat and the last complete epoch.

    Args:
        holder: who works on it; None where nobody does.
        last: the run's last metrics, where they are known.
    """
    last = run.last_metrics() if last is None else last
    epoch, loss, knn = _number(last.get("epoch")), _number(last.get("train/loss")), _number(last.get(KNN.top1))
    told = holder.progress if holder else {}
    if holder and told and (holder.what != "train" or told.get("step", math.inf) >= (_number(last.get("step")) or 0)):
        epoch, loss = _number(told.get("epoch")) or epoch, _number(told.get("loss"))
    left = _number(told.get("left"))
    return HowFar(
        None if epoch is None else int(epoch), loss, knn, None if left is None else max(0.0, left - _age(run))
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _age(run: Run) -> float:
    """Seconds since the last heartbeat; no more than lie between two, as another machine's clock may differ."""
    try:
        return min(max(0.0, time.time() - os.stat(run.folder / "lease.json").st_mtime), HEARTBEAT)
    except OSError:
        return 0.0


def time_left(running: Sequence[float], waiting: Sequence[float], slots: int) -> float:
    """Seconds until all is over: what waits begins in its order, wherever a job ends first.

    Args:
        running, waiting: seconds that the jobs take from now on.
    """
    ends = [*running, *[0.0] * (slots - len(running))]
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)
