"""Rates with their uncertainty."""

from dataclasses import dataclass


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
