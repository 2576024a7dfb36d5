"""Outcomes: what each image says in each case, as SQL. Whatever counts, averages or compares starts from these rows."""

from collections.abc import Mapping, Sequence

from transforms.errors import unknown

METRICS = {
    "success": "Attack success",
    "accuracy": "Accuracy",
    "worst-of-n": "Accuracy in the worst repeat of a random defence",
    "confidence": "Mean confidence of the answer",
    "label-confidence": "Mean confidence in the true class",
    "margin": "Mean margin, log p(label) less log p(most probable other class)",
}
RATES = ("success", "accuracy", "worst-of-n")
"""Metrics whose values are true or false."""

DENOMINATORS = {
    "all": "of all images",
    "clean-correct": "of the images that the model gets right when clean and undefended",
    "all-models-correct": "of the images that all of {models} get right when clean and undefended",
    "surrogate-fooled": "of the images on which the attack succeeds on its surrogates",
}

Cases = Mapping[str, Sequence[str]]
"""For some of `KEYS` the values that are meant; a key that is absent stands for all of its values."""

KEYS = ("attack", "model", "view", "defense")


def usual_denominator(metric: str) -> str:
    """The denominator that a metric has if nobody names one."""
    return "clean-correct" if metric == "success" else "all"


def outcomes(metric: str, denominator: str | None = None, cases: Cases | None = None) -> str:
    """A query for one row per image and case that a metric is about: image_id, label, predicted_name, the `KEYS`,
    through, value, counts.

    `value` is a truth value or a number, and `counts` says whether the image is among the denominator's.

    Args:
        metric, denominator: as `findings.measured` says.

    Raises:
        InputError: there is no such metric or denominator.
    """
    for kind, name, choices in (("metric", metric, METRICS), ("denominator", denominator, DENOMINATORS)):
        if name is not None and name not in choices:
            raise unknown(kind, name, choices)
    conditions = [f"{key} in ({', '.join(map(quoted, values))})" for key, values in (cases or {}).items()]
    if metric == "success":
        conditions.append("attack <> 'none' and label is distinct from target")
    counts = _COUNTS[denominator or usual_denominator(metric)]
    where = " and ".join(conditions) or "true"
    return (
        f"select image_id, label, predicted_name, {', '.join(KEYS)}, through, "  # noqa: S608 - quoted
        f"{_VALUES[metric]} as value, {counts} as counts from answers where {where}"
    )


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def described(metric: str, denominator: str, models: str = "the run's models") -> str:
    """A metric and its denominator in words."""
    return f"{METRICS[metric]}, {DENOMINATORS[denominator].format(models=models)}"


def uncertainty(metric: str) -> str:
    """How the numbers of a metric and their intervals are written, in words."""
    if metric in RATES:
        return "Images, of how many, and Wilson's 95 % interval."
    return "Mean over images and its 95 % interval (bootstrap)."


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
