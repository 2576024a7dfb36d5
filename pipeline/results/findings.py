"""Findings: what a run found, as frames of numbers with their intervals and the SQL behind them.

Pure functions of the tables and the record. The terminal, a page and a paper's table render the same findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.results.outcomes import KEYS, RATES, Cases, outcomes, quoted
from pipeline.results.record import RunRecord
from pipeline.results.statistics import Mean, Rate
from transforms.data.verdicts import Verdict
from transforms.errors import InputError
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:  # pandas takes a second to import, and whoever asks for findings has it already
    import pandas as pd

    from pipeline.results.tables import Run

UNDEFENDED = "none"
WORST = "worst case"
"""In place of an attack's name, all attacks together."""


@dataclass(frozen=True, eq=False)
class Finding:
    """Counts or means with 95 % intervals, and the query behind them.

    Attributes:
        rows: one for each combination of keys: the keys, then successes, of, rate, low, high; or mean, of, low, high.
        sql: ready for `Run.sql` and `megalith sql`. Of rates it answers with the keys, successes and of; of means with
            the keys and the value of each image.
    """

    rows: "pd.DataFrame"
    sql: str


def measured(
    run: "Run",
    metric: str,
    denominator: str | None = None,
    cases: Cases | None = None,
    verdict: Verdict = "mean",
) -> Finding:
    """A metric by attack (`none`: clean), model, view, defense and through, with its uncertainty.

    Args:
        metric: "success" and "accuracy" as the functions of these names say; or the mean "confidence" of the answer,
            "label-confidence" of the true class, or "margin".
        denominator: which images count: "all"; "clean-correct", those that the model gets right when they are clean and
            undefended; "all-models-correct", those that all models of the run get right then, in that view;
            "surrogate-fooled", those on which the attack succeeded on its surrogates. By default "clean-correct" of
            success, "all" of the rest.
        verdict: what decides behind a random defence: "mean", the largest mean probability of its repeats, or behind
            `smoothing` their votes with an abstention; "majority", the class that most repeats choose, of equally many
            the lowest; "worst-of-n", the repeat that suits the attacker best: all have to be right, and one that says
            the target is a success. Never are fewer images right by the mean or the majority than in the worst repeat.

    Raises:
        InputError: there is no such metric, denominator or verdict; a mean has another verdict than "mean"; or rows
            lack the votes that it needs, because an earlier version made them.
    """
    sql = outcomes(metric, denominator, cases, verdict)
    if metric in RATES:
        return _counted(run, _RATES.format(outcomes=sql))
    values = f"select * exclude (counts) from ({sql}) where counts order by all"  # noqa: S608 - quoted
    return Finding(_averaged(run.sql(values)), values)


def worst_case(
    run: "Run",
    metric: str,
    denominator: str | None = None,
    cases: Cases | None = None,
    verdict: Verdict = "mean",
) -> Finding:
    """A rate by model, view and defense, where all attacks together count as one: image by image, the worst counts.

    Success is then the share of images that some attack turns, and accuracy that of images which are right when clean
    and under every attack (robust accuracy: Croce & Hein 2020, "Reliable evaluation of adversarial robustness"). Images
    that lack a row of some attack do not count.

    Args:
        metric, denominator, verdict: as for `measured`; where the denominator depends on the attack, it must hold for
            each.
        cases: the attacks that are meant, among others; clean images are, whether named or not.

    Raises:
        InputError: there is no such metric or denominator, or the metric is a mean; of success, the attacks do not want
            the same class of each image.
    """
    return _counted(run, _WORST_RATES.format(outcomes=worst_outcomes(run, metric, denominator, cases, verdict)))


def worst_outcomes(
    run: "Run",
    metric: str,
    denominator: str | None = None,
    cases: Cases | None = None,
    verdict: Verdict = "mean",
) -> str:
    """A query like `outcomes`, where all attacks together are one; arguments and errors are those of `worst_case`."""
    if metric not in RATES:
        raise InputError(f"worst case: {metric} is a mean; a worst case is known of {', '.join(RATES)}")
    meant = {**(cases or {})}
    if metric == "success":
        one_target(run, meant.get("attack"))
    elif "attack" in meant:
        meant["attack"] = [CLEAN, *(each for each in meant["attack"] if each != CLEAN)]
    worst = "bool_or(value)" if metric == "success" else "bool_and(value)"
    return _WORST.format(name=quoted(WORST), outcomes=outcomes(metric, denominator, meant, verdict), worst=worst)


def over_targets(
    run: "Run", metric: str, denominator: str | None, cases: Cases, name: str, verdict: Verdict = "mean"
) -> Finding:
    """A metric of an attack with several targets over all of them: of each image the mean over the targets for which it
    counts, and of these the mean over images, by model, view, defense and through.

    Args:
        metric, denominator, verdict: as for `measured`.
        cases: the attack's names for each of the targets, among others.
        name: what it is called for all of them.
    """
    values = _OVER_TARGETS.format(name=quoted(name), outcomes=outcomes(metric, denominator, cases, verdict))
    return Finding(_averaged(run.sql(values)), values)


def one_target(run: "Run", attacks: Sequence[str] | None) -> None:
    """Raises InputError if attacks, or all of the run, have not the same target class of each image, or none: success
    of one is then something else than success of another."""
    for one, other in sorted(unlike_targets(run, attacks)):
        raise InputError(f"success: {one} and {other} have not the same target; choose attacks, or take accuracy")


def unlike_targets(run: "Run", attacks: Sequence[str] | None = None) -> set[tuple[str, str]]:
    """Pairs of attacks, of some or of all, that want different classes of some image; in the order of their names."""
    meant = "true" if attacks is None else f"attack in ({', '.join(map(quoted, attacks))})"
    return {(one, other) for one, other in run.rows(_UNLIKE_TARGETS.format(meant=meant))[1]}


def own_targets(run: "Run") -> "pd.DataFrame":
    """Images whose label is what a targeted attack wants of them, which never count: attack, images, of."""
    return run.sql(
        'select attack, count_if(label = target)::bigint as images, count(*) as "of" from attacks '
        "where target is not null group by attack having images > 0 order by attack"
    )


def accuracy(run: "Run", denominator: str = "all") -> Finding:
    """How many images each model gets right, by attack (`none`: clean), model, view, defense and through."""
    return measured(run, "accuracy", denominator)


def success(run: "Run", denominator: str = "clean-correct") -> Finding:
    """Success of each attack on each model, by attack, model, view, defense and through.

    An untargeted attack succeeds where the model's answer is not right, an abstention behind `smoothing` included; a
    targeted one where it is the target. Images of the target class itself never count. Only where `through`, the
    defence that the attack knows, is the row's own was that defence attacked at all.

    Args:
        denominator: as `measured` says.

    Raises:
        InputError: there is no such denominator.
    """
    return measured(run, "success", denominator)


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
    budgets = ", ".join(f"{float(each)!r}::double" for each in eps)
    _, ((norms,),) = run.rows(f"select count(minimal_norm) from attacks where attack = {quoted(attack)}")  # noqa: S608 - quoted
    if not norms:
        raise InputError(f"{attack!r} is not a minimal-norm attack that was run")
    return _counted(run, _CURVE.format(attack=quoted(attack), budgets=budgets))


def costs(run: "Run") -> "pd.DataFrame":
    """Mean forward and backward passes that an image took: attack, forwards, backwards."""
    return run.sql("select attack, avg(forwards) as forwards, avg(backwards) as backwards from attacks group by attack")


def untouched(run: "Run") -> "pd.DataFrame":
    """Images that each attack left as they were because its surrogates get them wrong already: attack, images, of."""
    return run.sql(
        'select attack, count_if(linf = 0 and clean_predicted <> label) as images, count(*) as "of" from attacks '
        "group by attack having images > 0 order by attack"
    )


def labellers(run: "Run") -> list[str]:
    """The models whose predictions are labels."""
    _, found = run.rows("select distinct labelled_by from images where labelled_by is not null order by all")
    return [name for (name,) in found]


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
        "attack": [CLEAN, *named.attack_names],
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


def _averaged(values: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415 - said above

    keys = [*KEYS, "through"]
    means = [(key, Mean.over(of_case)) for key, of_case in values.groupby(keys, dropna=False)["value"]]
    rows = [(*key, mean.mean, mean.of, mean.low, mean.high) for key, mean in means]
    return pd.DataFrame(rows, columns=[*keys, "mean", "of", "low", "high"])


_RATES = """
select attack, model, view, defense, through, count_if(counts and value)::bigint as successes,
       count_if(counts)::bigint as "of"
from ({outcomes}) group by all order by all
"""

_WORST_RATES = """
select model, view, defense, count_if(counts and value)::bigint as successes, count_if(counts)::bigint as "of"
from ({outcomes}) group by all order by all
"""

_WORST = """
select image_id, label, null as predicted_name, {name} as attack, model, view, defense, value, counts
from (select image_id, any_value(label) as label, model, view, defense, {worst} as value, count(*) as attacks,
             bool_and(counts) filter (attack <> 'none') as counts, any_value(attacks_of_case) as attacks_of_case
      from (select *, count(distinct attack) over (partition by model, view, defense) as attacks_of_case
            from ({outcomes})) group by image_id, model, view, defense)
where attacks = attacks_of_case
"""

_OVER_TARGETS = """
select image_id, {name} as attack, model, view, defense, through, avg(value::double) as value
from ({outcomes}) where counts group by all order by all
"""

_UNLIKE_TARGETS = """
with meant as (select image_id, attack, target from attacks where {meant})
select distinct one.attack, other.attack from meant as one join meant as other using (image_id)
where one.attack < other.attack and one.target is distinct from other.target
"""

_CURVE = """
select eps, count_if(minimal_norm <= eps)::bigint as successes, count(*) as "of"
from (select minimal_norm from attacks
      where attack = {attack} and clean_predicted = label and label is distinct from target)
cross join (select unnest([{budgets}]) as eps, generate_subscripts([{budgets}], 1) as place)
group by place, eps
order by place
"""
