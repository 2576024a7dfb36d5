"""What attacks do inside surrogates: each recipe against a loop written from its paper.

The references work on one image at a time, in NumPy and double precision, with gradients by hand through a network of
three layers; what is random they take from the same keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.support.attacks import SHAPE, Deep, batch_of, deep, iterate, nearest, some_canvases, surrogates
from transforms.attacks.balls import BALLS
from transforms.randomness import Draws

STEPS, COUNT = 4, 4
EPS = {"linf": 12 / 255, "l2": 0.9}


@dataclass(frozen=True)
class Halves:
    """A `Deep` network, cut at its first layer: what is before it is called body, what follows head."""

    first: np.ndarray
    second: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, network: Deep) -> "Halves":
        return cls(*(each.detach().double().numpy() for each in network.weights))

    def features(self, values: np.ndarray) -> np.ndarray:
        return np.sin(self.first @ values.ravel())

    def logits(self, features: np.ndarray) -> np.ndarray:
        return self.last @ np.sin(self.second @ features)

    def by_features(self, features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The gradient of `wanted` @ logits."""
        return ((wanted @ self.last) * np.cos(self.second @ features)) @ self.second

    def by_pixels(self, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The gradient of `wanted` @ features."""
        return ((wanted * np.cos(self.first @ values.ravel())) @ self.first).reshape(values.shape)


@dataclass
class Naive:
    """One image under attack."""

    networks: list[Halves]
    clean: np.ndarray
    label: int
    target: int | None
    norm: str
    eps: float
    alpha: float
    draws: Draws

    def inside(self, step: int) -> Draws:
        return self.draws.at("restart", 0, "inside", step)

    def logit(self, logits: np.ndarray) -> np.ndarray:
        """The gradient by logits of the wanted one, or of the true one, negative."""
        wanted = np.zeros(len(logits))
        wanted[self.label if self.target is None else self.target] = -1 if self.target is None else 1
        return wanted

    def ascend(self, gradient: Callable[[np.ndarray, int], np.ndarray], decay: float = 1.0) -> np.ndarray:
        """MI-FGSM along a gradient (points, step)."""
        points, accumulated = self.clean, np.zeros(SHAPE)
        for step in range(STEPS):
            found = gradient(points, step)
            accumulated = decay * accumulated + found / abs(found).mean()
            direction = np.sign(accumulated) if self.norm == "linf" else accumulated / np.linalg.norm(accumulated)
            wanted = points + self.alpha * direction - self.clean
            points = self.clean + nearest(self.norm, wanted, self.eps, (-self.clean, 1 - self.clean))
        return points

    def along(self, weights: list[np.ndarray]) -> np.ndarray:
        """MI-FGSM along features times weights, of unit length, of each network; of several the mean."""

        def gradient(points: np.ndarray, _step: int) -> np.ndarray:
            pairs = zip(self.networks, weights, strict=True)
            return np.mean([each.by_pixels(points, w / np.linalg.norm(w)) for each, w in pairs], axis=0)

        return self.ascend(gradient)


def fia(image: Naive) -> np.ndarray:
    """Wang et al. 2021: the mean gradient of the true logit over pictures with holes, and down along it."""
    weights = []
    for network in image.networks:
        total = np.zeros(16)
        for number in range(3):
            mask = image.inside(0).at("mask", number).uniform(SHAPE, "kept")[0].numpy() >= 0.3
            features = network.features(image.clean * mask)
            total += network.by_features(features, image.logit(network.logits(features)))
        weights.append(total)
    return image.along(weights)


@dataclass(frozen=True)
class Case:
    run: Callable[[Naive], np.ndarray]
    parameters: dict[str, Any]


CASES = {
    "fia": Case(fia, {"ensemble_number": 3}),
}


def compared(name: str, norm: str, targets: list[int] | None, models: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Float canvases with which the recipe and its reference end."""
    case, canvases, labels = CASES[name], some_canvases(COUNT, seed=1), [0, 1, 2, 3]
    networks, eps = [deep(seed + 3) for seed in range(models)], EPS[norm]
    parameters = {"steps": STEPS, "alpha": eps / STEPS, **case.parameters}
    batch = batch_of(canvases, labels, targets)
    found = iterate(name.partition(",")[0], BALLS[norm](eps), surrogates(*networks), batch, **parameters)
    expected = [
        case.run(
            Naive(
                [Halves.of(each) for each in networks],
                canvases[number].double().numpy() / 255,
                labels[number],
                None if targets is None else targets[number],
                norm,
                eps,
                eps / STEPS,
                Draws(0, "attack", [f"image {number}"]),
            )
        )
        for number in range(COUNT)
    ]
    return found.double().numpy(), np.stack(expected)


@pytest.mark.parametrize(("targets", "models"), [(None, 1), ([3, 2, 0, 1], 1), (None, 2)])
@pytest.mark.parametrize("name", list(CASES))
def test_a_recipe_is_its_papers_algorithm(name: str, targets: list[int] | None, models: int) -> None:
    """In single precision a gradient next to zero may have the other sign, but not one in two hundred."""
    found, expected = compared(name, "linf", targets, models)
    assert (abs(found - expected) > 1e-5).mean() < 0.005
    assert abs(found - some_canvases(COUNT, seed=1).numpy() / 255).max() > 0.99 * EPS["linf"]
    assert np.allclose(*compared(name, "l2", targets, models), atol=1e-4)
