"""A trained backbone for others: weights that load strictly into the plain torchvision or timm model."""

import json
from collections.abc import Mapping
from pathlib import Path

from moco.config.components import HYDRAS, instantiate
from moco.config.schema import Model
from moco.errors import UserError
from moco.io import Json, replacing, write_json
from moco.runs.run import Run
from moco.training.checkpoint import load_encoder


def export(run: Run, form: str, out: Path | None) -> tuple[Path, str]:
    """Writes the backbone's state dict; returns its path and the lines of Python that load it.

    What the state dict cannot hold (the run, and by which mean and deviation its images were normalised) goes into the
    metadata of safetensors, or into a <name>.pth.json beside a .pth.

    Args:
        form: torchvision (a .pth state dict, for timm models too) or safetensors.

    Raises:
        UserError: the run is not done, its checkpoint cannot be used, safetensors is not installed, or the file cannot be
            written.
    """
    result = run.result
    if result is None:
        raise UserError(f"{run.folder} is {run.state()}, not done: train it to its end first")
    model = run.config.model.unweighted()
    weights = load_encoder(run, instantiate(model)).state_dict()
    weights = {key: value.contiguous() for key, value in weights.items()}
    kept: dict[str, Json] = {key: result[key] for key in ("mean", "std", "image_size") if key in result}
    described: dict[str, Json] = {"run": run.folder.name, "model": model.name, **kept}
    path = out or Path(f"{run.folder.name}.{'safetensors' if form == 'safetensors' else 'pth'}")
    try:
        with replacing(path) as aside:
            if form == "safetensors":
                from safetensors.torch import save_file

                texts = {
                    key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()
                }
                save_file(weights, aside, metadata=texts)
                read = f"from safetensors.torch import load_file; weights = load_file({str(path)!r})"
            else:
                import torch

                torch.save(weights, aside)
                write_json(path.with_name(f"{path.name}.json"), described)
                read = f"import torch; weights = torch.load({str(path)!r})"
    except ImportError as error:
        raise UserError("--to safetensors needs safetensors: pip install safetensors") from error
    except Exception as error:  # torch and safetensors each raise errors of their own
        raise UserError(f"{path} cannot be written ({error}): give another file with --out") from error
    lines = [read, *_plain_model(model), "model.load_state_dict(weights)"]
    if {"mean", "std"} <= kept.keys():  # runs of earlier versions have not kept them
        lines.append(
            f"mean, std = {kept['mean']}, {kept['std']}  # of images in [0, 1]: the model takes (images - mean) / std"
        )
    return path, "\n".join(lines)


def _plain_model(model: Model) -> list[str]:
    """The Python that makes the model without this project, as far as that is possible."""
    left_out = (*HYDRAS, "pretrained")  # the weights come from the file
    arguments = {key: value for key, value in model.arguments().items() if key not in left_out and value is not None}
    module, _, name = model.target.rpartition(".")
    if name == "timm_backbone":
        architecture = arguments.pop("architecture")
        return [f"import timm; model = timm.create_model({architecture!r}, {_shown({'num_classes': 0, **arguments})})"]
    if name == "torchvision_resnet":
        lines = [
            f"import torch, torchvision; model = torchvision.models.{model.architecture}()",
            "model.fc = torch.nn.Identity()",
        ]
        if model.stem == "cifar":
            lines += [
                "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)",
                "model.maxpool = torch.nn.Identity()",
            ]
        return lines
    return [f"from {module} import {name}; model = {name}({_shown(arguments)})"]


def _shown(arguments: Mapping[str, object]) -> str:
    """Arguments as they are written in a call."""
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
