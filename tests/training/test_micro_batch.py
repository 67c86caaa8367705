"""A run whose steps are computed in pieces is the same run; what cannot be one is refused before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from smooth import Smooth

from moco.config.schema import Config
from moco.errors import UserError
from moco.runs.run import Run
from moco.training.pretrain import train

Make = Callable[..., Config]
SMOOTH = "model._target_=smooth.Smooth"  # rounding stays rounding in it


def only(runs_dir: Path) -> Run:
    [path] = runs_dir.glob("*/config.json")
    return Run(path.parent)


def state(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run.checkpoint, weights_only=True)["method"]
    return found


@pytest.mark.parametrize("method", ["moco", "simclr", "npid"])
def test_a_run_in_pieces_is_the_same_run(
    method: str, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["epochs=1", "method.splits=4", "optimizer.lr=0.003", "precision=fp32", SMOOTH]
    train(tiny(method, *words, f"runs_dir={tmp_path}/whole"))
    sizes: set[int] = set()
    forward = Smooth.forward

    def seen(network: Smooth, x: torch.Tensor) -> torch.Tensor:
        if network.training:
            sizes.add(len(x))
        return forward(network, x)

    monkeypatch.setattr(Smooth, "forward", seen)
    train(tiny(method, *words, "micro_batch=16", f"runs_dir={tmp_path}/pieces"))
    assert sizes == {32 if method == "simclr" else 16}  # two views of an image together
    whole, pieces = only(tmp_path / "whole"), only(tmp_path / "pieces")
    assert whole.folder.name == pieces.folder.name
    one, other = state(whole), state(pieces)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=2e-6, atol=2e-6, msg=name)


def test_a_model_that_only_the_run_knows_is_refused_before_anything_is_written(tiny: Make, tmp_path: Path) -> None:
    config = tiny("simclr", SMOOTH, "micro_batch=32")
    with pytest.raises(
        UserError, match="micro_batch=32 is not a multiple of 64, the images over which BatchNorm takes"
    ):
        train(config)
    assert not (tmp_path / "runs").exists()
