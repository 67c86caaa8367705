"""Counted randomness: the seed of a step, computed from (seed, stream, step) and never carried along."""

import zlib

import numpy as np


def step_seed(seed: int, stream: str, step: int) -> int:
    """A well-mixed 63-bit seed for that step of that stream ("order", "step", ...), the same on every machine."""
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), step]).generate_state(1, np.uint64)
    return int(state[0] >> 1)
