"""Exports that load strictly into the plain model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from moco.config.components import instantiate
from moco.config.schema import Config
from moco.errors import UserError
from moco.export import export
from moco.methods import MoCo
from moco.runs.run import Run


@pytest.fixture
def trained(
    tmp_path: Path, checked: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Run, nn.Module]]:
    """trained("model=...", ...) -> a finished run's folder whose checkpoint holds that backbone, its statistics moved."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str) -> tuple[Run, nn.Module]:
        config = checked(*overrides)
        torch.manual_seed(1)
        method = MoCo(
            instantiate(config.model.unweighted()), feature_dim=4, m=8, temperature=0.1, momentum=0.9, splits=2
        )
        for _ in range(2):
            method(torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32), torch.arange(8))
        run = Run(tmp_path / "runs" / "moco-x-y-abcdefghij")
        run.folder.mkdir(parents=True)
        run.write_config(config)
        run.write_result({"knn/top1": 50.0, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "image_size": [32, 32]})
        torch.save({"method": method.state_dict()}, run.checkpoint)
        return run, method.encoder.eval()

    return make


@pytest.mark.parametrize("form", ["torchvision", "safetensors"])
@pytest.mark.parametrize(
    "model, plain",
    [
        (["model=resnet18"], "ResNet"),
        (["model=resnet18", "model.stem=imagenet"], "ResNet"),
        (["model=resnet18", "model.pretrained=true"], "ResNet"),
        (["model=timm"], "ResNet"),
        (["model=timm", "model.architecture=convnext_atto", "+model.depths=[1,1,1,1]"], "ConvNeXt"),
        (["model=small", "model.widths=[8,16]"], "SmallResNet"),
    ],
    ids=["cifar", "imagenet", "pretrained", "timm", "timm-options", "small"],
)
def test_exports_load_strictly_by_the_lines_they_come_with(trained, tmp_path: Path, model, plain: str, form: str):
    run, encoder = trained(*model)
    path, lines = export(run, form, None)
    assert path == Path(f"moco-x-y-abcdefghij.{'safetensors' if form == 'safetensors' else 'pth'}") and path.exists()
    names: dict = {}
    exec(lines, names)
    loaded = names["model"].eval()
    assert type(loaded).__name__ == plain and not isinstance(loaded, MoCo)
    assert "moco" not in lines.replace(path.name, "") or plain == "SmallResNet"
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(loaded(x), encoder(x))
    assert int(loaded.state_dict().get("bn1.num_batches_tracked", 2)) == 2
    assert loaded.load_state_dict(names["weights"], strict=True).missing_keys == []


@pytest.mark.parametrize("form", ["torchvision", "safetensors"])
def test_exports_say_how_their_images_were_normalised(trained, form: str):
    run, _ = trained("model=small", "model.widths=[8,16]")
    path, lines = export(run, form, None)
    names: dict = {}
    exec(lines, names)
    assert (names["mean"], names["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    if form == "safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            written = file.metadata()
        written = {key: value if key in ("run", "model") else json.loads(value) for key, value in written.items()}
    else:
        written = json.loads(Path(f"{path}.json").read_text())
    assert written == {
        "run": "moco-x-y-abcdefghij",
        "model": "small",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
        "image_size": [32, 32],
    }
    run.write_result({"knn/top1": 50.0})  # of a version that did not keep them
    assert "std" not in export(run, form, None)[1]


def test_export_goes_where_it_is_told(trained, tmp_path: Path):
    run, _ = trained("model=small", "model.widths=[8,16]")
    path, lines = export(run, "torchvision", tmp_path / "it's mine.pth")
    names: dict = {}
    exec(lines, names)
    assert path == tmp_path / "it's mine.pth" and set(names["weights"]) == set(names["model"].state_dict())


def test_what_cannot_be_exported(trained):
    run, _ = trained("model=small", "model.widths=[8,16]")
    whole = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(whole[:500])
    with pytest.raises(UserError, match="checkpoint.pt is damaged .*: it is kept"):
        export(run, "torchvision", None)
    assert run.checkpoint.stat().st_size == 500
    run.checkpoint.write_bytes(whole)
    frozen = run.config.frozen()
    frozen["model"]["widths"] = [4, 16]
    (run.folder / "config.json").write_text(json.dumps(frozen))
    with pytest.raises(UserError, match="checkpoint.pt does not fit its config.json .*: it is kept"):
        export(run, "torchvision", None)
    run.checkpoint.unlink()
    with pytest.raises(UserError, match="checkpoint.pt is absent"):
        export(run, "torchvision", None)
    (run.folder / "result.json").unlink()
    with pytest.raises(UserError, match="is pending, not done: train it to its end first"):
        export(run, "torchvision", None)
    assert not list(Path.cwd().glob("*.pth"))
