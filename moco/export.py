"""A trained backbone for others: weights that load strictly into the plain torchvision or timm model."""

from functools import partial
from pathlib import Path
from typing import Any

from moco.config.schema import build
from moco.errors import UserError
from moco.io import replacing
from moco.runs.run import Run
from moco.training.components import load_encoder


def export(run: Run, form: str, out: Path | None) -> tuple[Path, str]:
    """Writes the backbone's state dict; returns its path and the lines of Python that load it.

    Args:
        form: torchvision (a .pth state dict, for timm models too) or safetensors.

    Raises:
        UserError: the run is not done, safetensors is not installed, or the file cannot be written.
    """
    if run.result is None:
        raise UserError(f"{run.folder} is {run.state()}, not done: train it to its end first")
    cfg = run.config
    weights = {key: value.contiguous() for key, value in load_encoder(run, build(cfg["model"])).state_dict().items()}
    path = out or Path(f"{run.folder.name}.{'safetensors' if form == 'safetensors' else 'pth'}")
    if form == "safetensors":
        try:
            from safetensors.torch import save_file
        except ImportError as error:
            raise UserError("--to safetensors needs safetensors: pip install safetensors") from error
        save: Any = partial(save_file, metadata={"run": run.folder.name, "model": cfg["model"]["name"]})
        read = f"from safetensors.torch import load_file; weights = load_file({str(path)!r})"
    else:
        import torch

        save = torch.save
        read = f"import torch; weights = torch.load({str(path)!r})"
    try:
        with replacing(path) as aside:
            save(weights, aside)
    except Exception as error:  # torch and safetensors raise each their own
        raise UserError(f"{path} cannot be written ({error}): give another file with --out") from error
    return path, "\n".join([read, *_plain_model(cfg["model"]), "model.load_state_dict(weights)"])


def _plain_model(model: dict[str, Any]) -> list[str]:
    """The Python that makes the model without this project, as far as that can be."""
    target, architecture = model["_target_"], model.get("architecture")
    if target.endswith(".timm_backbone"):
        options = {
            k: v for k, v in model.items() if k not in ("name", "_target_", "architecture", "stem") and v is not None
        }
        shown = "".join(f", {key}={value!r}" for key, value in options.items())
        return [f"import timm; model = timm.create_model({architecture!r}, num_classes=0{shown})"]
    if target.endswith(".torchvision_resnet"):
        lines = [
            f"import torch, torchvision; model = torchvision.models.{architecture}()",
            "model.fc = torch.nn.Identity()",
        ]
        if model["stem"] == "cifar":
            lines += [
                "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)",
                "model.maxpool = torch.nn.Identity()",
            ]
        return lines
    arguments = ", ".join(f"{k}={v!r}" for k, v in model.items() if k not in ("name", "_target_") and v is not None)
    module, _, name = target.rpartition(".")
    return [f"from {module} import {name}; model = {name}({arguments})"]
