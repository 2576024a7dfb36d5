"""Outcomes: what attacks and models hand over to become rows. NumPy arrays alone, so that rows need no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.data.pixels import Pixels

TOP = 5
"""Most probable classes that a prediction names."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack made of N images.

    Attributes:
        canvases: uint8 (N, 3, S, S).
        norms: float (N,), the smallest adversarial perturbation found by a minimal-norm attack, infinite where there
            was none; NaN for attacks of a fixed budget.
        measured: float (N, columns), of the columns that the attack measures itself, in their order.
        finite: bool (N,); where False an answer was not finite, or a gradient was not and the goal was not reached: the
            canvas means nothing.
        forwards, backwards: int64 (N,), passes of one network over one window that the attack took.
        queries: int64 (N,), how often the attack asked its victim.
        clean, adversarial: float32 (N, classes), the fused surrogates' probabilities for the stored canvases; no
            classes where there are no surrogates.
        targets: int64 (N,), the classes that were wanted; None where any wrong one would do.
    """

    canvases: Pixels
    norms: NDArray[np.floating]
    measured: NDArray[np.floating]
    finite: NDArray[np.bool_]
    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]
    queries: NDArray[np.int64]
    clean: NDArray[np.float32]
    adversarial: NDArray[np.float32]
    targets: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Answered:
    """What a model says of N images, averaged over the draws of a random defence; a single one where nothing is random.

    Attributes:
        log_probabilities: natural logarithms, float32 (N, classes).
        probabilities: float32 (N, classes).
        top: int64 (N, TOP), the most probable classes, the first one first.
        label_confidence_std: float32 (N,), standard deviation of the label's probability over the draws; None for one.
        choices: int64 (draws, N), the most probable class of each draw.
        finite: bool (N,); where False an answer was not a number, and there is none.
    """

    log_probabilities: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    top: NDArray[np.int64]
    label_confidence_std: NDArray[np.float32] | None
    choices: NDArray[np.int64]
    finite: NDArray[np.bool_]
