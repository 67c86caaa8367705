"""Which device to compute on, and in which precision."""

import os

import torch

from moco.errors import UserError


def choose_device(name: str) -> torch.device:
    """The torch device of that name; auto takes CUDA, then MPS, then the CPU. Of several processes each takes a GPU of its own.

    Raises:
        UserError: there is no such device, or the environment names a GPU where none is available.
    """
    if name == "auto":
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        if listed and not listed.startswith("-") and not torch.cuda.is_available():
            raise UserError(
                f"CUDA_VISIBLE_DEVICES={listed} names a GPU that is not available: give another or device=cpu"
            )
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if (
        device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1
    ):  # else each may see its own alone
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    present = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[device.type]
    if (device.index or 0) >= present:
        raise UserError(f"device={name} is not here ({present} of its kind): give device=auto or device=cpu")
    return device


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as asked, or where the hardware has units for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    on_cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(on_cpu)
