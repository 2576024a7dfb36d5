"""Engines: what runs a network when it predicts. Gradients are always torch's.

Which engine predicts is a function of the model and the device alone. It is resolved once, and written into the record
of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.engines import onnxruntime_engine


def _as_loaded(classifier: Classifier) -> Classifier:
    return classifier


ENGINES: dict[str, Callable[[Classifier], Classifier]] = {
    "torch": _as_loaded,
    "onnxruntime": onnxruntime_engine.prepare,
}
"""Each prepares a classifier, or raises InputError where it cannot or where its answers differ from torch's."""


@dataclass(frozen=True)
class Predictor:
    """A classifier as it predicts, and the name of the engine that runs it."""

    engine: str
    classifier: Classifier


def predicting(classifier: Classifier, engine: str) -> Predictor:
    """Prepares a classifier for predictions.

    Args:
        engine: one of `ENGINES`; or auto, the quickest of them that agrees with torch.

    Raises:
        InputError: an engine that was named cannot run this network, or answers otherwise than torch.
    """
    if engine != "auto":
        return Predictor(engine, ENGINES[engine](classifier))
    try:
        return Predictor("onnxruntime", onnxruntime_engine.prepare(classifier))
    except InputError:
        return Predictor("torch", classifier)
