"""Rates, means and differences with their uncertainty. Counts or one value per image in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # reading a record needs none of it
    import numpy as np
    import numpy.typing as npt

_Z = NormalDist().inv_cdf(0.975)
FAR = 0.1
"""How far an accuracy may be from the published one, which is of other images, and of each network's own evaluation."""


@dataclass(frozen=True)
class Rate:
    """A share of successes, with Wilson's 95 % interval (Wilson 1927)."""

    successes: int
    of: int

    @property
    def low(self) -> float:
        return self.interval[0]

    @property
    def high(self) -> float:
        return self.interval[1]

    @cached_property
    def interval(self) -> tuple[float, float]:
        """(0, 1) without images."""
        if not self.of:
            return 0.0, 1.0
        rate, share = self.successes / self.of, _Z**2 / self.of
        middle = rate + share / 2
        half = sqrt(share * (rate * (1 - rate) + share / 4))
        # At the ends exactly, whatever rounding does.
        low = 0.0 if self.successes == 0 else (middle - half) / (1 + share)
        return low, 1.0 if self.successes == self.of else (middle + half) / (1 + share)

    def __str__(self) -> str:
        """As in `17/18 94% [74–99]`."""
        if not self.of:
            return "0/0"
        rate = 100 * self.successes / self.of
        return f"{self.successes}/{self.of} {rate:.0f}% [{100 * self.low:.0f}–{100 * self.high:.0f}]"


@dataclass(frozen=True)
class Mean:
    """A mean over images, with a 95 % interval; NaN without images, and the interval with fewer than two.

    The interval is the bootstrap's over images (BCa, Efron 1987), of 2,000 resamples from a fixed seed.
    """

    mean: float
    of: int
    low: float
    high: float

    @classmethod
    def over(cls, values: "npt.ArrayLike") -> Self:
        """Of one number per image: float (N,), finite."""
        import numpy as np  # noqa: PLC0415 - said above

        found = np.asarray(values, dtype=float)
        return cls(float(found.mean()) if len(found) else nan, len(found), *_bootstrapped(found))

    def __str__(self) -> str:
        """As in `0.53 [0.48, 0.57]`; of one image without an interval, of none `–`."""
        interval = f" [{self.low:.3g}, {self.high:.3g}]" if self.of > 1 else ""
        return f"{self.mean:.3g}{interval}" if self.of else "–"


@dataclass(frozen=True)
class Paired:
    """Two yes-or-no questions about the same images.

    Attributes:
        both, neither: images of which both are true, or none is.
        first, second: images of which only the one or only the other is true.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def of(self) -> int:
        """Images."""
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """The first share less the second, in [-1, 1]; NaN without images."""
        return (self.first - self.second) / self.of if self.of else float("nan")

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the exact McNemar test that the shares are equal (McNemar 1947)."""
        if not self.first + self.second:
            return 1.0
        from scipy.stats import binomtest  # noqa: PLC0415 - said above

        return float(binomtest(self.first, self.first + self.second).pvalue)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference: Wald's with half an image added to each of the four counts
        (Agresti & Min 2005, "Simple improved confidence intervals for comparing matched proportions")."""
        of, first, second = self.of + 2, self.first + 0.5, self.second + 0.5
        middle = (first - second) / of
        margin = _Z * sqrt(first + second - (first - second) ** 2 / of) / of
        return max(-1.0, middle - margin), min(1.0, middle + margin)


@dataclass(frozen=True)
class PairedMeans:
    """Two numbers for each of the same images.

    Attributes:
        of: images.
        means: of the first numbers, and of the second.
        interval: 95 %, of the difference of the means, as `Mean` has it.
        p_value: two-sided, of the permutation test that exchanges the two numbers of an image (Fisher 1935): of all
            exchanges up to 13 images, of 9,999 from a fixed seed beyond.
    """

    of: int
    means: tuple[float, float]
    interval: tuple[float, float]
    p_value: float

    @classmethod
    def over(cls, first: "npt.ArrayLike", second: "npt.ArrayLike") -> Self:
        """Of float (N,) and (N,), finite, in the same order of images; N at least 1."""
        import numpy as np  # noqa: PLC0415 - said above
        from scipy.stats import permutation_test  # noqa: PLC0415

        one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
        differences = one - other
        means = float(one.mean()), float(other.mean())
        if len(one) == 1 or not differences.any():  # either way all exchanges are as far from zero
            return cls(len(one), means, _bootstrapped(differences), 1.0)
        tested = permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=_PERMUTATIONS,
            **_sampled(10**7 // len(one)),
        )
        return cls(len(one), means, _bootstrapped(differences), float(tested.pvalue))

    @property
    def difference(self) -> float:
        """The first mean less the second."""
        return self.means[0] - self.means[1]


def paired(first: "npt.NDArray[Any]", second: "npt.NDArray[Any]") -> Paired | PairedMeans:
    """Compares two answers for each of the same images: `Paired` if they are bool (N,), `PairedMeans` of numbers."""
    if first.dtype != bool or second.dtype != bool:
        return PairedMeans.over(first, second)
    counts = (first & second, first & ~second, ~first & second, ~first & ~second)
    return Paired(*(int(each.sum()) for each in counts))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979): one below 0.05 keeps the chance of any false alarm among
    all of them below 5 %."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415 - takes more than a second

    return [float(each) for each in multipletests(p_values, method="holm")[1]]


def _bootstrapped(values: "npt.NDArray[np.float64]") -> tuple[float, float]:
    import numpy as np  # noqa: PLC0415 - said above
    from scipy.stats import bootstrap  # noqa: PLC0415

    if len(values) < 2:  # noqa: PLR2004 - a single image says nothing of others
        return nan, nan
    if (values == values[0]).all():
        return float(values[0]), float(values[0])
    found = bootstrap((values,), np.mean, n_resamples=_RESAMPLES, **_sampled(10**6 // len(values))).confidence_interval
    return float(found.low), float(found.high)


def _sampled(batch: int) -> dict[str, Any]:
    """Always the same samples, and so many of them in memory at once; which number is quick depends on the method."""
    import numpy as np  # noqa: PLC0415 - said above

    return {"rng": np.random.default_rng(0), "batch": max(1, batch), "vectorized": True}


_RESAMPLES, _PERMUTATIONS = 2000, 9999
