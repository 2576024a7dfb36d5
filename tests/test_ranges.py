"""What attacks' parameters may be, by the functions that refuse the others."""

import math
from collections.abc import Callable

import pytest

from transforms.errors import InputError
from transforms.ranges import above, at_least, odd, within


@pytest.mark.parametrize(
    ("check", "right", "wrong", "said"),
    [
        (lambda x: at_least(2, x=x), [2, 3, math.inf], [1, -5, math.nan], "at least 2"),
        (lambda x: above(0, x=x), [0.1, 5], [0, -0.1, math.nan], "above 0"),
        (lambda x: within("(0, 1)", x=x), [0.1, 0.9], [0, 1, -1, 2, math.nan], r"in \(0, 1\)"),
        (lambda x: within("[0, 1)", x=x), [0, 0.9], [1, -0.1, math.nan], r"in \[0, 1\)"),
        (lambda x: within("(0, 1]", x=x), [0.1, 1], [0, 1.1, math.nan], r"in \(0, 1\]"),
        (lambda x: within("[-1, 1]", x=x), [-1, 0, 1], [-1.1, 1.1, math.nan], r"in \[-1, 1\]"),
        (lambda x: odd(x=x), [3, 15], [1, 4, -3], "odd and at least 3"),
    ],
)
def test_what_is_refused(check: Callable[[float], None], right: list[float], wrong: list[float], said: str) -> None:
    for value in right:
        check(value)
    for value in wrong:
        with pytest.raises(InputError, match=rf"\Ax: {value} is not {said}\Z"):
            check(value)
