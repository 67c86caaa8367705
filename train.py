"""Trains one run, or each of a sweep: python train.py temperature=0.1 m=4096; python train.py -m feature_dim=128,256."""

from moco.entry import train

if __name__ == "__main__":
    train()
