"""Counted randomness: a seed for each step, so that no state of a generator has to be carried from step to step."""

import hashlib


def step_seed(seed: int, stream: str, step: int) -> int:
    """The seed of step `step` in the stream of that name: in [0, 2**63), the same on every platform.

    It is a hash, so that neighbouring seeds, streams and steps share nothing. A sum such as seed + step would make seed 1
    repeat seed 0 one step later. The low 32 bits are as good as the whole, since torch's CPU generator reads only these.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
