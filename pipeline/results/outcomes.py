"""Outcomes: what each image says in each case, as SQL. Whatever counts, averages or compares starts from these rows."""

from collections.abc import Mapping, Sequence

from transforms.data.verdicts import Verdict
from transforms.errors import InputError, unknown

METRICS = {
    "success": "Attack success",
    "accuracy": "Accuracy",
    "confidence": "Mean confidence of the answer",
    "label-confidence": "Mean confidence in the true class",
    "margin": "Mean margin, log p(label) less log p(most probable other class)",
}
RATES = ("success", "accuracy")
"""Metrics whose values are true or false."""

VERDICTS = {
    "mean": "by the mean of a random defence's repeats",
    "majority": "by the majority of a random defence's repeats",
    "worst-of-n": "in the worst of a random defence's repeats",
}
"""What decides behind a random defence, in words; `Verdict` has the same names."""

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


def outcomes(metric: str, denominator: str | None = None, cases: Cases | None = None, verdict: Verdict = "mean") -> str:
    """A query for one row per image and case that a metric is about: image_id, label, predicted_name, the `KEYS`,
    through, value, counts.

    `value` is a truth value or a number, and `counts` says whether the image is among the denominator's.

    Args:
        metric, denominator, verdict: as `findings.measured` says. Where rows lack the votes that a verdict needs, the
            answer to the query is an error that says so.

    Raises:
        InputError: there is no such metric, denominator or verdict, or the metric is a mean, which has no verdicts.
    """
    named = (("metric", metric, METRICS), ("denominator", denominator, DENOMINATORS), ("verdict", verdict, VERDICTS))
    for kind, name, choices in named:
        if name is not None and name not in choices:
            raise unknown(kind, name, choices)
    if verdict != "mean" and metric not in RATES:
        raise InputError(f"verdict: {metric} is a mean over repeats; {verdict} is known of {' and '.join(RATES)}")
    conditions = [f"{key} in ({', '.join(map(quoted, values))})" for key, values in (cases or {}).items()]
    if metric == "success":
        conditions.append("attack <> 'none' and label is distinct from target")
    counts = _COUNTS[denominator or usual_denominator(metric)]
    where = " and ".join(conditions) or "true"
    return (
        f"select image_id, label, {_ANSWER.get(verdict, 'predicted_name')}, {', '.join(KEYS)}, through, "  # noqa: S608 - quoted
        f"{_value(metric, verdict)} as value, {counts} as counts from answers where {where}"
    )


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def described(metric: str, denominator: str, models: str = "the run's models", verdict: Verdict = "mean") -> str:
    """A metric, its denominator and, if it is not the usual one, the verdict in words."""
    judged = [] if verdict == "mean" else [VERDICTS[verdict]]
    return ", ".join([METRICS[metric], DENOMINATORS[denominator].format(models=models), *judged])


def uncertainty(metric: str) -> str:
    """How the numbers of a metric and their intervals are written, in words."""
    if metric in RATES:
        return "Images, of how many, and Wilson's 95 % interval."
    return "Mean over images and its 95 % interval (bootstrap)."


def _value(metric: str, verdict: Verdict) -> str:
    if verdict == "mean":
        return _VALUES[metric]
    column = f"{_SHORT[verdict]}_{'success' if metric == 'success' else 'correct'}"
    return f"coalesce({column}, error('{_NO_VOTES}' || defense))"


_ANSWER = {"majority": "(select class_name from classes where class = majority) as predicted_name"}
_SHORT = {"majority": "majority", "worst-of-n": "worst"}
_NO_VOTES = "an earlier version of Megalith made these rows, without votes; run it in another directory: "

_COUNTS = {
    "all": "true",
    "clean-correct": "coalesce(clean_correct, false)",
    "all-models-correct": "coalesce(all_models_correct, false)",
    "surrogate-fooled": "coalesce(surrogates_fooled, false)",
}

_VALUES = {
    "success": "success",
    "accuracy": "correct",
    "confidence": "confidence",
    "label-confidence": "label_confidence",
    "margin": "margin",
}
