"""Comparisons: A against B on the same images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.results.statistics import Paired
from transforms.errors import InputError

if TYPE_CHECKING:
    from pipeline.results.tables import Run

KEYS = ("attack", "model", "view", "defense")


def compared(run: "Run", one: Mapping[str, str], other: Mapping[str, str]) -> Paired:
    """How often a model is right in one case and in another, on the images that have a row of both.

    Args:
        one, other: a value of each of `KEYS`, such as {"attack": "mi", "model": "r50", "view": "center",
            "defense": "none"}.

    Raises:
        InputError: a key lacks or is unknown, or no image has a row of both.
    """
    for case in (one, other):
        if set(case) != set(KEYS):
            raise InputError(f"compare: give {', '.join(KEYS)} of each case, not {', '.join(case) or 'nothing'}")
    counts = run.rows(_COMPARED.format(one=_where(one), other=_where(other)))[1][0]
    if not sum(counts):
        raise InputError(f"compare: no image has a row of both {_named(one)} and {_named(other)}")
    return Paired(*counts)


def _where(case: Mapping[str, str]) -> str:
    return " and ".join(f"{key} = '{value.replace(chr(39), chr(39) * 2)}'" for key, value in case.items())


def _named(case: Mapping[str, str]) -> str:
    return " ".join(case[key] for key in KEYS)


_COMPARED = """
select count(*) filter (one.correct and other.correct), count(*) filter (one.correct and not other.correct),
       count(*) filter (not one.correct and other.correct), count(*) filter (not one.correct and not other.correct)
from (select image_id, correct from predictions where {one}) as one
join (select image_id, correct from predictions where {other}) as other using (image_id)
"""
