"""Counted randomness."""

from moco.seeding import step_seed


def test_step_seed_keeps_seeds_streams_and_steps_apart():
    seeds = [step_seed(s, stream, t) for s in range(20) for stream in ("order", "step") for t in range(500)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert len({s % 2**32 for s in seeds}) == len(seeds)  # torch's CPU generator reads the low 32 bits
    assert step_seed(0, "step", 1) == 1578201625287471526  # on every platform, in every version
