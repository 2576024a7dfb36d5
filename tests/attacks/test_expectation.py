"""Random parts in expectation: each against a loop that is written from its paper and draws its own numbers.

`test_estimators.py` gives both the same draws, and so cannot see whether these are drawn as they should be.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.support.attacks import (
    POOL,
    POOL_LABELS,
    SHAPE,
    SIDE,
    Twin,
    batch_of,
    bent,
    grid_shuffle,
    in_proportion,
    some_canvases,
    surrogates,
)
from transforms.attacks.gradients import Gradients
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.parts.transformations import BlockShuffle, MixMask
from transforms.attacks.protocol import Transformation

IMAGES = 4
COPIES = 600
NETWORK = bent(7)

Sampled = Callable[[np.random.Generator, Twin, np.ndarray, int], np.ndarray]
"""The gradient of one copy: (random numbers, network, canvas in [0, 1], label) -> like the canvas."""


def block_shuffle(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Wang et al. 2024 as in the authors' code: a grid, permuted, and angles of 0.2 radians cut off at twice that."""
    lengths = [in_proportion(rng.uniform(size=2), SIDE) for _ in range(2)]
    angles = rng.normal(0, 0.2, (2, 2))
    while (outside := abs(angles) > 0.4).any():
        angles[outside] = rng.normal(0, 0.2, outside.sum())
    matrix = grid_shuffle(lengths, [rng.permutation(2).tolist() for _ in range(2)], angles)
    seen = (canvas.reshape(3, -1) @ matrix.T).reshape(SHAPE)
    return (twin.gradient(seen, label).reshape(3, -1) @ matrix).reshape(SHAPE)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one.ravel() @ other.ravel() / np.linalg.norm(one) / np.linalg.norm(other))


def agreement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """How alike two means are, each given twice from draws of its own: the cosine across over those within."""
    across = np.mean([cosine(one, other) for one in ours for other in theirs])
    return float(across / math.sqrt(cosine(*ours) * cosine(*theirs)))


def mix_mask(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Wang et al. 2023: one of five factors, and a mask of a picture of another class."""
    others = [each for each in range(len(POOL)) if POOL_LABELS[each] != label]
    mask = 0.5 + POOL[rng.choice(others)].double().numpy() / 255
    return twin.gradient(np.clip(canvas * rng.choice([0.1, 0.2625, 0.425, 0.5875, 0.75]) * mask, 0, 1), label)


CASES: dict[str, tuple[Transformation, Sampled]] = {
    "bsr": (BlockShuffle(COPIES, 2, math.degrees(0.4)), block_shuffle),
    "usmm": (MixMask(0.1, 0.75, 5, COPIES // 5, 0.5), mix_mask),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_mean_gradient_of_copies_is_that_of_the_paper(name: str) -> None:
    transformation, sampled = CASES[name]
    canvases, labels, twin, rng = (
        some_canvases(IMAGES, seed=5),
        [0, 1, 2, 3],
        Twin.of(NETWORK),
        np.random.default_rng(0),
    )
    batch = batch_of(canvases, labels)
    gradients = Gradients(surrogates(NETWORK), cross_entropy, batch, (transformation,))
    ours = [gradients.at(batch.clean, batch.draws.at(half)).double().numpy() for half in range(2)]
    for image, label in enumerate(labels):
        canvas = canvases[image].double().numpy() / 255
        theirs = [np.mean([sampled(rng, twin, canvas, label) for _ in range(COPIES)], axis=0) for _ in range(2)]
        assert agreement([each[image] for each in ours], theirs) == pytest.approx(1, abs=0.015)
