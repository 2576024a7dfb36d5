"""Randomised smoothing: noise, votes, and what can be certified of them (Cohen et al. 2019, arXiv:1902.02918)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from transforms.defenses.eight_bit import up_to_white
from transforms.defenses.randomized import noise
from transforms.errors import InputError
from transforms.randomness import Draws

SMOOTHING = "smoothing"


def smoothing(canvases: Tensor, draws: Draws, *, sigma: float, samples: int, alpha: float) -> Tensor:
    """Randomised smoothing: one of `samples` canvases with Gaussian noise, whose votes are counted.

    The noise is added to the canvas and the sum clipped and rounded to 8 bits. Clipping, rounding and whatever follows
    belong to the base classifier, a function of the unclipped sum; so the certificate holds for the whole.

    Args:
        sigma: standard deviation, in the unit of [0, 1] pixels, > 0.
        samples: noisy canvases to draw in all, enough to tell anything at that alpha.
        alpha: probability, in (0, 1), of a wrong answer.

    Raises:
        InputError: a parameter out of its range.
    """
    Smoothing(sigma, samples, alpha)
    return noise(canvases, draws, sigma=sigma)


@dataclass(frozen=True)
class Certified:
    """What votes say of N images.

    Attributes:
        predicted: int64 (N,), the class with the most votes; of equal ones the lowest.
        abstained: bool (N,), where the votes do not tell that it is the most probable one.
        radius: float64 (N,), L2 in the unit of [0, 1] pixels: no perturbation below it changes the smoothed
            classifier's answer. 0 where nothing is certified, always so where it abstained.
    """

    predicted: NDArray[np.int64]
    abstained: NDArray[np.bool_]
    radius: NDArray[np.float64]


@dataclass(frozen=True)
class Smoothing:
    """The parameters of `smoothing`; raises InputError for one out of its range."""

    sigma: float
    samples: int
    alpha: float

    def __post_init__(self) -> None:
        up_to_white("smoothing: sigma", self.sigma)
        if not 0 < self.alpha < 1:
            raise InputError(f"smoothing: alpha {self.alpha} is not in (0, 1)")
        least = int(np.log2(2 / self.alpha)) + 1
        if self.samples < least:
            raise InputError(f"smoothing: {self.samples} samples tell nothing at alpha {self.alpha}; {least} do")

    def certify(self, choices: NDArray[np.int64]) -> Certified:
        """The smoothed classifier's answer and its certified radius, each wrong with probability alpha or less.

        The answer is PREDICT of the paper: the two classes with the most votes are compared by a two-sided binomial
        test. The radius is that of CERTIFY, sigma * Phi^-1(p), where p is a lower confidence bound (Clopper & Pearson
        1934) of the probability of the class, if that is above 1/2. The paper chooses the class by separate samples and
        takes the bound at alpha. Here the same votes choose, all of them count, and the bound is taken at alpha / 2.
        That suffices. Let b be the least number of n votes whose bound is above 1/2, and F(q) = P(Binomial(n, q) >= b),
        so F(1/2) <= alpha / 2. As b > n / 2, F is convex on [0, 1/2], and F(0) = 0, so F(q) <= 2 q F(1/2) <= q alpha.
        A certificate is wrong if its class has probability q <= 1/2, or if it is the one class above 1/2 and its bound
        is too high. If there is no class above 1/2, the first happens with probability sum of F(q) <= alpha. If there
        is one, the others share at most 1/2, so the first happens with alpha / 2 or less, and so does the second.

        Args:
            choices: int64 (samples, N), the class that the base classifier chose for each noisy canvas.
        """
        from scipy import stats  # noqa: PLC0415 - takes two seconds, and most runs need none

        votes = np.stack([np.bincount(each, minlength=max(2, choices.max() + 1)) for each in choices.T])
        order = np.argsort(-votes, axis=1, kind="stable")
        first, second = np.take_along_axis(votes, order[:, :2], axis=1).T
        doubt = 2 * stats.binom.sf(first - 1, first + second, 0.5)
        lower = stats.beta.ppf(self.alpha / 2, first, len(choices) - first + 1)
        radius = self.sigma * stats.norm.ppf(np.maximum(lower, 0.5))
        return Certified(order[:, 0], doubt > self.alpha, radius)
