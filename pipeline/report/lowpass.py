"""The low-pass sweep: what is right behind low-passes of several cutoffs."""

from typing import TYPE_CHECKING

from pipeline.report.charts import rate_lines
from pipeline.report.section import Exhibit, Section, counted, usual_view
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run


def sweep(run: "Run") -> Section | None:
    """Accuracy behind low-passes of several cutoffs, clean and attacked."""
    sql = _SWEEP.format(view=quoted(usual_view(run)))
    found = counted(run, sql)
    if not found.rows:
        return None
    rows = [{**row, "attack": "clean" if row["attack"] == "none" else row["attack"]} for row in found.records()]
    exhibits = []
    for kind in dict.fromkeys(found.column("filter")):
        title = f"Accuracy behind {kind}, by cutoff"
        some = [row for row in rows if row["filter"] == kind]
        chart = rate_lines(some, "cutoff", "cutoff, share of Nyquist", "right", "attack", title, "model")
        part = f"from ({sql.strip()})\nwhere filter = {quoted(kind)}"
        exhibits.append(Exhibit(title, found.where(filter=kind), part, chart=chart))
    return Section("Low-pass sweep", (_SWEEP_SAYS,), tuple(exhibits))


_SWEEP_SAYS = (
    "The share of all images that a model gets right behind a low-pass that the attack did not know, against the "
    "cutoff; 1 keeps every frequency."
)

_SWEEP = r"""
with swept as (
  select *, regexp_extract(defense, '^(lowpass[a-z-]*):cutoff=([0-9.]+)$', ['filter', 'cutoff']) as parts
  from predictions where defense like 'lowpass%' and view = {view}),
known as (
  select parts.filter as filter, try_cast(parts.cutoff as double) as cutoff, model, attack, correct
  from swept left join (select image_id, attack, through from attacks) using (image_id, attack)
  where coalesce(through, 'none') = 'none'),
several as (select filter from known where cutoff > 0 group by filter having count(distinct cutoff) > 1)
select filter, model, attack, cutoff, count_if(correct)::bigint as successes, count(*) as "of"
from known join several using (filter) where cutoff > 0 group by all order by all
"""
