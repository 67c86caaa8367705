"""Where each run stands, read off the disk and off SLURM's queue where there is one."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moco.analysis.numbers import is_number
from moco.analysis.records import Entry, placed, read, states
from moco.launch import slurm_client as slurm
from moco.protocols import LINEAR_PROTOCOLS
from moco.runs.how_far import how_far
from moco.runs.lease import Holder
from moco.runs.run import JobRecord, Run
from moco.runs.settings import describe
from moco.runs.state import State
from moco.runs.sweep import Sweep


@dataclass(frozen=True)
class Standing:
    """Where one run stands; None and "" for what is unknown.

    Attributes:
        settings: those in which the runs differ; of a damaged folder what is wrong with it.
        epoch: the last one that is complete, or the one that runs.
        loss: of the training, at last.
        knn, linear: top-1 in percent.
        left: seconds to the end of the training.
        where: the machine with its device, or why the queue lets the run wait, or why it is paused.
        job: its id in the queue.
        trouble: how the last linear evaluation of a finished run ended, if not well.
        by_own_clock: whether only this machine's clock tells if it runs, elsewhere.
        trained: so many epochs are complete.
        undecided: whether it is paused, and its sweep's launcher or SLURM's job may yet let it go on by itself.
    """

    id: str
    state: State
    settings: str
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    knn: float | None = None
    linear: float | None = None
    left: float | None = None
    where: str = ""
    job: str = ""
    trouble: str = ""
    by_own_clock: bool = False
    trained: int = 0
    undecided: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself, as far as can be told from here."""
        return self.state.is_finished and not self.by_own_clock and not self.undecided


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Where these runs stand, in their order."""
    entries = [read(run) for run in runs]
    varied = iter(describe([entry.flat for entry in entries if not entry.problem]))
    queue = slurm.queued(runs)
    found = []

    @functools.cache  # for all paused runs of a sweep
    def decides(runs_dir: Path, sweep: str) -> bool:
        return _decides(Sweep(runs_dir, sweep), queue)

    for entry, state in zip(entries, states(runs, queue)):
        settings = entry.problem or next(varied) or entry.run.folder.name
        damaged = entry.problem or state == State.DAMAGED
        lost = State.DAMAGED if entry.run.folder.exists() else State.MISSING
        unknown = Standing(entry.run.id, lost, settings)
        found.append(unknown if damaged else _standing(placed(entry, state), state, settings, queue, decides))
    return found


def _decides(sweep: Sweep, queue: Collection[str]) -> bool:
    """Whether somebody is at work who may let paused runs of the sweep go on: a launcher here, or SLURM's job for it."""
    if sweep.launchers():
        return True
    if not queue:
        return False
    from moco.launch import promotion  # which takes its time to load

    return any(job in queue for job in promotion.noted(sweep))


def _standing(
    entry: Entry,
    state: State,
    settings: str,
    queue: "Mapping[str, slurm.QueueEntry]",
    decides: Callable[[Path, str], bool],
) -> Standing:
    run = entry.run
    holder, job, last = run.holder(), run.job(), run.last_metrics()
    if _starts(run, state, holder, job):
        state = State.STARTING
    running = state == State.RUNNING
    far = how_far(run, holder if running else None, last)
    if running and holder and holder.what == "linear_eval":  # its epochs are not the training's
        far = far._replace(epoch=_whole(last.get("epoch")), loss=_number(last.get("train/loss")))
    waiting = queue.get(job.job) if job and not slurm.is_over(run) else None
    return Standing(
        id=run.id,
        state=state,
        settings=settings,
        epoch=far.epoch,
        epochs=_whole(entry.flat.get("epochs")),
        loss=far.loss,
        knn=far.knn,
        linear=_number(next((last[p.top1] for p in LINEAR_PROTOCOLS.values() if p.top1 in last), None)),
        left=far.left,
        where=_where(holder, waiting) if holder and running else _why(entry, waiting),
        job=job.job if job else "",
        trouble=_trouble(run) if state == State.DONE and holder and holder.what == "linear_eval" else "",
        by_own_clock=state in (State.RUNNING, State.KILLED) and run.by_own_clock,
        trained=_whole(last.get("epoch")) or 0,
        undecided=bool(entry.rung and holder and (sweep := holder.place.sweep) and decides(run.folder.parent, sweep)),
    )


def _starts(run: Run, state: State, holder: Holder | None, job: JobRecord | None) -> bool:
    """Whether a job is at work for the run that does not hold it yet: it loads torch and the data."""
    if state == State.RUNNING:  # by SLURM's word
        return run.attempt() != State.RUNNING
    if state == State.DONE or job is None or not job.lives or run.failure():
        return False
    return holder is None or holder.started < job.submitted


def _trouble(run: Run) -> str:
    """How the last attempt ended, if not well."""
    attempt = run.attempt()
    return "" if attempt in (State.DONE, State.RUNNING) else attempt


def _where(holder: Holder, waiting: "slurm.QueueEntry | None") -> str:
    """The node with the device or slot."""
    node = waiting.node if waiting and waiting.node else holder.host
    place = holder.place
    device = f"gpu {place.visible}" if place.visible else place.slot or holder.device
    return f"{node}:{device}" if device else node


def _why(entry: Entry, waiting: "slurm.QueueEntry | None") -> str:
    """Why the run is paused, or why the queue lets it wait."""
    return entry.rung.why if entry.rung else waiting.reason if waiting else ""


def _number(value: object) -> float | None:
    return value if is_number(value) else None


def _whole(value: object) -> int | None:
    return int(value) if is_number(value) else None
