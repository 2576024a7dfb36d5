"""The device that models are on."""

import torch

from transforms.errors import InputError


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
        raise InputError(f"device: {name!r} is not available here; use auto, cpu or cuda") from None
    return device
