"""Trains configurations one after another, on as many ranks as there are: python trained.py '[["word", ...], ...]'."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import checked

from moco.entry import run_or_exit
from moco.training.pretrain import train


def main() -> None:
    torch.set_num_threads(1)
    for words in json.loads(sys.argv[1]):
        train(checked(*words))


if __name__ == "__main__":
    run_or_exit(main)
