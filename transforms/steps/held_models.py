"""Models as DoFns hold them: named and pinned when the graph is built, loaded at most once per worker process."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from apache_beam.utils.shared import Shared

from transforms.attacks.spec import AttackSpec
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.device import Numerics, torch_device
from transforms.models.engines.registry import FOLLOWED, PREDICTING, Prepared, prepared
from transforms.models.pin import ModelPin
from transforms.models.sources.registry import model_source

_ENGINES = {"engine": PREDICTING, "gradients": FOLLOWED}
"""By the attribute of a pin that names one."""


class HeldModels:
    """The models of an experiment by name, each loaded when first asked for and shared by all DoFns of a process.

    So a run that adds one model to many loads one. `models[name]` has gradients, if any has; `models.target(name)` is
    for predictions; each is run by the engine of its pin. `models.surrogates(spec)` are those that an attack follows.
    Picklable: what is loaded stays behind.
    """

    def __init__(self, pins: Mapping[str, ModelPin], device: str, numerics: Numerics = "exact") -> None:
        self._pins = dict(pins)
        self._device = device
        self._numerics: Numerics = numerics
        self._shared = {(use, name): Shared() for name in pins for use in (*_ENGINES, "loaded")}
        self._held: dict[tuple[str, str], Prepared] = {}
        self._plain: dict[str, Classifier] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": {}, "_plain": {}}

    def __getitem__(self, name: str) -> Classifier:
        """The model as attacks follow it.

        Raises:
            InputError: the weights found here are not those that the run was started with, or its engine cannot run it.
        """
        return self._prepared("gradients", name).classifier

    def surrogates(self, spec: AttackSpec) -> list[Classifier]:
        """The models that an attack follows: as torch has loaded them if it needs their modules; raises InputError
        likewise."""
        return [self._as_loaded(name) if spec.plain else self[name] for name in spec.surrogates]

    def target(self, name: str) -> Classifier:
        """The model as it predicts; raises InputError likewise."""
        return self._prepared("engine", name).classifier

    def resolved(self, name: str, *, followed: bool) -> ModelPin:
        """The pin with the engine chosen that predicts and, where the model is followed, that whose gradients are.

        Raises:
            InputError: likewise.
        """
        self.target(name)
        if followed:
            self[name]
        return self._pins[name]

    def _prepared(self, use: str, name: str) -> Prepared:
        if (use, name) not in self._held:
            self._held[use, name] = self._shared[use, name].acquire(lambda: self._prepare(use, name))
        return self._held[use, name]

    def _prepare(self, use: str, name: str) -> Prepared:
        loaded = self._loaded(name)
        try:
            found = prepared(loaded, _ENGINES[use], getattr(self._pins[name], use), self._numerics)
        except InputError as error:
            raise InputError(f"models.{name}.{use}: {error}") from None
        resolved: dict[str, Any] = {use: found.engine}
        self._pins[name] = replace(self._pins[name], **resolved)  # other processes choose no other
        return found

    def _as_loaded(self, name: str) -> Classifier:
        if name not in self._plain:
            self._plain[name] = self._loaded(name)
        return self._plain[name]

    def _loaded(self, name: str) -> Classifier:
        # Shared, so that it is one where both are torch's; gone where engines have taken it over.
        loaded: Classifier = self._shared["loaded", name].acquire(lambda: self._load(name))
        return loaded

    def _load(self, name: str) -> Classifier:
        pinned = self._pins[name]
        source = model_source(pinned.source, pinned.weights, pinned.preprocessing.keys())
        if source.digest() != pinned.weights_sha256:
            raise InputError(f"{source.weights}: not the weights of {source.name} that this run was started with")
        return source.load(torch_device(self._device))
