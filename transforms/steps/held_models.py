"""Models as DoFns hold them: named and pinned when the graph is built, loaded at most once per worker process."""

from collections.abc import Mapping
from dataclasses import replace

from apache_beam.utils.shared import Shared

from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.device import torch_device
from transforms.models.engines.registry import Predictor, predicting
from transforms.models.pin import ModelPin
from transforms.models.sources.registry import model_source


class HeldModels:
    """The models of an experiment by name, each loaded when first asked for and shared by all DoFns of a process.

    So a run that adds one model to many loads one. `models[name]` has gradients, if any has; `models.target(name)` is
    for predictions, by the engine of its pin. Picklable: what is loaded stays behind.
    """

    def __init__(self, pins: Mapping[str, ModelPin], device: str) -> None:
        self._pins = dict(pins)
        self._device = device
        self._shared = {name: (Shared(), Shared()) for name in pins}
        self._loaded: dict[str, Classifier] = {}
        self._predicting: dict[str, Predictor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_loaded": {}, "_predicting": {}}

    def __getitem__(self, name: str) -> Classifier:
        """Raises InputError if the weights found here are not those that the run was started with."""
        if name not in self._loaded:
            self._loaded[name] = self._shared[name][0].acquire(lambda: self._load(name))
        return self._loaded[name]

    def target(self, name: str) -> Classifier:
        """The model as it predicts; raises InputError like `models[name]`, or where its engine cannot run it."""
        return self._predictor(name).classifier

    def engine(self, name: str) -> str:
        """The engine that predicts, where the pin leaves the choice to the model and the device; raises likewise."""
        return self._predictor(name).engine

    def _predictor(self, name: str) -> Predictor:
        if name not in self._predicting:
            self._predicting[name] = self._shared[name][1].acquire(lambda: self._prepare(name))
        return self._predicting[name]

    def _prepare(self, name: str) -> Predictor:
        # A network that nobody attacks is not kept beside the engine that took it over.
        classifier = self._loaded.get(name) or self._load(name)
        try:
            predictor = predicting(classifier, self._pins[name].engine)
        except InputError as error:
            raise InputError(f"models.{name}.engine: {error}") from None
        self._pins[name] = replace(self._pins[name], engine=predictor.engine)  # other processes choose no other
        if predictor.classifier is classifier:
            self._loaded[name] = self._shared[name][0].acquire(lambda: classifier)
        return predictor

    def _load(self, name: str) -> Classifier:
        pinned = self._pins[name]
        source = model_source(pinned.source, pinned.weights, pinned.preprocessing.keys())
        if source.digest() != pinned.weights_sha256:
            raise InputError(f"{source.weights}: not the weights of {source.name} that this run was started with")
        return source.load(torch_device(self._device))
