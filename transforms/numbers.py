"""Numbers as a user writes them."""

import re
from fractions import Fraction

from transforms.errors import InputError

# Bounded, because Fraction("1e999999999") is exact, and fills the memory.
_DECIMAL = r"\d{0,20}\.?\d{1,20}"
_NUMBER = re.compile(rf"([-+]?{_DECIMAL})/(\d{{1,20}})|[-+]?{_DECIMAL}([eE][-+]?\d{{1,3}})?")


def parse_ratio(value: object) -> Fraction:
    """A number as a user writes it: `0.03`, `2`, or a fraction such as `8/255`; raises InputError for anything else."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
            raise ValueError
        # The decimal that was written, not its binary neighbour.
        number = _fraction(repr(value) if isinstance(value, float) else value)
        float(number)
        return number
    except (ValueError, ArithmeticError):
        raise InputError(f"{value!r} is not a number such as 0.03 or 8/255") from None


def _fraction(value: int | str | Fraction) -> Fraction:
    if not isinstance(value, str):
        return Fraction(value)
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise ValueError
    numerator, denominator = match[1], match[2]
    return Fraction(numerator) / int(denominator) if denominator else Fraction(value)
