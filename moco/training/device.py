"""Which device to compute on, and in which precision."""

import os

import torch

from moco.errors import UserError
from moco.runs.provenance import cpu_info


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
    """Whether to compute in bfloat16: as asked, or where the hardware is fast at it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (bool(torch.cpu._is_amx_tile_supported()) or _multiplies_bf16_fast())


def _multiplies_bf16_fast() -> bool:
    """Whether this CPU's AVX-512 is faster at bf16 than at fp32.

    AMD's is: twice as fast. Intel's is not, which leaves that to AMX, and a virtual machine may hide AMX: convolutions of an
    Emerald Rapids without it took 1.7 times as long as in fp32.
    """
    return bool(torch.cpu._is_avx512_bf16_supported()) and cpu_info("vendor_id") != "GenuineIntel"
