"""Where tasks run: device slots of this machine, or SLURM's job arrays, both through submitit."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from moco.errors import UserError
from moco.launch import slurm_client as slurm
from moco.launch.job import Task
from moco.runs.lease import born
from moco.runs.sweep import Sweep
from moco.training.progress import duration

ROOT = Path(__file__).parents[2]
POLL = 0.03  # seconds between looks at local jobs
POLL_SLURM = 1.0, 10.0  # between looks at SLURM, at first and in the long run: its controller serves many
CPU_JOBS = 8  # at most so many share the cores: each holds torch and its data in memory
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def make(options: Mapping[str, Any], sweep: Sweep) -> "LocalQueue | SlurmQueue":
    """The queue that the launcher's options describe."""
    return SlurmQueue(options, sweep) if options["kind"] == "slurm" else LocalQueue(options, sweep)


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """os.environ with changes, for the children started meanwhile.

    They do not import from their working directory, which may be a checkout that has been edited since.
    """
    before = dict(os.environ)
    os.environ.update(changes, PYTHONSAFEPATH="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def python_path(options: Mapping[str, Any], sweep: Sweep) -> str:
    """PYTHONPATH of the jobs: this checkout, or a frozen copy of its tracked files where snapshot=true."""
    code = ROOT
    if options["snapshot"]:
        from moco.runs.provenance import snapshot

        code = snapshot(sweep.folder)
    return os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them (0, GPU-5a..., MIG-...), without loading torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = (name.strip() for name in listed.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))  # -1 hides what follows
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    return [str(i) for i in range(sum(line.startswith("GPU") for line in found.stdout.splitlines()))]


def chosen_gpus(devices: Any) -> list[str]:
    """Those that hydra.launcher.devices names; none for cpu.

    Raises:
        UserError: it is neither auto, cpu nor a list.
    """
    if devices == "auto":
        return visible_gpus()
    if devices != "cpu" and not (isinstance(devices, list) and devices):
        raise UserError(f"hydra.launcher.devices={devices} should be auto, cpu or a list of GPUs such as [0,1]")
    return [] if devices == "cpu" else [str(device) for device in devices]


class LocalQueue:
    """Never more jobs than slots; each job sees its slot's device and its share of the threads.

    A closed terminal does not end the sweep. Ctrl-C and SIGTERM stop the jobs, which save their checkpoints first; a job
    whose launcher is killed notices, saves and stops.
    """

    def __init__(self, options: Mapping[str, Any], sweep: Sweep):
        self.options, self.sweep = options, sweep
        for name in ("jobs_per_device", "cpus_per_task"):
            if options[name] is not None and not (isinstance(options[name], int) and options[name] >= 1):
                raise UserError(f"hydra.launcher.{name}={options[name]} should be a whole number of at least 1")
        gpus, cores = chosen_gpus(options["devices"]), len(os.sched_getaffinity(0))
        jobs = options["jobs_per_device"] or (1 if gpus else min(cores, CPU_JOBS))
        self.threads = options["cpus_per_task"] or max(1, cores // (jobs * max(1, len(gpus))))
        places: list[str | None] = [*gpus] or [None]
        self.slots = [(gpu, f"{gpu or 'cpu'}.{i}") for i in range(jobs) for gpu in places]
        self.stopped: str | None = None

    def run(self, start: Sequence[Task], waiting: Sequence[Task]) -> dict[Path, str]:
        """Runs the tasks to their ends and waits for those that run elsewhere."""
        self.pending, self.waiting, self.free = deque(start), list(waiting), deque(self.slots)
        self.running: list[tuple[Task, tuple[str | None, str], Any, float]] = []
        self.ends: dict[Path, str] = {}
        self.total, self.failures, self.look = len(start) + len(waiting), 0, 0.0
        self.path = python_path(self.options, self.sweep) if start else ""
        with self._signals():
            while self.running or ((self.pending or self.waiting) and not self.stopped):
                while self.pending and self.free and not self.stopped:
                    task, slot = self.pending.popleft(), self.free.popleft()
                    self.running.append((task, slot, self._submit(task, slot), time.time()))
                self._collect()
                self._await()
                if self.stopped:
                    self._stop()
                time.sleep(POLL)
        return self.ends | {task.run.folder: "pending" for task in [*self.pending, *self.waiting]}

    def _collect(self) -> None:
        """Frees the slots of jobs that have ended and tells how."""
        for entry in [entry for entry in self.running if entry[2].done()]:
            task, slot, _, started = entry
            self.running.remove(entry)
            self.free.append(slot)
            state = task.state()
            if state == "running":  # another launcher was first
                self.waiting.append(task)
                continue
            self.ends[task.run.folder] = state
            self.failures += state not in ("done", "stopped")
            self._tell(task, state, time.time() - started)
        limit = self.options["fail_fast"]
        if limit and self.failures >= limit and not self.stopped:
            print(f"fail_fast={limit}: the rest is left alone", file=sys.stderr)
            self.stopped = "fail_fast"

    def _await(self) -> None:
        """Looks after the tasks that run elsewhere: one whose holder is gone without having finished becomes ours."""
        if not self.waiting or time.monotonic() < self.look:
            return
        self.look = time.monotonic() + POLL_SLURM[0]
        try:
            queue = slurm.queued(task.run for task in self.waiting)
        except UserError as error:  # as in _follow
            print(error, file=sys.stderr)
            return
        for task in list(self.waiting):
            state = task.state()
            if state == "running" or slurm.queued_job(task.run, queue):
                continue
            self.waiting.remove(task)
            if state in ("done", "failed"):
                self.ends[task.run.folder] = state
            else:
                self.pending.append(task)

    def _submit(self, task: Task, slot: tuple[str | None, str]) -> Any:
        """Starts a job on the slot's device."""
        import submitit

        folder = self.sweep.folder / "jobs"
        executor = submitit.LocalExecutor(folder)
        minutes = self.options["timeout_min"] or 60 * 24 * 365
        executor.update_parameters(
            timeout_min=minutes,
            signal_delay_s=self.options["signal_delay_s"],
            stderr_to_stdout=True,
            setup=self.options["setup"] or (),
        )
        wait = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve whatever shares the machine
        job = task.job(self.sweep.name, launcher=(os.getpid(), born(os.getpid())), slot=slot[1], gpu=slot[0])
        # Ctrl-C reaches the whole terminal: the job's controller must not take it for an order to kill.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with environment(PYTHONPATH=self.path, OMP_NUM_THREADS=str(self.threads), OMP_WAIT_POLICY=wait):
                submitted = executor.submit(job)
        finally:
            signal.signal(signal.SIGINT, before)
        task.run.note_job(submitted.job_id, submitted.paths.stdout, "local", self.sweep.name, task.varies)
        return submitted

    def _tell(self, task: Task, state: str, seconds: float) -> None:
        value = task.value()
        score = f"  {value:.2f}" if value is not None else ""
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"[{len(self.ends)}/{self.total}] {state}  {task.label}{score}  ({duration(seconds)})", flush=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Notes an order to stop, and lets a closed terminal be."""

        def note(number: int, frame: object) -> None:
            self.stopped = signal.Signals(number).name

        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        """Asks each job to save and stop, every second until it is heard: one that still loads torch does not listen yet."""
        for _, _, job, _ in self.running:
            if time.monotonic() - getattr(job, "told", -1.0) >= 1:
                job.told = time.monotonic()
                job._process.send_signal(signal.SIGTERM)


class SlurmQueue:
    """Job arrays; detached by default, since all that a sweep needs is on disk and in SLURM."""

    def __init__(self, options: Mapping[str, Any], sweep: Sweep):
        self.options, self.sweep = options, sweep
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise UserError(
                    f"{program} is not on PATH: start from a login node of the cluster, or use hydra/launcher=local"
                )
        if (options["nodes"], options["tasks_per_node"]) != (1, 1):
            raise UserError("hydra.launcher.nodes and tasks_per_node are 1 for each point: a run is one process")
        if options["fail_fast"] and not options["wait"]:
            raise UserError(
                "hydra.launcher.fail_fast on SLURM takes a launcher that stays: add hydra.launcher.wait=true"
            )

    def run(self, start: Sequence[Task], waiting: Sequence[Task]) -> dict[Path, str]:
        """Submits the tasks; follows them to their ends where wait=true."""
        for task in start:
            if task.run.attempt() == "running":  # the plan found its job gone
                task.run.release()
        if start:
            self._submit(start)
        if self.options["wait"]:
            return self._follow([*start, *waiting])
        if start or waiting:
            print(f"follow it with: python -m moco status {self.sweep.name} --watch --runs-dir {self.sweep.runs_dir}")
        return {t.run.folder: "submitted" for t in start} | {t.run.folder: "running elsewhere" for t in waiting}

    def _follow(self, tasks: list[Task]) -> dict[Path, str]:
        """Waits for the ends of the tasks and tells each."""
        failures, ends, limit = 0, dict[Path, str](), self.options["fail_fast"]
        pause, longest = POLL_SLURM
        while tasks:
            time.sleep(pause)
            pause = min(1.1 * pause, longest)
            try:
                queue = slurm.slurm_jobs()
            except UserError as error:  # the controller restarts now and then; the jobs go on
                print(error, file=sys.stderr)
                continue
            for task in list(tasks):
                state = slurm.corrected(task.run, task.state(), queue)
                if state in ("running", "queued") or slurm.queued_job(task.run, queue):
                    continue
                tasks.remove(task)
                ends[task.run.folder] = state = slurm.explain(task.run, state)
                failures += state not in ("done", "stopped")
                print(f"{state}  {task.label}", flush=True)
            if limit and failures >= limit and tasks:
                print(f"fail_fast={limit}: the rest is cancelled", file=sys.stderr)
                slurm.cancel_jobs([job for task in tasks if (job := slurm.queued_job(task.run, queue))])
                limit = 0
        return ends

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Submits arrays of at most MaxArraySize; where SLURM refuses one, those before it are cancelled."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = submitit.SlurmExecutor(self.sweep.folder / "jobs", max_num_timeout=1000)
        executor.update_parameters(**self._parameters(len(tasks)))
        size, submitted = slurm.max_array_size(), []
        path = python_path(self.options, self.sweep)
        try:
            # submitit prints what sbatch says, which the message below says once.
            with environment(PYTHONPATH=path), contextlib.redirect_stderr(io.StringIO()):
                slurm.forget_job()
                for i in range(0, len(tasks), size):
                    with executor.batch():
                        part = [(task, executor.submit(task.job(self.sweep.name))) for task in tasks[i : i + size]]
                    for task, job in part:
                        submitted.append(job.job_id)
                        task.run.note_job(job.job_id, job.paths.stdout, "slurm", self.sweep.name, task.varies)
        except BaseException as error:  # Ctrl-C too: no half of a sweep stays in the queue
            slurm.cancel_jobs(submitted)
            if not isinstance(error, FailedJobError | FailedSubmissionError):
                raise
            undone = f"; the {len(submitted)} jobs before it were cancelled" if submitted else ""
            raise UserError(f"sbatch refused: {slurm.refusal(str(error))}{undone}") from error

    def _parameters(self, n: int) -> dict[str, Any]:
        """sbatch's parameters, under submitit's names."""
        names = {"timeout_min": "time", "tasks_per_node": "ntasks_per_node", "name": "job_name"}
        own = {"kind", "sweep", "dry_run", "fail_fast", "snapshot", "wait", "mem_gb", "array_parallelism"}
        values = {names.get(k, k): v for k, v in self.options.items() if k not in own and v is not None}
        if self.options["mem_gb"]:
            values["mem"] = f"{int(self.options['mem_gb'] * 1024)}MB"
        if cpus := self.options["cpus_per_task"]:  # since SLURM 22.05 srun does not take it over from sbatch
            values["srun_args"] = [f"--cpus-per-task={cpus}", *(self.options["srun_args"] or [])]
        arrays = -(-n // slurm.max_array_size())
        values["array_parallelism"] = max(1, self.options["array_parallelism"] // arrays)
        values["additional_parameters"] = {"requeue": True, **(self.options["additional_parameters"] or {})}
        return values | {"stderr_to_stdout": True}
