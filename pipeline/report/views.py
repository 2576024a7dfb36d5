"""How the way of looking at a canvas changes what models answer."""

from typing import TYPE_CHECKING

from pipeline.report.charts import rate_matrix
from pipeline.report.section import Exhibit, Section, Table, answer, counted, distinct
from pipeline.results.outcomes import quoted
from pipeline.results.statistics import Paired

if TYPE_CHECKING:
    from pipeline.results.tables import Run


def views(run: "Run") -> Section | None:
    """How the way of looking at a canvas changes accuracy, on the same images."""
    names = distinct(run, "view")
    if len(names) < 2:  # noqa: PLR2004 - one view has nothing to be compared with
        return None
    found = counted(run, _VIEWS)
    rows = [{**row, "model and view": f"{row['model']}, {row['view']}", "marked": False} for row in found.records()]
    chart = rate_matrix(rows, "attack", "model and view", "Accuracy by attack, model and view")
    sql = _PAIRED.format(first=quoted(names[0]))
    counts = answer(run, sql)
    pairs = Table((*counts.headings, *_PAIRED_TOO), tuple((*row, *_paired(*row[-4:])) for row in counts.rows))
    exhibits = (
        Exhibit("Accuracy by view", found, _VIEWS, chart=chart),
        Exhibit(f"Each view against {names[0]}, on the same images", pairs, sql, _PAIRED_SAYS, open=True),
    )
    return Section("Views", ("Undefended; `none` is the clean image.",), exhibits)


def _paired(both: int, first: int, second: int, neither: int) -> tuple[float, float, float, float]:
    pair = Paired(both, first, second, neither)
    return (pair.difference, *pair.interval, pair.p_value)


_VIEWS = """
select attack, model, view, count_if(correct)::bigint as successes, count(*) as "of"
from predictions left join (select image_id, attack, through from attacks) using (image_id, attack)
where defense = 'none' and coalesce(through, 'none') = 'none' group by all order by all
"""

_PAIRED_TOO = ("difference", "low", "high", "p")
_PAIRED_SAYS = (
    "`first` and `other` count images that only the one or only the other view gets right. The difference is the first "
    "accuracy less the other, with its 95 % interval; p is McNemar's exact test, not corrected for how many are "
    "compared."
)

_PAIRED = """
select attack, model, other.view as view, count_if(one.correct and other.correct)::bigint as "both",
  count_if(one.correct and not other.correct)::bigint as "first",
  count_if(other.correct and not one.correct)::bigint as "other",
  count_if(not one.correct and not other.correct)::bigint as neither
from predictions as one join predictions as other using (image_id, attack, model, defense)
left join (select image_id, attack, through from attacks) using (image_id, attack)
where defense = 'none' and coalesce(through, 'none') = 'none' and one.view = {first} and other.view <> {first}
group by all order by all
"""
