"""Models as DoFns hold them: named and pinned when the graph is built, loaded at most once per worker process."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import torch
from apache_beam.utils.shared import Shared

from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.device import prepare_torch, torch_device
from transforms.models.engines.by_onnxruntime import as_black_box
from transforms.models.pin import ModelPin
from transforms.models.sources.registry import model_source


class HeldModels:
    """The models of an experiment by name, each loaded when first asked for and shared by all DoFns of a process.

    So a run that adds one model to many loads one. `models[name]` has gradients, if any has; `models.target(name)` is
    for predictions. Picklable: what is loaded stays behind.
    """

    def __init__(self, pins: Mapping[str, ModelPin], device: str) -> None:
        self._pins = dict(pins)
        self._device = device
        self._shared = {(name, target): Shared() for name in pins for target in (False, True)}
        self._loaded: dict[tuple[str, bool], Classifier] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_loaded": {}}

    @property
    def device(self) -> torch.device:
        """Where the models are; raises InputError if it is not there."""
        return torch_device(self._device)

    def __getitem__(self, name: str) -> Classifier:
        """Raises InputError if the weights found here are not those that the run was started with."""
        return self._held(name, target=False)

    def target(self, name: str) -> Classifier:
        """The model as it predicts; raises InputError like `models[name]`."""
        return self._held(name, target=self._pins[name].black_box)

    def _held(self, name: str, *, target: bool) -> Classifier:
        key = (name, target)
        if key not in self._loaded:
            self._loaded[key] = self._shared[key].acquire(partial(self._load, self._pins[name], black_box=target))
        return self._loaded[key]

    def _load(self, pinned: ModelPin, *, black_box: bool) -> Classifier:
        prepare_torch()
        source = model_source(pinned.source, pinned.weights, asdict(pinned.preprocessing))
        if source.digest() != pinned.weights_sha256:
            raise InputError(f"{source.weights}: not the weights of {source.name} that this run was started with")
        loaded = source.load(self.device)
        return as_black_box(loaded) if black_box else loaded
