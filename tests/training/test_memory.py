"""Sizes that cannot fit into memory are refused with the gigabytes that they would take, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from moco.config.schema import Config
from moco.errors import UserError
from moco.training import memory
from moco.training.pretrain import train

Make = Callable[..., Config]


@pytest.mark.parametrize(
    "method, words, line",
    [
        ("moco", ["m=1e12"], r"the queue \[1000000000000, 128\] takes 1,024,000.0 GB \(m, feature_dim\)"),
        ("moco", ["feature_dim=1e11"], r"a layer of the projection head \[16, 100000000000\] takes 12,800.0 GB"),
        (
            "simclr",
            ["method.hidden_dim=1e11"],
            r"projection head \[16, 100000000000\] takes 12,800.0 GB \(method.hidden",
        ),
        (
            "simclr",
            ["model.widths=[8,100000]"],
            r"a convolution \[100000, 100000, 3, 3\] takes 720.0 GB \(model.widths\)",
        ),
        ("npid", ["feature_dim=1e9"], r"the memory bank \[1437, 1000000000\] takes 11,496.0 GB"),
        ("simclr", ["augment.size=100000"], r"\[64, 3, 100000, 100000\] takes 7,680.0 GB \(batch_size, augment.size\)"),
        ("simclr", ["augment.eval_size=100000"], r"\[500, 3, 100000, 100000\] takes 60,000.0 GB \(augment.eval_size\)"),
    ],
)
def test_what_cannot_fit_is_refused(method: str, words: list[str], line: str, tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line) as error:
        train(tiny(method, *words))
    assert "GB of cpu, give less" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_what_fits_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "total_memory", lambda device: 4000)
    two = [memory.Large("a", (10, 50), "k"), memory.Large("b", (10, 49), "l"), memory.Large("c", (2,), "n")]
    memory.refuse(two, cpu)
    with pytest.raises(UserError, match=r"^a \[10, 51\] takes .*; b \[10, 49\] takes .* \(l\): more than"):
        memory.refuse([memory.Large("a", (10, 51), "k"), *two[1:]], cpu)


def test_memory_is_that_of_the_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = memory.total_memory(torch.device("cpu"))
    assert machine > 1e9
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMITS", [str(limit), str(tmp_path / "absent")])
    for text, want in (("max", None), ("", None), ("1000000\n", 1_000_000)):
        limit.write_text(text)
        found = memory.total_memory(torch.device("cpu"))
        assert found == want if want else found >= machine


def test_an_allocation_that_is_refused_is_named_and_other_errors_are_left_alone() -> None:
    with pytest.raises(UserError, match="model=small takes 4,000,000.0 GB at once, which is not there: give less"):
        with memory.allocating("model=small"):
            torch.empty(10**15)
    with pytest.raises(UserError, match="model=small is too large to count"):
        with memory.allocating("model=small"):
            torch.empty(10**15, 10**15)
    with pytest.raises(UserError, match="data=digits does not fit into memory .*Unable to allocate .*: give less"):
        with memory.allocating("data=digits"):
            np.zeros(10**15)
    with pytest.raises(RuntimeError, match="size of tensor"):
        with memory.allocating("model=small"):
            torch.zeros(2) + torch.zeros(3)


def test_images_that_cannot_fit_are_one_line(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data=digits takes 71,880.0 GB at once, which is not there: give less"):
        train(tiny("simclr", "data.size=100000"))
    assert not (tmp_path / "runs").exists()
