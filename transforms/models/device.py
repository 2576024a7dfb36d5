"""The device that models are on."""

import platform
from typing import Literal

import torch

from transforms.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
Numerics = Literal["exact", "fast"]
"""`exact`: the same bits from run to run. `fast`: a GPU's quickest kernels, TF32 among them, which sum as they like."""
_INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}


def is_emulated(precision: Precision, device: torch.device) -> bool:
    """Whether an x86 processor has no instructions for a precision, so that it costs time instead of saving it."""
    if device.type != "cpu" or precision == "fp32" or platform.machine() not in {"x86_64", "AMD64"}:
        return False
    has = torch.cpu.get_capabilities()
    return not any(has.get(each) for each in _INSTRUCTIONS[precision])


def torch_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in {"cpu", "cuda"}:
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        there = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu; there is no GPU that torch sees"
        raise InputError(f"device: {name!r} is not available here; use {there}") from None
    return device
