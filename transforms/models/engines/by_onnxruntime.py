"""Black boxes: a network whose gradients nobody follows is run by ONNX Runtime, which says the same in less time."""

import io
import warnings
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.models.classifier import Classifier
from transforms.models.sources.from_onnx import Pictures, Session

_EXPORTING = Lock()
"""torch's tracing has one state for all threads."""
_AGREEMENT = 1e-4
_PROBES = 8


def as_black_box(classifier: Classifier) -> Classifier:
    """The same model for predictions alone.

    Returns:
        One without gradients, run by ONNX Runtime on one thread of a CPU, of which labels of some pictures are the same
        and probabilities within 1e-4; or, where it cannot be had (another device, a network that torch cannot export)
        or says something else, `classifier` as it is.
    """
    if classifier.device.type != "cpu" or not classifier.differentiable:
        return classifier
    side = classifier.preprocessing.input_size
    try:
        session = Session(_exported(classifier, side), classifier.device, Pictures(None, side, channels_first=True))
    except Exception:  # torch exports most networks, and says in many ways that it does not
        return classifier
    other = Classifier(session, classifier.preprocessing, differentiable=False)
    return other if _agree(classifier, other, _probes(side)) else classifier


def _exported(classifier: Classifier, side: int) -> bytes:
    file: Any = io.BytesIO()  # which torch takes, though its types deny it
    with _EXPORTING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # By tracing: the newer exporter takes as long as hundreds of predictions.
        torch.onnx.export(
            classifier.network,
            (torch.zeros(2, 3, side, side),),
            file,
            dynamo=False,
            input_names=["pictures"],
            output_names=["logits"],
            dynamic_axes={"pictures": {0: "batch"}, "logits": {0: "batch"}},
        )
    exported: bytes = file.getvalue()
    return exported


def _probes(side: int) -> Tensor:
    """Pictures of soft random shapes, float (B, 3, side, side) in [0, 1]."""
    shapes = torch.rand(_PROBES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(shapes, size=(side, side), mode="bicubic").clamp(0, 1)


def _agree(one: Classifier, other: Classifier, windows: Tensor) -> bool:
    with torch.inference_mode():
        first, second = (each(windows).softmax(dim=1) for each in (one, other))
    same = torch.equal(first.argmax(dim=1), second.argmax(dim=1))
    return same and bool((first - second).abs().max() <= _AGREEMENT)
