"""Outcomes: what each image says in each case, as SQL. Whatever counts, averages or compares starts from these rows."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from transforms.errors import unknown

Metric = Literal["success", "accuracy", "worst-of-n", "confidence", "label-confidence", "margin"]
Denominator = Literal["all", "clean-correct", "all-models-correct", "surrogate-fooled"]
Cases = Mapping[str, Sequence[str]]
"""For some of `KEYS` the values that are meant; a key that is absent stands for all of its values."""

KEYS = ("attack", "model", "view", "defense")
RATES = ("success", "accuracy", "worst-of-n")
"""Metrics whose values are true or false."""


def usual_denominator(metric: Metric) -> Denominator:
    """The denominator that a metric has if nobody names one."""
    return "clean-correct" if metric == "success" else "all"


def outcomes(metric: Metric, denominator: Denominator | None = None, cases: Cases | None = None) -> str:
    """A query for one row per image and case that a metric is about: image_id, the `KEYS`, through, value, counts.

    `value` is a truth value or a number, and `counts` says whether the image is among the denominator's.

    Args:
        metric, denominator: as `findings.measured` says.

    Raises:
        InputError: there is no such metric or denominator.
    """
    for kind, name, choices in (("metric", metric, Metric), ("denominator", denominator, Denominator)):
        if name is not None and name not in get_args(choices):
            raise unknown(kind, name, get_args(choices))
    conditions = [f"{key} in ({', '.join(map(quoted, values))})" for key, values in (cases or {}).items()]
    if metric == "success":
        conditions.append("attack <> 'none' and label is distinct from target")
    counts = _COUNTS[denominator or usual_denominator(metric)]
    where = " and ".join(conditions) or "true"
    return (
        f"select image_id, {', '.join(KEYS)}, through, {_VALUES[metric]} as value, {counts} as counts "  # noqa: S608 - quoted
        f"from answers where {where}"
    )


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


_COUNTS = {
    "all": "true",
    "clean-correct": "coalesce(clean_correct, false)",
    "all-models-correct": "coalesce(all_models_correct, false)",
    "surrogate-fooled": "coalesce(surrogates_fooled, false)",
}

_VALUES = {
    "success": "success",
    "accuracy": "correct",
    "worst-of-n": "correct and coalesce(agreement, 1) = 1",
    "confidence": "confidence",
    "label-confidence": "label_confidence",
    "margin": "margin",
}
