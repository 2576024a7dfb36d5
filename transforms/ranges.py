"""Ranges of parameters: each function raises InputError, in one line that names the first parameter outside its range.

NaN is outside every range.
"""

from transforms.errors import InputError


def at_least(least: float, **parameters: float) -> None:
    """Raises InputError for the first parameter that is smaller."""
    for name, value in parameters.items():
        if not value >= least:
            raise InputError(f"{name}: {value} is not at least {least}")


def above(bound: float, **parameters: float) -> None:
    """Raises InputError for the first parameter that is not larger."""
    for name, value in parameters.items():
        if not value > bound:
            raise InputError(f"{name}: {value} is not above {bound}")


def within(interval: str, **parameters: float) -> None:
    """Raises InputError for the first parameter outside an interval, such as "(0, 1]", which excludes 0."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in parameters.items():
        ends = {"(": low, ")": high}
        if not low <= value <= high or value in (ends.get(interval[0]), ends.get(interval[-1])):
            raise InputError(f"{name}: {value} is not in {interval}")


def odd(**parameters: int) -> None:
    """Raises InputError for the first parameter that is not the side of a square with a pixel in its middle."""
    for name, value in parameters.items():
        if value < 3 or value % 2 == 0:  # noqa: PLR2004 - 1 has no neighbours
            raise InputError(f"{name}: {value} is not odd and at least 3")
