"""Success over the budget, and over what it costs."""

from typing import TYPE_CHECKING

from pipeline.report.charts import rate_lines, scatter
from pipeline.report.section import Exhibit, Section, Table, counted, distinct, usual_view
from pipeline.report.series import as_values, series
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run


def over_eps(run: "Run") -> Section | None:
    """Success of attacks that differ in ε alone, and of minimal-norm attacks within each budget."""
    if not distinct(run, "attack", "attacks"):
        return None
    exhibits = list[Exhibit]()
    if lines := series(run, "eps"):
        sql = _SERIES.format(series=as_values(lines), view=quoted(usual_view(run)))
        found = counted(run, sql)
        exhibits += [_lines(found.where(norm=norm), norm, sql) for norm in sorted(set(found.column("norm")))]
    curves = counted(run, _CURVES)
    if curves.rows:
        title = "Minimal-norm attacks: success on the surrogates within each budget"
        chart = rate_lines(curves.records(), "eps", "ε, unit of [0, 1] pixels", "success", "attack", title, "norm")
        exhibits.append(Exhibit(title, curves, _CURVES, _CURVES_SAY, chart=chart))
    return Section("Success over ε", () if exhibits else (_NOTHING,), tuple(exhibits))


def _lines(found: Table, norm: str, sql: str) -> Exhibit:
    unit, scale = ("ε, grey levels of 255", 255) if norm == "linf" else ("ε, unit of [0, 1] pixels", 1)
    rows = [{**row, "budget": row["eps"] * scale} for row in found.records()]
    title = f"Attacks that differ in ε alone, {norm}"
    chart = rate_lines(rows, "budget", unit, "success", "model", f"{title}: success, a line for each model", "series")
    return Exhibit(title, found, f"from ({sql.strip()})\nwhere norm = {quoted(norm)}", chart=chart)


def over_cost(run: "Run") -> Section | None:
    """Success against passes, with the attacks that none beats at both."""
    sql = _COST.format(view=quoted(usual_view(run)))
    found = counted(run, sql)
    if not found.rows:
        return None
    chart = scatter(found.records(), "Success over forward and backward passes per image; the Pareto front is joined")
    return Section("Success over cost", (_COST_SAYS,), (Exhibit("Success and passes", found, sql, chart=chart),))


_NOTHING = (
    "No two attacks here differ in ε alone, and none is a minimal-norm attack. The same recipe under several names, "
    "each with another `eps:`, fills this."
)

_SERIES = """
select norm, series, eps, attack, model, count_if(success)::bigint as successes, count(*) as "of"
from transfer join (select image_id, attack, norm, eps from attacks) using (image_id, attack)
join {series} using (attack)
where defense = 'none' and view = {view}
group by all order by norm, series, model, eps, attack
"""

_CURVES_SAY = (
    "Of the images that the surrogates get right when clean, the share whose smallest perturbation found, before "
    "rounding to 8 bits, is within the budget; 20 budgets up to the largest norm found."
)

_CURVES = """
with found as (
  select attack, norm, minimal_norm from attacks
  where minimal_norm is not null and clean_predicted = label and label is distinct from target),
most as (select norm, max(minimal_norm) filter (isfinite(minimal_norm)) as most from found group by norm),
budgets as (select norm, unnest(range(0, 21)) / 20 * most as eps from most where most > 0)
select norm, attack, eps, count_if(minimal_norm <= eps)::bigint as successes, count(*) as "of"
from found join budgets using (norm) group by all order by norm, attack, eps
"""

_COST_SAYS = (
    "Undefended success as in Transfer, against the passes of networks that an image took. On the Pareto front are the "
    "attacks that no other attack on the same model, of the same budget and goal, beats in one without being worse in "
    "the other. Of more than nine attacks, the nine that are on most fronts have a colour, and only there."
)

_COST = """
with cost as (
  select attack, any_value(norm) as norm, any_value(eps) as eps, any_value(bounds) as bounds,
    count(target) > 0 as targeted, avg(forwards + backwards) as passes
  from attacks where through = 'none' group by attack),
rates as (
  select model, norm, eps, bounds, targeted, attack, passes, count_if(success)::bigint as successes, count(*) as "of"
  from transfer join cost using (attack) where defense = 'none' and view = {view} group by all)
select model, norm, eps, bounds, targeted, attack, passes,
  not exists (
    from rates as other
    where other.model = rates.model and (other.norm, other.eps, other.bounds)
        is not distinct from (rates.norm, rates.eps, rates.bounds)
      and other.targeted = rates.targeted and other.passes <= rates.passes
      and other.successes / other."of" >= rates.successes / rates."of"
      and (other.passes < rates.passes or other.successes / other."of" > rates.successes / rates."of")) as pareto,
  successes, "of"
from rates order by model, norm, eps, bounds, targeted, passes, attack
"""
