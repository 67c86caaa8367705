"""Trains configurations one after another, on as many ranks as the environment says: python trained.py '[["word", ...], ...]'."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import checked

from moco.training.distributed import joined
from moco.training.pretrain import train

torch.set_num_threads(1)
with joined("cpu"):
    for words in json.loads(sys.argv[1]):
        train(checked(*words))
