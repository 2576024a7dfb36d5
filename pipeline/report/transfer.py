"""Which attack fools which model: the transfer matrix."""

from typing import TYPE_CHECKING

from pipeline.report.charts import rate_matrix
from pipeline.report.section import Exhibit, Section, Table, counted
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_WORDS = (
    "Success: of the images that a model gets right when clean, and that are not of the target class, the share that "
    "it gets wrong under the attack or, if the attack is targeted, takes for the target. Numbers in brackets are "
    "Wilson's 95 % interval, per cent. A frame marks the attack's own surrogates."
)


def transfer(run: "Run") -> Section | None:
    """A matrix of surrogates and attack × target, undefended, for untargeted and targeted attacks and each view."""
    found = counted(run, _TRANSFER)
    if not found.rows:
        return Section("Transfer", ("No attack was run: an experiment with `attacks:` fills this.",))
    kinds = dict.fromkeys((targeted, view) for targeted, view, *_ in found.rows)
    several = len({view for _, view in kinds}) > 1
    exhibits = tuple(_matrix(found.where(targeted=targeted, view=view), several) for targeted, view in sorted(kinds))
    return Section("Transfer", (_WORDS,), exhibits)


def _matrix(found: Table, several_views: bool) -> Exhibit:
    targeted, view = found.rows[0][:2]
    rows = [
        {**row, "attack": f"{row['attack']} ({row['surrogates']})", "marked": row["surrogate"]}
        for row in found.records()
    ]
    title = f"{'Targeted' if targeted else 'Untargeted'} attacks" + (f", view {view}" if several_views else "")
    sql = f"from ({_TRANSFER.strip()})\nwhere targeted = {targeted} and view = {quoted(view)}"
    chart = rate_matrix(rows, "attack", "model", f"{title}: success rate of each attack, with its surrogates, by model")
    return Exhibit(title, found, sql, chart=chart)


_TRANSFER = """
select targeted, view, attack, array_to_string(surrogates, ' + ') as surrogates, model,
  list_contains(surrogates, model) as surrogate, count_if(success)::bigint as successes, count(*) as "of"
from transfer
join (select image_id, attack, surrogates, target is not null as targeted from attacks) using (image_id, attack)
where defense = 'none' and through = 'none' group by all order by all
"""
