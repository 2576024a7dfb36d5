"""Random parts in expectation: each against a loop that is written from its paper and draws its own numbers.

`test_estimators.py` gives both the same draws, and so cannot see whether these are drawn as they should be.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import fft

from tests.support.attacks import (
    POOL,
    POOL_LABELS,
    SHAPE,
    SIDE,
    Twin,
    Warp,
    batch_of,
    bent,
    by_matrix,
    enlarging,
    grid_shuffle,
    in_proportion,
    of_l2t,
    operator_matrix,
    some_canvases,
    surrogates,
    turning,
)
from transforms.attacks.gradients import Gradients
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.parts.integrated import IntegratedGradients
from transforms.attacks.parts.learning import LearntOperations
from transforms.attacks.parts.operators import OperatorSequences
from transforms.attacks.parts.transformations import (
    BlockShuffle,
    DiverseInput,
    MixedFrequencies,
    MixMask,
    SpectrumSimulation,
)
from transforms.attacks.parts.warping import ConstrainedWarping
from transforms.attacks.protocol import Batch, Transformation
from transforms.randomness import Draws

IMAGES = 2
COPIES = 400
NETWORK = bent(7)

Part = Transformation | IntegratedGradients | ConstrainedWarping | LearntOperations
Sampled = Callable[[np.random.Generator, Twin, np.ndarray, int], np.ndarray]
"""The gradient of one copy: (random numbers, network, canvas in [0, 1], label) -> like the canvas."""


def diverse(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Xie et al. 2019: half of the time enlarged, put on black and resized back."""
    matrix = np.kron(*enlarging(SIDE, 1.5, rng.random(3).tolist())) if rng.random() < 0.5 else np.eye(SIDE**2)
    return by_matrix(matrix.T, twin.gradient(by_matrix(matrix, canvas), label))


def spectrum(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Long et al. 2022: noise, and coefficients multiplied by 0.5 to 1.5; the gradient is that at the copy."""
    coefficients = fft.dctn(canvas + rng.normal(0, 0.05, SHAPE), axes=(-2, -1), norm="ortho")
    seen = fft.idctn(coefficients * rng.uniform(0.5, 1.5, SHAPE), axes=(-2, -1), norm="ortho")
    return twin.gradient(seen, label)


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


def operators(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Guo et al. 2025: two to four of 31 operators, drawn with replacement."""
    matrix = np.eye(SIDE**2)
    for which in rng.integers(31, size=rng.integers(2, 5)).tolist():
        matrix = operator_matrix(which, rng.random(3).tolist()) @ matrix
    return by_matrix(matrix.T, twin.gradient(by_matrix(matrix, canvas), label))


def integrated(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Ren et al. 2025: a diverse input, or a shift, a flip, or a turn; channels of two values, 0.65 of the way."""
    if rng.random() < 0.5:
        matrix = np.kron(*enlarging(SIDE, 245 / 224, rng.random(3).tolist()))
    elif which := int(rng.integers(5)):
        matrix = operator_matrix(which, rng.random(3).tolist())
    else:
        matrix = turning(SIDE, SIDE, math.radians(rng.uniform(-45, 45)))
    seen = by_matrix(matrix, canvas)
    low, high = (end(seen, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
    cut = rng.uniform(low, high)
    way = seen - np.where(seen < cut, low, cut)
    return 0.65 * by_matrix(matrix.T, twin.gradient(seen - 0.35 * way, label)) * way


def warping(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Lin et al. 2024: the middle of nine points moves by up to a half side, then 0.01 against the slope."""
    move = rng.uniform(-1, 1, 2)
    warp = Warp(move)
    matrix, down, across = warp.matrices()
    gradient = twin.gradient(by_matrix(matrix, canvas), label)
    slope = [
        (gradient * by_matrix(each, canvas)).sum(axis=0).ravel() @ warp.share * SIDE / 2 for each in (across, down)
    ]
    matrix, *_ = Warp(move - 0.01 * np.array(slope)).matrices()
    return by_matrix(matrix.T, twin.gradient(by_matrix(matrix, canvas), label))


def another(rng: np.random.Generator, label: int) -> np.ndarray:
    others = [each for each in range(len(POOL)) if POOL_LABELS[each] != label]
    return POOL[rng.choice(others)].double().numpy() / 255


def mixed_frequencies(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Qian et al. 2024 as in TransferAttack: high frequencies at a random share between both pictures, and noise."""
    places = np.fft.fftfreq(SIDE, 1 / SIDE)
    low = 1 / (1 + np.exp((np.hypot(places[:, None], places) - 3) / 10))
    own = low + rng.random() * (1 - low)
    spectrum = np.fft.fft2(canvas) * own + np.fft.fft2(another(rng, label)) * (1 - own)
    seen = np.fft.ifft2(spectrum).real + rng.normal(0, 32 / 255, SHAPE)
    return np.fft.ifft2(np.fft.fft2(twin.gradient(seen, label)) * own).real


class Free:
    """Random numbers without names."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def uniform(self, shape: tuple[int, ...], name: str) -> np.ndarray:
        return self.rng.random(shape)

    def normal(self, shape: tuple[int, ...], name: str) -> np.ndarray:
        return self.rng.normal(size=shape)

    def integers(self, below: int, count: int, name: str) -> list[int]:
        return self.rng.integers(below, size=count).tolist()

    def permutation(self, size: int, name: str) -> list[int]:
        return self.rng.permutation(size).tolist()

    def at(self, *path: object) -> "Free":
        return self


def all_copies(rng: np.random.Generator, twin: Twin, canvas: np.ndarray, label: int) -> np.ndarray:
    """Zhu et al. 2024, one operation of the first policy: the mean over all copies that the authors' code makes."""
    which, copies, number, gradients = int(rng.integers(98)), [1], 0, []

    def copy(count: int) -> int:
        copies[0] = count
        return number

    while number < copies[0]:
        seen, back = of_l2t(which, canvas, another(rng, label), Free(rng), copy)
        gradients.append(back(twin.gradient(seen, label)))
        number += 1
    return np.mean(gradients, axis=0)


CASES: dict[str, tuple[Part, Sampled]] = {
    "di": (DiverseInput(1.5, 0.5), diverse),
    "ssa": (SpectrumSimulation(COPIES, 0.05, 0.5), spectrum),
    "bsr": (BlockShuffle(COPIES, 2, math.degrees(0.4)), block_shuffle),
    "usmm": (MixMask(0.1, 0.75, 5, COPIES // 5, 0.5), mix_mask),
    "ops": (OperatorSequences(COPIES), operators),
    "mumodig": (IntegratedGradients(COPIES, 1, 1, 2, 0.65), integrated),
    "mfi": (MixedFrequencies(COPIES, 3.0, 32 / 255, "soft"), mixed_frequencies),
    "l2t": (LearntOperations(COPIES, 1, 0.0), all_copies),
    "decowa": (ConstrainedWarping(COPIES, 3, 2.0, 0.01), warping),
}


def averaged(part: Part, batch: Batch, draws: Draws) -> np.ndarray:
    gradients = Gradients(surrogates(NETWORK), cross_entropy, batch)
    if isinstance(part, IntegratedGradients | ConstrainedWarping | LearntOperations):
        return part.begin()(gradients, batch.clean, batch.clean, draws).double().numpy()
    drawn = replace(gradients, transformations=(part,), eot=COPIES // part.copies)
    return drawn.at(batch.clean, draws).double().numpy()


@pytest.mark.parametrize("name", list(CASES))
def test_the_mean_gradient_of_copies_is_that_of_the_paper(name: str) -> None:
    part, sampled = CASES[name]
    canvases, labels, twin = some_canvases(IMAGES, seed=5), list(range(IMAGES)), Twin.of(NETWORK)
    batch, rng = batch_of(canvases, labels), np.random.default_rng(0)
    ours = [averaged(part, batch, batch.draws.at(half)) for half in range(2)]
    for image, label in enumerate(labels):
        canvas = canvases[image].double().numpy() / 255
        theirs = [np.mean([sampled(rng, twin, canvas, label) for _ in range(COPIES)], axis=0) for _ in range(2)]
        assert agreement([each[image] for each in ours], theirs) == pytest.approx(1, abs=0.015)
