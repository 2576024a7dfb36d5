"""Which classes and images are fooled most and least often."""

from typing import TYPE_CHECKING

from pipeline.report.section import Exhibit, Section, counted, usual_view
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_SHOWN = 10
"""Rows at either end."""


def robustness(run: "Run") -> Section | None:
    """The classes and images that hold best and worst, over all attacks and models."""
    view = quoted(usual_view(run))
    exhibits = []
    for keys, what in _KEYS:
        for order, which in (("desc", "Least"), ("asc", "Most")):
            sql = _FOOLED.format(keys=keys, view=view, order=order, shown=_SHOWN)
            exhibits.append(Exhibit(f"{which} robust {what}", counted(run, sql), sql, open=True))
    kept = tuple(each for each in exhibits if each.table.rows)
    return Section("Robust and fragile", (_WORDS,), kept) if kept else None


_KEYS = (
    ("label, label_name as class, count(distinct image_id) as images", "classes"),
    ("image_id, label_name as class", "images"),
)

_WORDS = (
    "Success of all plain attacks on all models, undefended, counted as in Transfer: the ten at either end. A class of "
    "one image says something of that image; whoever sorts many noisy rates finds extremes by chance, so read the "
    "intervals."
)

_FOOLED = """
select {keys}, count_if(success)::bigint as successes, count(*) as "of"
from transfer join images using (image_id)
where defense = 'none' and through = 'none' and view = {view}
group by all order by count_if(success) / count(*) {order}, count(*) desc, 1 limit {shown}
"""
