"""Rates and differences with their uncertainty. Counts in, numbers out."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Rate:
    """A share of successes, with Wilson's 95 % interval (Wilson 1927)."""

    successes: int
    of: int

    @property
    def low(self) -> float:
        return self._interval()[0]

    @property
    def high(self) -> float:
        return self._interval()[1]

    def _interval(self) -> tuple[float, float]:
        if not self.of:
            return 0.0, 1.0
        from scipy.stats import binomtest  # noqa: PLC0415 - takes a second, and queries need none

        interval = binomtest(self.successes, self.of).proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def __str__(self) -> str:
        """As in `17/18 94% [74–99]`."""
        if not self.of:
            return "0/0"
        rate = 100 * self.successes / self.of
        return f"{self.successes}/{self.of} {rate:.0f}% [{100 * self.low:.0f}–{100 * self.high:.0f}]"


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
