"""The processes that work on one run, where torchrun, SLURM or a launcher of ours has started several.

They join for the time of a training or an evaluation, decide together, and none outlives another. Loads torch only where
there are several.
"""

import contextlib
import datetime
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

from moco.errors import UserError
from moco.io import Json
from moco.runs.lease import Stopped

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

PATIENCE = datetime.timedelta(minutes=10)  # for all ranks to come
SHOWN = 5.0  # seconds after which one sees that the others are waited for
GO_ON = "the same command goes on from the last checkpoint"


def several() -> bool:
    """Whether this process is one of several."""
    return _number("WORLD_SIZE", 1) > 1


def first() -> bool:
    """Whether this process is rank 0, which claims the run, writes and speaks."""
    return not several() or _number("RANK", 0) == 0


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else otherwise


class Gone(UserError):
    """Another rank has ended before all were through."""


class Bystander:
    """What the other ranks have in place of the run's lease."""

    def check(self) -> None: ...
    def progress(self, **numbers: Json) -> None: ...


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """All processes of the run as ranks of one group; nothing where there is one, or where they have joined already.

    Raises:
        UserError: the others do not come, or one is gone.
    """
    if not several() or _is_joined():
        yield
        return
    import torch.distributed as dist

    from moco.training.watch import Watch

    store = _join(device)
    alive, _words.store = Watch(store, _end), store
    try:
        with _silent():
            yield
            dist.barrier()  # all are at their ends
            alive.stop()
    except BaseException as error:
        alive.stop()
        if (ending := _ending(error)) is error:
            raise
        raise ending from error
    dist.destroy_process_group()


def _end(who: str) -> None:
    """Ends this process, which may wait in a collective for ever for somebody who is gone."""
    if first():
        os.write(2, f"error: {who} is gone, so all stop: {GO_ON}\n".encode())
    os._exit(1)


def _is_joined() -> bool:
    import torch.distributed as dist

    return dist.is_initialized()


_joinings = itertools.count()  # in this process, as many as in the other ranks


def _join(device: str) -> "Store":
    """Makes the group: gloo for what is on the CPU, NCCL for what is on GPUs."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore, Store
    from torch.distributed.rendezvous import rendezvous

    from moco.ranks import NO_END
    from moco.training.device import choose_device

    chosen = choose_device(device)
    if chosen.type == "mps":
        raise UserError(
            f"device={device} is one device here (mps), and {os.environ['WORLD_SIZE']} processes are to share the run: give "
            "device=cpu, or start one process"
        )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    shared = device.startswith("cuda:")  # one GPU for all, which NCCL refuses
    on_gpu = "gloo" if shared else "nccl"
    try:
        store: Store
        with _waiting():
            store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun's store, for one, still has what an earlier group of these processes has put there.
        store = PrefixStore(f"joining {next(_joinings)}", store)
        dist.init_process_group(
            f"cpu:gloo,cuda:{on_gpu}" if chosen.type == "cuda" else "gloo",
            store=PrefixStore("run", store),
            rank=rank,
            world_size=size,
            timeout=NO_END,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the {os.environ['WORLD_SIZE']} processes of this run did not find each other ({reason}): start all of them, and "
            "give MASTER_ADDR and MASTER_PORT that they all reach (torchrun --standalone on one machine)"
        ) from error
    return store


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """While the others are waited for, in torch's own code: says so after a while, and Ctrl-C ends the process."""
    where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    line = f"waits for the other processes of this run, {os.environ['WORLD_SIZE']} in all, at {where}"
    timer = threading.Timer(SHOWN, lambda: say(line))
    timer.daemon = True
    timer.start()
    unheard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it would be heard afterwards alone
    if unheard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        timer.cancel()
        if unheard:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Rank 0 speaks for all."""
    if first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


class _Words:
    """What the ranks tell each other of how they end, in their store."""

    KEY = "what went wrong"
    store: "Store | None" = None

    def tell(self, error: BaseException) -> None:
        """Tells the others of this rank's error."""
        lines = str(error).splitlines()
        with contextlib.suppress(Exception):  # the store is gone where its process is
            if self.store:
                said = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
                self.store.set(self.KEY, f"rank {_number('RANK', 0)}: {said}")

    def gone(self, error: RuntimeError) -> Gone:
        """That another rank is gone, with what it has told, or else with what this one's connection says."""
        told = " ".join(str(error).split())[-200:]
        with contextlib.suppress(Exception):
            if self.store and self.store.check([self.KEY]):
                told = self.store.get(self.KEY).decode()
        return Gone(f"one of the {os.environ['WORLD_SIZE']} processes of this run has ended ({told}): {GO_ON}")


_words = _Words()


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Turns the loss of another rank into words, before the run's lease keeps the error.

    Raises:
        Gone: another rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if several() and _of_connection(error):
            raise _words.gone(error) from error
        raise


def _ending(error: BaseException) -> BaseException:
    """What this rank ends with. What the user can mend is rank 0's to say; so is the loss of a rank."""
    if isinstance(error, RuntimeError) and _of_connection(error):
        error = _words.gone(error)
    elif not isinstance(error, SystemExit | Gone):
        _words.tell(error)
    return SystemExit(1) if isinstance(error, UserError) and not first() else error


def _of_connection(error: RuntimeError) -> bool:
    """Whether another process is gone, as gloo and NCCL say it."""
    import torch.distributed as dist

    words = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "TCPStore")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def told(value: T) -> T:
    """Rank 0's value, on all ranks."""
    if not several():
        return value
    from moco.ranks import broadcast

    return broadcast(value)


def stop_together(name: str) -> NoReturn:
    """Stops all ranks after that signal, none before rank 0 has saved: its watch would take the others for gone.

    Raises:
        Stopped: always.
    """
    told(None)
    raise Stopped(name)


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """What the user can mend on one rank ends all of them, with one line.

    Raises:
        UserError: that of the first rank that has one.
    """
    if not several():
        yield
        return
    from moco.ranks import everyone

    own: UserError | None = None
    try:
        yield
    except UserError as error:
        own = error
    for rank, text in enumerate(everyone(None if own is None else str(own))):
        if text:
            raise UserError(text if rank == 0 else f"on rank {rank}: {text}") from own


def say(text: str) -> None:
    """A line on stderr, once for all ranks."""
    if first():
        print(text, file=sys.stderr, flush=True)
