"""Agreement: whether another engine answers as torch does."""

import torch

from transforms.models.classifier import Classifier
from transforms.models.probes import probes

AGREEMENT = 1e-4
"""Largest difference of a probability."""
_PROBES = 8


def disagreement(plain: Classifier, other: Classifier) -> str | None:
    """In what another engine's answers to some probes differ from torch's, in words; None where they agree.

    They agree if all labels are the same, and no probability differs by more than 1e-4.
    """
    windows = probes(_PROBES, plain.preprocessing.input_size)
    with torch.inference_mode():
        first, second = (each(windows).softmax(dim=1) for each in (plain, other))
    labels = int((first.argmax(dim=1) != second.argmax(dim=1)).sum())
    farthest = float((first - second).abs().max())
    if labels:
        return f"{labels} of {_PROBES} labels differ"
    return None if farthest <= AGREEMENT else f"probabilities differ by up to {farthest:.2g}"
