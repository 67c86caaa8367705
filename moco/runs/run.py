"""A run on disk: identity, folder, claim, state, metrics and result. The folder is the truth; imports no torch.

runs/<method>-<model>-<data>-<id>/
    config.yaml       the resolved configuration
    claim.json        who trains it, or trained it last, and how far they are; rewritten as a heartbeat
    metrics.jsonl     a line an epoch, flushed to disk
    checkpoint.pt     written aside, then renamed
    result.json       last of all: its presence means done
    again.knn         an order to begin again, until its job begins
    error.txt         the traceback of a failure
    provenance.json   commit, versions, hardware; git.diff beside it
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from moco.errors import UserError
from moco.io import locked, read_json, write_atomic, write_json
from moco.runs.lease import Claim, Stopped, alive, ending

# What cannot change the result: paths, devices, logging, and what is measured after the training itself.
NOT_IDENTITY = {
    "runs_dir",
    "rerun",
    "device",
    "compile",
    "eval_every",
    "checkpoint_minutes",
    "linear_eval",
    "probe",
    "tracker",
    "recipe",
}

LABELS = {"augmented": "linear", "cached": "linear_cached"}  # protocol of linear evaluation -> prefix of its metrics
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
SECTIONS = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)
DECIMAL = re.compile(r"([A-Za-z_]\w*): (-?\d+\.\d+)\n")  # what searches vary; yaml would take ten times longer


def identity(config: Mapping[str, Any]) -> str:
    """The run's id: a hash of the checked configuration less what cannot change the result.

    Ten letters, a to p for the sixteen digits, so that no command line takes an id for a number.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    kept["data"] = {key: value for key, value in kept["data"].items() if key != "root"}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:10]
    return digest.translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))


def folder_name(config: Mapping[str, Any]) -> str:
    """<method>-<model>-<data>-<id>, safe in a path and on Hydra's command line."""
    parts = [str(config[group]["name"]) for group in ("method", "model", "data")]
    return "-".join([*(re.sub(r"[^A-Za-z0-9_.]+", "_", part) for part in parts), identity(config)])


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
    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            UserError: config.yaml is absent or damaged.
        """
        return self._configuration(lambda text: yaml.load(text, LOADER))

    @property
    def flat_config(self) -> dict[str, Any]:
        """The same under dotted keys, for who reads many runs: what files share is parsed once, and its values are shared.

        Raises:
            UserError: as config.
        """
        return self._configuration(_flat)

    def _configuration(self, parse: Callable[[str], Any]) -> dict[str, Any]:
        path = self._path("config.yaml")
        try:
            with open(path) as file:
                config = parse(file.read())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}): is {self.folder} a run's folder?"
            ) from error
        if not isinstance(config, dict):
            raise UserError(f"{path} holds no configuration: is {self.folder} a run's folder?")
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Freezes the resolved configuration; rerun is an order, not a part of it."""
        write_atomic(self.folder / "config.yaml", yaml.dump({**config, "rerun": False}, Dumper=DUMPER, sort_keys=False))

    @property
    def result(self) -> dict[str, Any] | None:
        """The result, or None where the run is not done."""
        return read_json(self._path("result.json"))

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_json(self.folder / "result.json", result)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        return [line for text in self._metrics_texts() if (line := _mapping(text))]

    def last_metrics(self) -> dict[str, Any]:
        """The newest value of each metric; reads from the end, and no further than it must."""
        found: dict[str, Any] = {}
        for text in reversed(self._metrics_texts()):
            found = _mapping(text) | found
            if "train/loss" in found and "knn/top1" in found:  # linear evaluation comes after both
                break
        return found

    def _metrics_texts(self) -> list[bytes]:
        try:
            with open(self._path("metrics.jsonl"), "rb") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind_metrics(self, epoch: int) -> None:
        """Drops the lines after `epoch`: what was trained since the checkpoint is trained again."""
        kept = [line for line in self.metrics() if line["epoch"] <= epoch]
        write_atomic(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def state(self) -> str:
        """done where there is a result, and no order to train again; else how the last attempt stands."""
        done = os.path.exists(self._path("result.json")) and not self.order("knn").exists()
        return "done" if done else self.unfinished()

    def unfinished(self) -> str:
        """`attempt`, for who knows that something is left to do: pending where the last attempt did its part."""
        state = self.attempt()
        return "pending" if state == "done" else state

    def order(self, metric: str) -> Path:
        """The file that stands for a launcher's order to begin again what gives this metric: knn, linear, linear_cached.

        Until its job begins, the order costs nothing of what is there, and whoever takes the job up obeys it once.
        """
        return self.folder / f"again.{metric}"

    def attempt(self) -> str:
        """How the last attempt stands.

        pending, running, done, failed, out of memory, stopped (by a signal, with a checkpoint), timed out (likewise), or
        killed (without a word).
        """
        holder = self.holder()
        if holder and not holder.get("ended"):
            return "running" if alive(self.folder / "claim.json", holder) else "killed"
        if (self.folder / "error.txt").exists():
            return holder["ended"] if holder and holder["ended"] in ("failed", "out of memory") else "failed"
        return holder["ended"] if holder else "pending"

    def holder(self) -> dict[str, Any] | None:
        """The claim: who works on the run or did last, how far, and how it ended."""
        holder = read_json(self._path("claim.json"))
        return holder if isinstance(holder, dict) else None

    def silence(self) -> float:
        """Seconds since the claim's last heartbeat."""
        try:
            return time.time() - (self.folder / "claim.json").stat().st_mtime
        except OSError:
            return float("inf")

    def release(self) -> None:
        """Ends the claim of a holder that the caller knows to be gone before its heartbeat is stale."""
        with locked(self.folder / "claim.lock"):
            write_json(self.folder / "claim.json", {**(self.holder() or {}), "token": "", "ended": "killed"})

    def fail(self, error: BaseException) -> None:
        """Keeps the error's traceback in error.txt; of what the user can mend, its lines alone."""
        lines = [str(error)] if isinstance(error, UserError) else traceback.format_exception(error)
        with contextlib.suppress(OSError):  # a full disk must not hide the error itself
            write_atomic(self.folder / "error.txt", "".join(lines).rstrip() + "\n")

    def note_job(self, job: str, log: Path | str, queue: str, sweep: str, label: str = "") -> None:
        """Keeps which job of which queue (local, slurm) will work here, where its log is, and what varies in its sweep."""
        content = {"job": job, "log": str(log), "queue": queue, "sweep": sweep, "submitted": time.time()}
        content["label"] = label or (self.job() or {}).get("label", "")
        write_json(self.folder / "job.json", content)

    def job(self) -> dict[str, Any] | None:
        """What note_job kept."""
        job = read_json(self._path("job.json"))
        return job if isinstance(job, dict) else None

    def log_tail(self, n: int) -> list[str]:
        """The last n lines of its job's log, else of its error."""
        for path in (Path((self.job() or {}).get("log", "")), self.folder / "error.txt"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 400 * n))
                return file.read().decode(errors="replace").splitlines()[-n:]
        return []

    def clear(self, *kept: str) -> None:
        """Removes what earlier attempts left; the claim, the configuration and the files of these names stay."""
        orders = sorted(self.folder.glob("again.*"))  # last, so that a clearing cut short is done again
        for path in [*(path for path in self.folder.iterdir() if path not in orders), *orders]:
            if not path.name.startswith(("claim", "config.yaml")) and path.name not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    @contextlib.contextmanager
    def claim(self, **details: Any) -> Iterator[Claim]:
        """Holds the run for this process, and keeps on record how it ended.

        Raises:
            Held: another living process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        claim = Claim(self.folder / "claim.json", details)
        try:
            yield claim
        except BaseException as error:
            claim.end(ending(error), str(error))
            if not isinstance(error, Stopped | KeyboardInterrupt):
                self.fail(error)
            raise
        claim.end("done", "")


def _mapping(text: bytes) -> dict[str, Any]:
    """A line of JSON that holds a mapping; an empty one for anything else."""
    with contextlib.suppress(ValueError):
        line = json.loads(text)
        return line if isinstance(line, dict) else {}
    return {}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _flat(text: str) -> Any:
    """yaml.safe_load, flattened, with a memory for sections and the keys in them: configurations share nearly all.

    Whatever cannot be read section by section (anchors across sections, several documents, no mapping) is read whole.
    """
    head, *sections = SECTIONS.split(text)
    if sections and not head.strip():
        with contextlib.suppress(yaml.YAMLError, ValueError):
            flat: dict[str, Any] = {}
            for section in sections:
                flat |= _section(section)
            return flat
    whole = yaml.load(text, LOADER)
    return flatten(whole) if isinstance(whole, dict) else whole


@functools.lru_cache(maxsize=100_000)
def _section(text: str) -> dict[str, Any]:
    if number := DECIMAL.fullmatch(text):
        return {number[1]: float(number[2])}
    head, _, body = text.partition("\n")
    if re.fullmatch(r"[A-Za-z_]\w*:", head) and re.fullmatch(r"(  .*\n)+", body):
        inner = _flat(re.sub("^  ", "", body, flags=re.MULTILINE))
        return flatten({head[:-1]: inner})
    section = yaml.load(text, LOADER)
    if not isinstance(section, dict):
        raise ValueError("no mapping")
    return flatten(section)


def all_runs(runs_dir: Path | str) -> list[Run]:
    """The runs under runs_dir, by name; folders without a configuration are none."""
    return [Run(Path(runs_dir) / name) for name, is_run in _folders(runs_dir) if is_run]


def other_folders(runs_dir: Path | str) -> list[str]:
    """The names of folders under runs_dir that hold no run, that of the sweeps apart."""
    return [name for name, is_run in _folders(runs_dir) if not is_run and name != "sweeps"]


def _folders(runs_dir: Path | str) -> list[tuple[str, bool]]:
    """The folders under runs_dir by name, and whether they hold a configuration."""
    with contextlib.suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(runs_dir) if entry.is_dir())
        return [(name, os.path.exists(f"{runs_dir}/{name}/config.yaml")) for name in names]
    return []


def find(runs_dir: Path | str, name: str) -> Run:
    """The run of that id, beginning of an id, folder name or path.

    Raises:
        UserError: none or several; names what there is.
    """
    for folder in (Path(name), Path(runs_dir) / name):
        if (folder / "config.yaml").is_file():
            return Run(folder)
    runs = all_runs(runs_dir)
    matches = [run for run in runs if run.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    listed = ", ".join(run.folder.name for run in (matches or runs)[:8]) or "none yet"
    problem = f"{len(matches)} runs begin with {name}" if matches else f"there is no run {name} in {runs_dir}"
    raise UserError(f"{problem}: give the id or folder of one ({listed})")
