"""The precision that precision=auto takes."""

from pathlib import Path

import pytest
import torch

from moco.training.device import choose_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("vendor", "avx512_bf16", "amx", "expected"),
    [
        ("AuthenticAMD", True, False, True),
        ("AuthenticAMD", False, False, False),
        ("GenuineIntel", True, True, True),
        ("GenuineIntel", True, False, False),  # multiplies bf16 at half the speed of fp32
    ],
)
def test_auto_takes_bf16_where_the_cpu_is_faster_at_it(
    monkeypatch: pytest.MonkeyPatch, vendor: str, avx512_bf16: bool, amx: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: f"processor : 0\nvendor_id\t: {vendor}\n")
    assert choose_bf16("auto", CPU) == expected
    assert choose_bf16("bf16", CPU) and not choose_bf16("fp32", CPU)


def test_auto_is_no_mistake_where_there_is_no_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, **_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(Path, "read_text", missing)
    assert choose_bf16("auto", CPU)
