"""Engines: what runs a network when it predicts, and what runs it when an attack follows its gradients.

Each is a function of the model, the device and the numerics alone. It is resolved once, and written into the record of
the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.device import Numerics
from transforms.models.engines import compiled, fused, onnxruntime_engine

Engine = Callable[[Classifier], Classifier]
"""Prepares a classifier, or raises InputError where it cannot or where its answers differ from torch's."""


def _as_loaded(classifier: Classifier) -> Classifier:
    return classifier


PREDICTING: dict[str, Engine] = {
    "onnxruntime": onnxruntime_engine.prepare,
    "compiled": compiled.prepare,
    "torch": _as_loaded,
}
"""Engines for predictions, the quickest first."""

FOLLOWED: dict[str, Engine] = {"fused": fused.prepare, "compiled": compiled.prepare, "torch": _as_loaded}
"""Engines for gradients, the quickest first."""

_FAST = {"compiled"}
"""Engines that `numerics: exact` does not choose by itself."""


@dataclass(frozen=True)
class Prepared:
    """A classifier, and the name of the engine that runs it."""

    engine: str
    classifier: Classifier


def prepared(
    classifier: Classifier, engines: Mapping[str, Engine], engine: str, numerics: Numerics = "exact"
) -> Prepared:
    """Prepares a classifier.

    Args:
        engines: `PREDICTING` or `FOLLOWED`.
        engine: one of them; or auto, the quickest that agrees with torch.

    Raises:
        InputError: an engine that was named cannot run this network, or answers otherwise than torch.
    """
    if engine != "auto":
        return Prepared(engine, engines[engine](classifier))
    for name, prepare in engines.items():
        if numerics == "exact" and name in _FAST:
            continue
        try:
            return Prepared(name, prepare(classifier))
        except InputError:
            continue
    raise AssertionError("torch runs what torch has loaded")
