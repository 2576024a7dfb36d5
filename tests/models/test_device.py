"""The device: what a processor can do of itself, and what it only imitates."""

import pytest
import torch

from transforms.models.device import Precision, is_emulated, torch_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "has", "emulated"),
    [
        ("fp32", {}, False),
        ("bf16", {}, True),
        ("bf16", {"avx512_bf16": True}, False),
        ("bf16", {"avx512_bf16": False, "amx_bf16": True}, False),
        ("fp16", {"avx512_bf16": True}, True),
        ("fp16", {"avx512_fp16": True}, False),
    ],
)
def test_a_precision_without_instructions_is_emulated(
    precision: Precision, has: dict[str, bool], emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert is_emulated(precision, CPU) is emulated
    assert not is_emulated(precision, torch.device("cuda"))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not is_emulated(precision, CPU)


def test_a_device_that_is_none_is_refused() -> None:
    for name in ("gpu", "tpu:0", "meta"):
        with pytest.raises(ValueError, match=rf"device: '{name}' is not available here; use auto"):
            torch_device(name)
    assert torch_device("cpu") == CPU
