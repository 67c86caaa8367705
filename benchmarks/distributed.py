"""A step of training on two processes against one, on this machine's CPUs, and on paper for many GPUs.

    python benchmarks/distributed.py [--tiny]
    python benchmarks/distributed.py --paper      # the arithmetic alone; measures nothing

Measured: the same global batch, network and method on one process with two threads and on two with one each, through
moco.training.trainer.Trainer with gloo. Time in collectives is that of rank 0 and holds what it waits for the other rank;
gradients travel while the backward pass goes on, all else is waited for. Bytes are what a rank sends in a step: by
arithmetic, and as the kernel counts what arrived over this process's own connections (tcp_info of Linux), with gloo's
headers and signs of life.

On paper: traffic.py. Nothing there was measured, and no figure of several GPUs is claimed. Prints JSON.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from traffic import DECISION, GRADIENTS, ROWS, STATISTICS, on_paper, sent

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from moco.config.schema import Config
    from moco.training.trainer import Trainer

POINTS = {
    "moco, 8 groups of BatchNorm": ["method=moco", "method.splits=8"],
    "moco, BatchNorm over the batch": ["method=moco", "method.splits=1"],
    "simclr, BatchNorm over the batch": ["method=simclr"],
    "npid, 2 groups of BatchNorm": ["method=npid", "method.splits=2", "m=1024"],
}
BATCH, STEPS, WARM = 64, 8, 2
TCP_INFO_ACKED = slice(120, 128)  # tcpi_bytes_acked in struct tcp_info, linux/tcp.h


class Meter:
    """Time and number of this process's collectives, by what they are for."""

    def __init__(self) -> None:
        self.seconds, self.calls = defaultdict[str, float](float), defaultdict[str, int](int)

    def add(self, kind: str, seconds: float) -> None:
        self.seconds[kind] += seconds
        self.calls[kind] += 1

    def wrap(self, function: Callable[..., Any], kind: Callable[..., str]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            began = time.monotonic()
            done = function(*args, **options)
            self.add(kind(*args, **options), time.monotonic() - began)
            return done

        return timed

    def attach(self, trainer: "Trainer") -> None:
        """Looks at each collective from here on."""
        from moco import ranks

        reduce, n = dist.all_reduce, ranks.ranks()

        def hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            began = time.monotonic()

            def arrived(future: "torch.futures.Future[list[Tensor]]") -> Tensor:
                self.add(GRADIENTS, time.monotonic() - began)
                return future.value()[0]

            return reduce(bucket.buffer().div_(n), async_op=True).get_future().then(arrived)

        if n > 1:
            trainer.loss.register_comm_hook(None, hook)
        ranks._all_gather = self.wrap(ranks._all_gather, lambda *_: ROWS)
        dist.all_gather = self.wrap(dist.all_gather, lambda *_: STATISTICS)
        dist.all_reduce = self.wrap(
            reduce, lambda x, *_, group=None: STATISTICS if group else DECISION if x.dtype == torch.int64 else ROWS
        )


def acknowledged() -> int:
    """Bytes that this process has sent over its TCP connections and that have arrived."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += int.from_bytes(info[TCP_INFO_ACKED], sys.byteorder)
        except OSError:  # closed meanwhile
            continue
    return total


def configuration(point: str, tiny: bool) -> "Config":
    """Of a point."""
    from moco.config.check import check
    from moco.config.compose import composed

    words = ["data=digits", "model=small", "precision=fp32", "device=cpu", "tracker=none", "epochs=1", "k=1"]
    words += (
        ["data.size=8", "model.widths=[8,16]", "batch_size=16"] if tiny else ["data.size=32", f"batch_size={BATCH}"]
    )
    return check(composed([*words, *POINTS[point]]))


def work(point: str, tiny: bool) -> dict[str, Any]:
    """What one of the processes does and finds."""
    from moco.runs.run import Run
    from moco.tracking.tracker import Tracker
    from moco.training.components import Components
    from moco.training.distributed import joined
    from moco.training.pretrain import trainable, trainer_of
    from moco.training.signals import Signals

    config, steps, meter, seconds = configuration(point, tiny), 3 if tiny else STEPS, Meter(), list[float]()
    with tempfile.TemporaryDirectory() as folder, joined("cpu"), Signals() as signals:
        parts = Components(config, "cpu")
        method, optimizer, schedule = trainable(parts)
        trainer = trainer_of(parts, Run(Path(folder) / "moco"), (method, optimizer, schedule), dict, Tracker())
        trained = nn.ModuleList([method.encoder, method.head])
        size = int(os.environ.get("WORLD_SIZE", "1"))
        arithmetic = sum(bytes_ for _, bytes_ in sent(config, trained, size).values())
        meter.attach(trainer)
        trainer.batches.steps = WARM + steps
        trainer.losses = torch.zeros(WARM + steps)
        for step in range(WARM + steps):
            if step == WARM:
                meter.seconds.clear(), meter.calls.clear()
                before = acknowledged()
            began = time.monotonic()
            trainer.train_step()
            signals.decide(False)
            seconds.append(time.monotonic() - began)
        counted = acknowledged() - before
    return {
        "ms a step": round(1e3 * statistics.median(seconds[WARM:]), 2),
        "ms in collectives a step": {kind: round(1e3 * s / steps, 2) for kind, s in sorted(meter.seconds.items())},
        "collectives a step": {kind: n / steps for kind, n in sorted(meter.calls.items())},
        "bytes sent a step": {"by arithmetic": round(arithmetic), "counted": round(counted / steps)},
    }


def measured(point: str, ranks: int, tiny: bool) -> dict[str, Any]:
    """Of rank 0, with all processes on the same two threads."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    given = {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": str(2 // ranks),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [sys.executable, str(Path(__file__)), f"--rank-of={point}", *["--tiny"] * tiny]
    started = [
        subprocess.Popen(command, env={**os.environ, **given, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    texts = [process.communicate(timeout=600)[0] for process in started]
    assert not any(process.returncode for process in started), texts
    found: dict[str, Any] = json.loads(texts[0])
    print(f"{point}, {ranks}: {found}", file=sys.stderr, flush=True)
    return found


def processor() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small network for a few steps: shows that it runs")
    parser.add_argument("--paper", action="store_true", help="the arithmetic alone")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank_of:
        print(json.dumps(work(asked.rank_of, asked.tiny)))
    else:
        report: dict[str, Any] = {"on paper, not measured": list(on_paper())}
        if not asked.paper:
            load = round(os.getloadavg()[0], 1)
            report |= {
                "processor": processor(),
                "load before": load,
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            }
            report["measured"] = {
                point: {f"processes: {ranks}": measured(point, ranks, asked.tiny) for ranks in (1, 2)}
                for point in ([*POINTS][1:2] if asked.tiny else POINTS)
            }
        print(json.dumps(report, indent=1))
