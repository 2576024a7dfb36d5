"""The compiled engine: a network on a GPU in channels-last memory format, its kernels made by `torch.compile`.

For `numerics: fast`. No CUDA graphs: Beam calls a worker's steps from changing threads, which they do not survive.
"""

import torch
from torch import Tensor, nn

from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.engines.agreement import disagreement, running, steepness_apart

_CLOSE = 1e-2
"""Largest difference of a probability; TF32 has ten bits of a number."""
_COSINE = 0.99


def prepare(classifier: Classifier) -> Classifier:
    """The same model, compiled when it is first asked.

    Raises:
        InputError: it cannot be had (on another device, of a network that torch cannot compile), or its answers or
            gradients are others.
    """
    if classifier.device.type != "cuda":
        raise InputError(f"compiled runs on a GPU, not on {classifier.device.type}; give torch")
    if not classifier.differentiable:
        return classifier
    with running("compiled", "torch"):
        other = Classifier(compiled(classifier.network), classifier.preprocessing)
        reason = disagreement(classifier, other, _CLOSE) or steepness_apart(classifier, other, _COSINE)
    if reason:
        raise InputError(f"compiled answers otherwise than torch: {reason}; give torch")
    return other


def compiled(network: nn.Module) -> nn.Module:
    """A network in evaluation mode, its weights shared, compiled for each shape of its input."""
    return _ChannelsLast(network)


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self._compiled = torch.compile(network, dynamic=False)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self._compiled(pictures.contiguous(memory_format=torch.channels_last))
        return logits
