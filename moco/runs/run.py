"""A run on disk: its folder, state, metrics and result. The folder is the truth; imports no torch.

runs/<method>-<model>-<data>-<id>/
    config.json       the resolved configuration
    data.json         a fingerprint of the data that it is trained on
    lease.json        who trains it, or trained it last, and how far they are; rewritten as a heartbeat
    job.json          the queue's job that will work here, and its log
    metrics.jsonl     one line per epoch, flushed to disk
    checkpoint.pt     written aside, then renamed
    result.json       last of all: its presence means done
    again.knn         an order to begin again, until its job begins
    error.txt         the traceback of a failure
    provenance.json   commit, versions, hardware; git.diff beside it
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moco.errors import UserError
from moco.io import FULL, Json, Unwritable, read_mapping, write_atomic, write_json, writing
from moco.protocols import KNN
from moco.runs.clock import by_own_clock, silence
from moco.runs.identity import flatten
from moco.runs.lease import BY_HAND, Damaged, Holder, Lease, Place, Stopped, alive, born, ending, machine
from moco.runs.state import State

if TYPE_CHECKING:
    from moco.config.schema import Config

FILES = ("config.json", "lease.json", "job.json", "metrics.jsonl", "checkpoint.pt", "result.json", "error.txt")
AGAIN = {"result.json": ", and start the run again, which goes on from its checkpoint"}  # what a file's loss means


@dataclass
class JobRecord:
    """The queue's job that will work on a run, and what varies in its sweep: the content of job.json."""

    job: str
    log: str
    queue: str
    sweep: str
    submitted: float
    label: str = ""
    work: list[str] = field(default_factory=list)  # what it gives: knn, linear, linear_cached
    earlier: list[str] = field(default_factory=list)  # jobs before it that wait or run, too
    sweeps: list[str] = field(default_factory=list)  # other sweeps that count on it
    beside: list[str] = field(default_factory=list)  # folders of the other runs that share it
    shared_log: str = ""  # what the job itself says, where runs share it
    ranks: int = 1  # processes that work on it together, each on a device of its own
    machine: str = ""  # of a local job
    born: str | None = None  # when its process started

    @property
    def logs(self) -> list[str]:
        """The logs of its ranks; that of rank 0 is `log`."""
        return [self.log, *(log_of_rank(self.log, rank) for rank in range(1, self.ranks))]

    @property
    def lives(self) -> bool:
        """Whether it is a local job of this machine whose process has not ended."""
        return self.born is not None and self.machine == machine() and born(int(self.job)) == self.born


def log_of_rank(log: str, rank: int) -> str:
    """The log of a rank beside that of rank 0, as submitit names them: 12_0_log.out, 12_1_log.out."""
    return f"{log.removesuffix('_0_log.out')}_{rank}_log.out"


class Run:
    """One run's folder, whether it exists yet or not."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"  # a Path would cost more than to open a file

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def id(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def config(self) -> "Config":
        """The frozen configuration.

        Raises:
            UserError: config.json is absent, damaged or of another version.
        """
        from moco.config.check import thaw

        frozen = self._frozen()
        try:
            return thaw(frozen)
        except UserError as error:
            raise UserError(f"{self._path('config.json')} cannot be used: {error}") from error

    @property
    def flat_config(self) -> dict[str, Json]:
        """The same under dotted keys, not validated: for whoever reads many runs.

        Raises:
            UserError: config.json is absent or damaged.
        """
        return flatten(self._frozen())

    def _frozen(self) -> dict[str, Json]:
        path = self._path("config.json")
        try:
            with open(path, "rb") as file:
                frozen = json.loads(file.read())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}): is {self.folder} a run's folder?"
            ) from error
        if not isinstance(frozen, dict):
            raise UserError(f"{path} does not hold a configuration: is {self.folder} a run's folder?")
        return frozen

    def write_config(self, config: "Config") -> None:
        """Freezes the resolved configuration."""
        write_json(self.folder / "config.json", config.frozen())

    @property
    def result(self) -> dict[str, Json] | None:
        """The result, or None where the run is not done."""
        return read_mapping(self._path("result.json"))

    def write_result(self, result: Mapping[str, Json]) -> None:
        write_json(self.folder / "result.json", result)

    def metrics(self) -> list[dict[str, Json]]:
        """The lines of metrics.jsonl; what a kill cut short is left out, and an epoch that was trained twice stands once."""
        return _once([line for text in self._metrics_texts() if (line := _mapping(text))])

    def last_metrics(self) -> dict[str, Json]:
        """The newest value of each metric; reads from the end, and no further than it must."""
        found: dict[str, Json] = {}
        for text in reversed(self._metrics_texts()):
            found = _mapping(text) | found
            if "train/loss" in found and KNN.top1 in found:  # linear evaluation comes after both
                break
        return found

    def _metrics_texts(self) -> list[bytes]:
        try:
            with open(self._path("metrics.jsonl"), "rb") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def append_metrics(self, line: Mapping[str, Json]) -> None:
        path = self.folder / "metrics.jsonl"
        with writing(path), open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a full disk or a kill has cut the last line short
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_metrics(self, epoch: int) -> None:
        """Drops the lines after `epoch`, which are trained again, and those that stand twice."""
        kept = [line for line in self.metrics() if isinstance(at := line.get("epoch"), int) and at <= epoch]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        path = self.folder / "metrics.jsonl"
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomic(path, text)

    def state(self) -> State:
        """Done where there is a result; else how the last attempt stands."""
        return State.DONE if os.path.exists(self._path("result.json")) else self.unfinished()

    def unfinished(self) -> State:
        """`attempt`, for a caller that knows that something is left to do: pending where the last attempt did its part."""
        state = self.attempt()
        return State.PENDING if state == State.DONE else state

    def order(self, metric: str) -> Path:
        """The file that holds a launch's order to begin again what gives this metric: knn, linear, linear_cached.

        It names the launch, and only a job of that launch obeys it, once. Until that job begins, it costs nothing of what
        is there; an order whose job never begins means nothing to anybody else.
        """
        return self.folder / f"again.{metric.replace('/', '@')}"

    def ordered(self, metric: str, launch: str | None) -> bool:
        """Whether this launch has ordered to begin again what gives the metric, and no job has obeyed yet."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return launch is not None and self.order(metric).read_text().strip() == launch
        return False

    def attempt(self) -> State:
        """How the last attempt stands: pending (none yet), running, done, killed, or how it says that it ended.

        Raises:
            Damaged: lease.json does not hold a lease.
        """
        holder = self.holder()
        if holder and not holder.ended:
            return State.RUNNING if alive(self.folder / "lease.json", holder) else State.KILLED
        if os.path.exists(self._path("error.txt")):
            return holder.ended if holder and holder.ended == State.OUT_OF_MEMORY else State.FAILED
        return holder.ended if holder and holder.ended else State.PENDING

    def holder(self) -> Holder | None:
        """Who works on the run or did last, how far, and how it ended.

        Raises:
            Damaged: lease.json does not hold a lease.
        """
        return Holder.read(self._path("lease.json"))

    def silence(self) -> float:
        """Seconds since the lease's last heartbeat."""
        return silence(self.folder / "lease.json")

    @property
    def by_own_clock(self) -> bool:
        """Whether only this machine's clock tells if its holder, on another machine, lives."""
        return by_own_clock(self.folder / "lease.json")

    def inspect(self) -> None:
        """Looks through the folder before somebody works in it.

        Raises:
            UserError: it cannot be one, or a file in it is not what it should be or is of another version.
        """
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            raise UserError(f"{there} is not a folder: give another runs_dir")
        # What is done needs no right to write.
        needed = os.X_OK | (os.R_OK if self.result else os.W_OK)
        if not os.access(there, needed):
            with writing(self.folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if there != self.folder:
            return
        for name in FILES:
            if os.path.isdir(self._path(name)):
                raise Damaged(f"{self._path(name)} is a folder and should be a file: remove it")
        for name in ("result.json", "lease.json", "job.json"):
            if os.path.exists(self._path(name)) and read_mapping(self._path(name)) is None:
                raise Damaged(f"{self._path(name)} is damaged: remove it{AGAIN.get(name, '')}")
        result = self.result
        if result is not None and not isinstance(result.get(KNN.top1, ""), int | float | None):
            raise Damaged(f"{self._path('result.json')} lacks {KNN.top1}: remove it{AGAIN['result.json']}")
        if os.path.exists(self._path("config.json")):
            self.config  # noqa: B018 - raises where it cannot be used
        self.holder(), self.job()

    def fail(self, error: BaseException) -> None:
        """Keeps the error's traceback in error.txt; of what the user can mend, its lines alone."""
        lines = [str(error)] if isinstance(error, UserError) else traceback.format_exception(error)
        with contextlib.suppress(Unwritable):  # a full disk must not hide the error itself
            write_atomic(self.folder / "error.txt", "".join(lines).rstrip() + "\n")

    def failure(self) -> str:
        """What `fail` kept; empty where the last attempt did not fail."""
        with contextlib.suppress(OSError):
            return (self.folder / "error.txt").read_text(errors="replace")
        return ""

    def note_job(
        self,
        job: str,
        log: Path | str,
        queue: str,
        sweep: str,
        label: str = "",
        work: Sequence[str] = (),
        earlier: Sequence[str] = (),
        beside: Sequence[str] = (),
        shared_log: Path | str = "",
        ranks: int = 1,
    ) -> None:
        """Keeps which job of which queue (local, slurm) will work here, where its log is, and what varies in its sweep."""
        before = self.job()
        label = label or (before.label if before else "")
        now = time.time()
        record = JobRecord(
            job, str(log), queue, sweep, now, label, [*work], [*earlier], [], [*beside], str(shared_log), ranks
        )
        if queue == "local" and job.isdecimal():  # a process's id
            record.machine, record.born = machine(), born(int(job))
        write_json(self.folder / "job.json", dataclasses.asdict(record))

    def count_on(self, sweep: str) -> None:
        """Keeps that another sweep, too, counts on the job, which is not to be cancelled for one of them alone."""
        job = self.job()
        if job and sweep != job.sweep and sweep not in job.sweeps:
            write_json(
                self.folder / "job.json", dataclasses.asdict(dataclasses.replace(job, sweeps=[*job.sweeps, sweep]))
            )

    def let_go(self, sweeps: Collection[str]) -> list[str]:
        """Takes sweeps that were cancelled from those that count on the job; returns the others."""
        job = self.job()
        left = [sweep for sweep in (job.sweep, *job.sweeps) if sweep not in sweeps] if job else []
        if job and left:
            write_json(
                self.folder / "job.json",
                dataclasses.asdict(dataclasses.replace(job, sweep=left[0], sweeps=left[1:])),
            )
        return left

    def job(self) -> JobRecord | None:
        """What note_job kept.

        Raises:
            Damaged: job.json holds something else.
        """
        path = self._path("job.json")
        content = read_mapping(path)
        try:
            return None if content is None else JobRecord(**content)  # type: ignore[arg-type]
        except TypeError as error:
            raise Damaged(f"{path} is damaged: remove it") from error

    @property
    def begun_by_hand(self) -> bool:
        """Whether the last attempt was begun by hand, after the one of a job."""
        job, holder = self.job(), None
        with contextlib.suppress(Damaged):
            holder = self.holder()
        return bool(job and holder and holder.place.job is None and holder.started > job.submitted)

    def log_tail(self, n: int, shared: bool = False) -> list[str]:
        """The last n lines of its job's log, else of its error, else of what the job that it shares says.

        Args:
            shared: of what the job says alone; none where it does not share one.
        """
        job = self.job()
        log, of_job = (job.log, job.shared_log) if job else ("", "")
        error = self._path("error.txt")
        own = [error, log] if log and self.begun_by_hand else [log, error]
        logs = [of_job] if shared else [*own, of_job]
        return next(filter(None, (_tail(path, n) for path in logs)), [])

    def rank_tails(self, n: int) -> dict[int, list[str]]:
        """The last n lines of the logs of its job's other ranks, by rank; as long as all is well, they say nothing."""
        job, tails = self.job(), dict[int, list[str]]()
        for rank, log in enumerate(job.logs if job else []):
            tail = [line for line in _tail(log, n) if not line.startswith("submitit INFO")]
            if rank and tail:
                tails[rank] = tail
        return tails

    def warnings(self) -> list[str]:
        """What its job's log warns of, in the log's last megabyte; each line once."""
        job = self.job()
        with contextlib.suppress(OSError), open(job.log if job else "", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1_000_000))
            lines = file.read().decode(errors="replace").splitlines()
            return list(dict.fromkeys(line for line in lines if line.startswith("warning: ")))
        return []

    def clear(self, *kept: str) -> None:
        """Removes what earlier attempts left; the lease, the configuration and the files of these names stay."""
        orders = sorted(self.folder.glob("again.*"))  # last, so that a clearing cut short is done again
        for path in [*(path for path in self.folder.iterdir() if path not in orders), *orders]:
            if not path.name.startswith(("lease", "config.json")) and path.name not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lease(
        self,
        what: str = "",
        device: str = "",
        place: Place = BY_HAND,
        stop: Callable[[], str | None] = lambda: None,
    ) -> Iterator[Lease]:
        """Holds the run for this process, and keeps on record how it ended.

        Args:
            stop: the signal that has asked to stop, if any; looked at while an earlier attempt of this job is waited for.

        Raises:
            Held: another living process holds it.
            Lost: another process took it over; nothing more is written.
            UserError: the folder cannot be written, or the disk is full.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lease = Lease(self.folder / "lease.json", what, device, place, stop)
        try:
            with writing(self.folder, FULL):
                yield lease
        except BaseException as error:
            lease.end(ending(error), str(error))
            if not lease.lost and not isinstance(error, Stopped | KeyboardInterrupt):
                self.fail(error)
            raise
        lease.end(State.DONE, "")
        if not lease.lost:  # what went wrong before is over
            with contextlib.suppress(OSError):
                (self.folder / "error.txt").unlink(missing_ok=True)


def _once(lines: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """The lines; of those of one epoch's training the last, which the process wrote that holds the run."""
    found: dict[object, dict[str, Json]] = {}
    for i, line in enumerate(lines):
        found[("epoch", line.get("epoch")) if "train/loss" in line else i] = line
    return list(found.values())


def _tail(path: str, n: int) -> list[str]:
    """The last n lines of a file, none where there is none."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 400 * n))
        return file.read().decode(errors="replace").splitlines()[-n:]
    return []


def _mapping(text: bytes) -> dict[str, Json]:
    """A line of JSON that holds a mapping; an empty one for anything else."""
    with contextlib.suppress(ValueError):
        line = json.loads(text)
        return line if isinstance(line, dict) else {}
    return {}
