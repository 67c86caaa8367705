"""Whether the other ranks of a run still live."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

BEAT, SILENCE = 5.0, 45.0  # seconds between signs of life of a rank, and without one after which it is gone
AT_END = 2.0  # seconds in which this rank ends, too, where one that is through has taken the store with it


class Watch:
    """Signs of life in the ranks' store, and a call where those of another rank fail to come.

    A collective on GPUs would wait for a rank that is gone for ever.

    Args:
        gone: called from another thread with the words for who is gone.
    """

    def __init__(self, store: "Store", gone: Callable[[str], None]):
        import torch.distributed as dist

        self.rank, self.size, self.gone = dist.get_rank(), dist.get_world_size(), gone
        clone = getattr(store, "clone", None)
        self.store = clone() if clone else store  # one that nobody else waits in
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Ends the signs of life. A thread that is in torch's code while Python ends would abort the process."""
        self.over.set()
        self.thread.join(AT_END)

    def _watch(self) -> None:
        seen, beat = dict[int, tuple[bytes, float]](), 0
        while not self.over.wait(BEAT):
            beat += 1
            try:
                self.store.set(f"beat {self.rank}", str(beat))
                gone = [other for other in range(self.size) if other != self.rank and self._is_gone(other, seen)]
                who = f"rank {gone[0]} of {self.size}" if gone else ""
            except RuntimeError:  # the store is with rank 0, or with torchrun
                who = f"rank 0 of {self.size}" if self.rank else "torchrun, or what else has started the processes,"
            if who and not self.over.wait(AT_END):
                self.gone(who)

    def _is_gone(self, other: int, seen: dict[int, tuple[bytes, float]]) -> bool:
        key, now = f"beat {other}", time.monotonic()
        value = self.store.get(key) if self.store.check([key]) else b""
        if other not in seen or seen[other][0] != value:
            seen[other] = value, now
        return now - seen[other][1] > SILENCE
