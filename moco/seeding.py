"""Counted randomness: a seed for each step, so that no generator's state has to be carried from step to step."""

import hashlib


def step_seed(seed: int, stream: str, step: int) -> int:
    """The seed of step `step` in the stream of that name: in [0, 2**63), the same on every platform.

    A hash, so that neighbouring seeds, streams and steps share nothing. torch's CPU generator reads the low 32 bits alone
    of what torch.manual_seed is given, so sums such as seed + step would make seed 1 repeat seed 0 one step later.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
