"""Trains a configuration, and sends one rank a signal at a step: python stopped.py '["word", ...]' <step> <rank> <signal>.

One more number is how many seconds a save takes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import checked

from moco.entry import run_or_exit
from moco.training import trainer, watch
from moco.training.pretrain import train

step, rank, number, *seconds = map(int, sys.argv[2:])
if number == signal.SIGSTOP or seconds:
    watch.BEAT, watch.SILENCE, watch.AT_END = 0.1, 3.0, 0.1
seed_of, save = trainer.step_seed, trainer.save_checkpoint


def seeded(seed: int, stream: str, at: int) -> int:
    if at == step and os.environ["RANK"] == str(rank):
        os.kill(os.getpid(), number)
    return seed_of(seed, stream, at)


def saved(*given: Any) -> None:
    time.sleep(sum(seconds))
    save(*given)


torch.set_num_threads(1)
trainer.save_checkpoint = saved
trainer.step_seed = seeded
run_or_exit(lambda: train(checked(*json.loads(sys.argv[1]))))
