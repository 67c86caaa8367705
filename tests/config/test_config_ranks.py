"""Which settings several devices can share."""

from collections.abc import Callable

import pytest

from moco.config.ranks import problems
from moco.config.schema import Config


@pytest.mark.parametrize(
    ("words", "ranks", "said"),
    [
        (["batch_size=60", "method.splits=1", "device=cuda:1"], 1, []),
        (["batch_size=64", "method.splits=8"], 4, []),
        (["batch_size=64", "method.splits=2"], 4, []),
        (["batch_size=64", "method.splits=1", "device=auto"], 4, []),
        (["batch_size=60", "method.splits=1"], 8, ["batch_size=60 is not a multiple of the 8 devices"]),
        (["batch_size=60", "method.splits=6"], 4, ["method.splits=6 does not fit 4 devices"]),
        (["device=mps"], 2, ["device=mps is one device, and 2 are to share"]),
        (
            ["batch_size=66", "method.splits=6", "device=mps"],
            4,
            ["device=mps is one device", "batch_size=66 is not", "method.splits=6 does not fit"],
        ),
    ],
)
def test_settings_that_so_many_devices_cannot_share(
    words: list[str], ranks: int, said: list[str], tiny: Callable[..., Config]
) -> None:
    found = problems(tiny("moco", *words), ranks)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found)), found


def test_other_methods_and_linear_evaluation(tiny: Callable[..., Config]) -> None:
    assert not problems(tiny("simclr"), 4)
    [line] = problems(tiny("simclr", "device=mps", "batch_size=62").evaluation(), 4)
    assert "device=mps is one device" in line
