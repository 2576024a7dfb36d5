"""Findings: what a run found, as frames of counts with their intervals and the SQL behind them.

Pure functions of the tables and the record. The terminal, a page and a paper's table render the same findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.results.record import RunRecord
from pipeline.results.statistics import Rate
from transforms.errors import InputError, unknown
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:  # pandas takes a second to import, and whoever asks for findings has it already
    import pandas as pd

    from pipeline.results.tables import Run

Denominator = Literal["all", "clean-correct", "surrogate-fooled"]
UNDEFENDED = "none"


@dataclass(frozen=True, eq=False)
class Finding:
    """Counts with Wilson's 95 % interval, and the query that counted them.

    Attributes:
        rows: one for each combination of keys: the keys, then successes, of, rate, low, high.
        sql: answers with the keys, successes and of; ready for `Run.sql` and `megalith sql`.
    """

    rows: "pd.DataFrame"
    sql: str


def accuracy(run: "Run") -> Finding:
    """How many images each model gets right, by attack (`none`: clean), model, view and defense."""
    return _counted(run, _ACCURACY)


def success(run: "Run", denominator: Denominator = "clean-correct") -> Finding:
    """Success of each attack on each model, by attack, model, view, defense and through.

    An untargeted attack succeeds where the model's answer is not right, an abstention behind `smoothing` included; a
    targeted one where it is the target. Images of the target class itself never count. Only where `through`, the
    defence that the attack knows, is the row's own was that defence attacked at all.

    Args:
        denominator: which images count: "all"; "clean-correct", those that the model gets right when they are clean
            and undefended; "surrogate-fooled", those on which the attack succeeded on its surrogates.

    Raises:
        InputError: there is no such denominator.
    """
    if denominator not in get_args(Denominator):
        raise unknown("denominator", denominator, get_args(Denominator))
    return _counted(run, _SUCCESS.format(condition=_CONDITIONS[denominator]))


def curve(run: "Run", attack: str, eps: Sequence[float]) -> Finding:
    """How often a minimal-norm attack succeeds on its surrogates within each budget, by eps.

    The denominator is the images that the surrogates get right when clean, but for those of the target class. The norms
    are those found before rounding to 8 bits, so budgets beyond the attack's own may be asked for.

    Args:
        attack: as the experiment calls it.
        eps: budgets, in the unit of [0, 1] pixels.

    Raises:
        InputError: there are no rows of such an attack.
    """
    quoted = attack.replace("'", "''")
    budgets = ", ".join(f"{float(each)!r}::double" for each in eps)
    _, ((norms,),) = run.rows(f"select count(minimal_norm) from attacks where attack = '{quoted}'")  # noqa: S608 - quoted
    if not norms:
        raise InputError(f"{attack!r} is not a minimal-norm attack that was run")
    return _counted(run, _CURVE.format(attack=quoted, budgets=budgets))


def costs(run: "Run") -> "pd.DataFrame":
    """Mean forward and backward passes that an image took: attack, forwards, backwards."""
    return run.sql("select attack, avg(forwards) as forwards, avg(backwards) as backwards from attacks group by attack")


def untouched(run: "Run") -> "pd.DataFrame":
    """Images that each attack left as they were because its surrogates get them wrong already: attack, images, of."""
    return run.sql(
        'select attack, count_if(linf = 0 and clean_predicted <> label) as images, count(*) as "of" from attacks '
        "group by attack having images > 0 order by attack"
    )


def failures(run: "Run") -> "pd.DataFrame":
    """Reasons for failures, the most frequent first: stage, message, images."""
    return run.sql("select stage, message, count(*) as images from failures group by all order by images desc, message")


def attacked_defenses(run: "Run") -> set[tuple[str, str]]:
    """Pairs of a model and a defence that some attack on that model sees it through; `none` among them."""
    _, pairs = run.rows("select distinct unnest(surrogates), through from attacks")
    return {(model, defense) for model, defense in pairs} | {(model, UNDEFENDED) for model, _ in pairs}


def orders(record: RunRecord) -> dict[str, list[str]]:
    """How the experiment that was run last names things, in its order: attack, model, view, defense."""
    named = record.named()
    return {
        "attack": [CLEAN, *named.attacks],
        "model": named.targets,
        "view": named.views,
        "defense": [UNDEFENDED, *named.defenses],
    }


def _counted(run: "Run", sql: str) -> Finding:
    counts = run.sql(sql)
    rates = [Rate(int(row.successes), int(row.of)) for row in counts.itertuples()]
    rows = counts.assign(
        rate=[rate.successes / rate.of if rate.of else float("nan") for rate in rates],
        low=[rate.low for rate in rates],
        high=[rate.high for rate in rates],
    )
    return Finding(rows, sql)


_ACCURACY = """
select attack, model, view, defense, count_if(correct)::bigint as successes, count(*) as "of"
from predictions group by all order by all
"""

_CONDITIONS = {"all": "true", "clean-correct": "clean_correct", "surrogate-fooled": "surrogates_fooled"}

_SUCCESS = """
select attack, model, view, defense, through, count_if({condition} and success)::bigint as successes,
       count_if({condition})::bigint as "of"
from answers where success is not null and clean_correct is not null group by all order by all
"""

_CURVE = """
select eps, count_if(minimal_norm <= eps)::bigint as successes, count(*) as "of"
from (select minimal_norm from attacks
      where attack = '{attack}' and clean_predicted = label and label is distinct from target)
cross join (select unnest([{budgets}]) as eps, generate_subscripts([{budgets}], 1) as place)
group by place, eps
order by place
"""
