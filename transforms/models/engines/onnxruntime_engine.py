"""ONNX Runtime: predictions on one thread of a CPU, in about half of torch's time, without gradients.

To export a network and to compare its answers takes longer than to load it, so both are done once: the cache folder
keeps what agreed, under all that it depends on.
"""

import io
import warnings
from typing import Any

import torch

from transforms import cache
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.engines.agreement import disagreement, running
from transforms.models.engines.identity import TRACING, example, identity
from transforms.models.sources.from_onnx import Pictures, Session


def prepare(classifier: Classifier) -> Classifier:
    """The same model for predictions alone.

    Raises:
        InputError: it cannot be had (on another device, of a network that torch cannot export) or answers otherwise.
    """
    if not classifier.differentiable:
        return classifier  # an ONNX file, which ONNX Runtime runs already
    if classifier.device.type != "cpu":
        raise InputError(f"onnxruntime predicts on a CPU here, not on {classifier.device.type}; give engine: torch")
    with running("onnxruntime", "engine: torch"):
        kept = f"onnx/{identity(classifier)}.onnx"
        known = cache.read(kept)
        exported = known or _exported(classifier)
        pictures = Pictures(None, classifier.preprocessing.input_size, channels_first=True)
        session = Session(exported, classifier.device, pictures)
    other = Classifier(session, classifier.preprocessing, differentiable=False)
    if known:
        return other
    if reason := disagreement(classifier, other):
        raise InputError(f"onnxruntime answers otherwise than torch: {reason}; give engine: torch")
    cache.write(kept, exported)
    return other


def _exported(classifier: Classifier) -> bytes:
    file: Any = io.BytesIO()  # which torch takes, though its types deny it
    with TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # By tracing: the newer exporter takes as long as hundreds of predictions.
        torch.onnx.export(
            classifier.network,
            (example(classifier),),
            file,
            dynamo=False,
            input_names=["pictures"],
            output_names=["logits"],
            dynamic_axes={"pictures": {0: "batch"}, "logits": {0: "batch"}},
        )
    exported: bytes = file.getvalue()
    return exported
