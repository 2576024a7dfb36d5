"""Tables for papers: a metric, one key of the rows down and another across."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from pipeline.results import findings
from pipeline.results.cases import asked, beyond_budget, chosen, labelled, not_attacked, shown, shown_attack, white_box
from pipeline.results.findings import WORST
from pipeline.results.formats import Sheet
from pipeline.results.outcomes import (
    KEYS,
    Cases,
    described,
    quoted,
    uncertainty,
    usual_denominator,
)
from pipeline.results.statistics import Mean, Rate
from transforms.data.verdicts import Verdict
from transforms.errors import InputError, unknown
from transforms.rows.parts import untargeted_name, variant_of

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.results.tables import Run


def crosstab(
    run: "Run",
    rows: str,
    columns: str,
    metric: str = "success",
    denominator: str | None = None,
    wanted: Cases | None = None,
    *,
    worst: bool = False,
    verdict: Verdict = "mean",
) -> Sheet:
    """A metric with its uncertainty by two of `KEYS`. Of each other key one value is meant.

    Args:
        rows, columns: keys.
        metric, denominator, verdict: as `findings.measured` says.
        wanted: values by key, of the rows and columns in this order; by default those of the last experiment.
        worst: whether all attacks together are one more row or column; see `findings.worst_case`.

    Raises:
        InputError: a name is unknown, or unlike things would be mixed.
    """
    for name in (rows, columns):
        if name not in KEYS:
            raise unknown("key", name, KEYS)
    if rows == columns:
        raise InputError(
            f"rows and columns are both {rows}; make one of them {' or '.join(key for key in KEYS if key != rows)}"
        )
    if worst and "attack" not in (rows, columns):
        raise InputError("worst case: it is over attacks; make them the rows or the columns")
    import pandas as pd  # noqa: PLC0415 - takes a second

    cases = chosen(run, wanted or {}, (rows, columns), clean=metric != "success")
    several = _with_several_targets(cases["attack"])
    found = [findings.measured(run, metric, denominator, cases, verdict).rows]
    for name, members in several.items():
        of_all = {**cases, "attack": members}
        found.append(findings.over_targets(run, metric, denominator, of_all, name, verdict).rows)
    numbers = _labelled(pd.concat(found, ignore_index=True), by_name=bool((wanted or {}).get("attack")))
    if worst:
        together = findings.worst_case(run, metric, denominator, cases, verdict).rows
        together = together.assign(attack=WORST, shown=WORST)
        numbers = pd.concat([numbers, together], ignore_index=True)
    used = denominator or usual_denominator(metric)
    return Sheet(
        title=_title(run, metric, used, verdict, {key: cases[key][0] for key in KEYS if key not in (rows, columns)}),
        **_grid(numbers, rows, columns, cases),
        numbers=numbers.drop(columns="shown").assign(metric=metric, denominator=used, verdict=verdict),
        notes=[
            uncertainty(metric),
            *labelled(run),
            *white_box(run, cases),
            *asked(run, cases),
            *beyond_budget(run, cases["attack"]),
            *(_targeted(run, cases) if metric == "success" else []),
            *([f"{', '.join(several)}: {_OVER_TARGETS}"] if several else []),
            *not_attacked(run, cases),
            *([_WORST[metric]] if worst else []),
        ],
    )


def cell(number: Any) -> str:
    """A row of a finding as text: a rate or a mean with its interval."""
    if not isnan(getattr(number, "successes", nan)):
        return str(Rate(int(number.successes), int(number.of)))
    return str(Mean(number.mean, int(number.of), number.low, number.high))


def _title(run: "Run", metric: str, denominator: str, verdict: Verdict, fixed: Mapping[str, str]) -> str:
    models = "the run's models"
    if denominator == "all-models-correct":
        query = "select distinct model from predictions where attack = 'none' and defense = 'none' order by model"
        models = ", ".join(name for (name,) in run.rows(query)[1])
    place = [shown(key, value, alone=True) for key, value in fixed.items()]
    return "; ".join([described(metric, denominator, models, verdict), ", ".join(place)])


def _labelled(numbers: "pd.DataFrame", *, by_name: bool) -> "pd.DataFrame":
    """With the attack's name as it is shown. A variant is only shown behind the defence that it knows, unless attacks
    are wanted by name."""
    names = [shown_attack(each.attack, each.defense) for each in numbers.itertuples()]
    meant = [by_name or variant_of(each) is None for each in names]
    return numbers.assign(shown=names).loc[meant]


def _grid(numbers: "pd.DataFrame", rows: str, columns: str, cases: Cases) -> dict[str, Any]:
    """Headings and cells of a sheet."""
    labels = {key: "shown" if key == "attack" else key for key in (rows, columns)}
    order = {key: _order(numbers, key, cases) for key in (rows, columns)}
    texts = {(getattr(each, labels[rows]), getattr(each, labels[columns])): cell(each) for each in numbers.itertuples()}
    return {
        "headings": [rows, *(shown(columns, across) for across in order[columns])],
        "cells": [
            [shown(rows, down), *(texts.get((down, across), "") for across in order[columns])] for down in order[rows]
        ],
    }


def _order(numbers: "pd.DataFrame", key: str, cases: Cases) -> list[str]:
    """The values of a key that have a row, in the order of the cases."""
    if key != "attack":
        there = set(numbers[key])
        return [each for each in cases[key] if each in there]
    pairs = dict.fromkeys(zip(numbers["attack"], numbers["shown"], strict=True))
    names = list(cases[key])
    for name, members in _with_several_targets(names).items():
        names.insert(names.index(members[-1]) + 1, name)
    return list(dict.fromkeys(name for each in [*names, WORST] for attack, name in pairs if attack == each))


def _targeted(run: "Run", cases: Cases) -> list[str]:
    """What success of targeted attacks is, if there are any."""
    attacks = ", ".join(map(quoted, cases["attack"]))
    _, aims = run.rows(
        "select attack, any_value(target), count(distinct target), count_if(label = target)::bigint from attacks "  # noqa: S608 - quoted
        f"where target is not null and attack in ({attacks}) group by attack order by attack"
    )
    aimed = [
        f"{attack} ({f'class {target}' if targets == 1 else 'one for each image'}{f'; {own} left out' if own else ''})"
        for attack, target, targets, own in aims
    ]
    return [f"{_TARGETED}: {', '.join(aimed)}."] if aimed else []


def _with_several_targets(attacks: Sequence[str]) -> dict[str, list[str]]:
    """Those of the attacks that are one for each of several targets, by what they are called for all of them."""
    families: dict[str, list[str]] = {}
    for name in attacks:
        families.setdefault(untargeted_name(name), []).append(name)
    return {name: members for name, members in families.items() if len(members) > 1}


_OVER_TARGETS = "over all targets, the mean over images of each image's mean; its 95 % interval is the bootstrap's."
_TARGETED = "Targeted attacks succeed where the answer is their target, whose own images do not count"
_WORST = {
    "success": "Worst case: the images that some attack of the table turns.",
    "accuracy": "Worst case: the images that are right when clean and under each attack of the table.",
}
