"""What defences cost on clean images and give back under attack, blind or known to the attack."""

from typing import TYPE_CHECKING

from pipeline.report.charts import cost_against_recovery, rate_dots
from pipeline.report.section import Exhibit, Section, Table, counted, distinct, usual_view
from pipeline.results.cases import ADAPTIVE
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run


def defenses(run: "Run") -> Section | None:
    """For each model that was attacked, accuracy behind each defence: clean, blind, and known to the attack."""
    if distinct(run, "defense") in ([], ["none"]):
        return None
    sql = _DEFENSES.format(view=quoted(usual_view(run)))
    found = counted(run, sql)
    exhibits = [each for model in dict.fromkeys(found.column("model")) for each in _of_model(found, model, sql)]
    return Section("Defences", (_DEFENSES_SAY,), (*exhibits, *_verdicts(run)))


def _of_model(found: Table, model: str, sql: str) -> list[Exhibit]:
    some = found.where(model=model)
    part = f"from ({sql.strip()})\nwhere model = {quoted(model)}"
    dots = rate_dots(some.records(), "defense", "knows", "attack", f"Accuracy of {model} behind each defence")
    compared = [row for row in some.records() if row["recovery"] is not None and row["defense"] != "none"]
    exhibits = [Exhibit(f"Accuracy of {model} behind each defence", some, part, chart=dots)]
    if compared:
        title = f"{model}: clean cost against recovery"
        exhibits.append(Exhibit(title, some, part, chart=cost_against_recovery(compared, title)))
    return exhibits


def _verdicts(run: "Run") -> list[Exhibit]:
    """For each model, accuracy behind each random defence by each verdict over its repeats."""
    sql = _VERDICTS.format(view=quoted(usual_view(run)), adaptive=quoted(ADAPTIVE))
    found = counted(run, sql)
    return [
        Exhibit(
            title := f"{model}: verdicts over the repeats of random defences",
            some := found.where(model=model),
            f"from ({sql.strip()})\nwhere model = {quoted(model)}",
            _VERDICTS_SAY,
            chart=rate_dots(some.records(), "defense", "verdict", "attack", title),
        )
        for model in dict.fromkeys(found.column("model"))
    ]


_DEFENSES_SAY = (
    "A blind attack was made without the defence, an adaptive one through it. Clean cost: accuracy on clean images "
    "lost behind the defence. Recovery: accuracy under attack behind the defence, less that without it. Against "
    "defences that no attack here knows, answers restored only show what nobody attacked."
)

_VERDICTS_SAY = (
    "Right by the mean of the repeats' probabilities (what every other figure counts), by the class that most repeats "
    "choose, and in the worst of n: if every repeat is right."
)

_VERDICTS = """
select model, defense, attack, verdict, count_if("right")::bigint as successes, count(*) as "of"
from (select model, defense, if(through = defense, split_part(attack, '@', 1) || {adaptive}, attack) as attack,
             unnest(['mean', 'majority', 'worst-of-n']) as verdict,
             unnest([correct, majority_correct, worst_correct]) as "right"
      from answers where agreement is not null and view = {view} and (attack = 'none' or through in ('none', defense)))
group by all having count("right") = count(*) order by all
"""

_DEFENSES = """
with shown as (
  select model, defense, split_part(attack, '@', 1) as attack, correct,
    case when attack = 'none' then 'clean' when through = 'none' then 'blind' when through = defense then 'adaptive' end
      as knows
  from predictions left join (select image_id, attack, through from attacks) using (image_id, attack)
  where view = {view}),
rates as (
  select model, defense, attack, knows, count_if(correct)::bigint as successes, count(*) as "of"
  from shown where knows is not null group by all),
bare as (select model, attack, successes / "of" as rate from rates where defense = 'none'),
behind as (select model, defense, successes / "of" as rate from rates where attack = 'none'),
attacked as (select distinct unnest(surrogates) as model from attacks),
base as (select distinct attack from rates where attack <> 'none')
select rates.model, rates.defense, coalesce(base.attack, rates.attack) as attack, knows,
  clean.rate - behind.rate as clean_cost,
  case when knows <> 'clean' then rates.successes / rates."of" - bare.rate end as recovery,
  rates.successes, rates."of"
from rates
join attacked using (model)
left join base on rates.attack = 'none' or base.attack = rates.attack
left join bare on bare.model = rates.model and bare.attack = rates.attack
left join behind on behind.model = rates.model and behind.defense = rates.defense
left join bare as clean on clean.model = rates.model and clean.attack = 'none'
order by all
"""
