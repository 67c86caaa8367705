"""Checkpoints: written whole or not at all, read strictly."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moco.errors import UserError
from moco.io import replacing
from moco.runs.run import Run


def save_checkpoint(content: Mapping[str, object], path: Path) -> None:
    """torch.save written aside, flushed and renamed.

    Raises:
        UserError: it cannot be written; the file that was there stays.
    """
    try:
        with replacing(path) as aside, open(aside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's own, where the disk took a part, speaks of positions
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "No space left on device"
        raise UserError(
            f"{path} cannot be written ({reason}): free some space and start again, which goes on from the last checkpoint"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU.

    Raises:
        UserError: it is absent or cut short.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content
    except FileNotFoundError as error:
        raise UserError(f"{path} is absent: train the run first") from error
    except Exception as error:  # torch raises whatever the damage leads to
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): it is kept; put a good copy there, or start over with rerun=true"
        ) from error


def load_encoder(run: Run, encoder: nn.Module) -> nn.Module:
    """The backbone with the weights of the run's checkpoint, loaded strictly.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another shape.
    """
    return load_weights(run, load_checkpoint(run.checkpoint), encoder)


def load_weights(run: Run, checkpoint: Mapping[str, Any], encoder: nn.Module) -> nn.Module:
    """The backbone with the weights of the run's checkpoint, which has been read, loaded strictly.

    Raises:
        UserError: it is of another shape.
    """
    content = checkpoint["method"]
    prefix = "encoder."
    weights = {key[len(prefix) :]: value for key, value in content.items() if key.startswith(prefix)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ")[:160]
        raise UserError(f"{run.checkpoint} does not fit its config.json ({reason}): it is kept") from error
    return encoder
