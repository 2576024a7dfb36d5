"""ONNX Runtime: predictions on one thread of a CPU, in about half of torch's time, without gradients."""

import io
import warnings
from threading import Lock
from typing import Any

import torch

from transforms.errors import InputError, said_by
from transforms.models.classifier import Classifier
from transforms.models.engines.agreement import disagreement
from transforms.models.sources.from_onnx import Pictures, Session

_EXPORTING = Lock()
"""torch's tracing has one state for all threads."""


def prepare(classifier: Classifier) -> Classifier:
    """The same model for predictions alone.

    Raises:
        InputError: it cannot be had (on another device, of a network that torch cannot export) or answers otherwise.
    """
    if not classifier.differentiable:
        return classifier  # an ONNX file, which ONNX Runtime runs already
    if classifier.device.type != "cpu":
        raise InputError(f"onnxruntime predicts on a CPU here, not on {classifier.device.type}; give engine: torch")
    side = classifier.preprocessing.input_size
    try:
        session = Session(_exported(classifier, side), classifier.device, Pictures(None, side, channels_first=True))
    except Exception as error:  # torch exports most networks, and says in many ways that it does not
        raise InputError(f"onnxruntime cannot run this network ({said_by(error)}); give engine: torch") from None
    other = Classifier(session, classifier.preprocessing, differentiable=False)
    if reason := disagreement(classifier, other):
        raise InputError(f"onnxruntime answers otherwise than torch: {reason}; give engine: torch")
    return other


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
