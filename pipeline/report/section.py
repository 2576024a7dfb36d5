"""What a page is made of: sections of exhibits. An exhibit is a table, the query behind it, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.results.findings import orders
from pipeline.results.record import Json
from pipeline.results.statistics import Rate

if TYPE_CHECKING:
    from pipeline.results.tables import Run

RATES = ("successes", "of", "rate", "low", "high")
"""The columns of a rate, as in `findings.Finding`."""


@dataclass(frozen=True)
class Table:
    """Headings, and rows of plain Python values."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def records(self) -> list[Json]:
        """Its rows by heading, as charts want them."""
        return [dict(zip(self.headings, row, strict=True)) for row in self.rows]

    def column(self, heading: str) -> list[Any]:
        """The values below a heading, from top to bottom."""
        place = self.headings.index(heading)
        return [row[place] for row in self.rows]

    def where(self, **values: Any) -> "Table":
        """The rows that have these values below these headings."""
        kept = tuple(row for row, each in zip(self.rows, self.records(), strict=True) if values.items() <= each.items())
        return Table(self.headings, kept)


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        source: a `data:` address.
        description: what somebody is told who does not see it.
        caption: lines below it.
    """

    source: str
    description: str
    caption: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """A figure with its data.

    Attributes:
        table: what the figure shows, as CSV one click away.
        sql: the query that answers with the table, but for columns that `words` explain; empty where run.json has it.
        chart: a Vega-Lite specification.
        pair: two pictures of one size, one upon the other, and a slider between them.
        bar: the colour bar of `pictures`: its picture, and what stands below its left end, its middle and its right.
        open: whether the table is the figure, and shown from the start.
        status: of a check: passed, failed or not answerable.
    """

    title: str
    table: Table
    sql: str = ""
    words: str = ""
    chart: Json | None = None
    pair: tuple[Picture, Picture] | None = None
    pictures: tuple[Picture, ...] = ()
    bar: tuple[Picture, tuple[str, str, str]] | None = None
    open: bool = False
    status: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        words: paragraphs.
        gallery: what the page's script shows, filters and sorts: see `gallery.py`.
    """

    title: str
    words: tuple[str, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    gallery: Json | None = None


def answer(run: "Run", sql: str) -> Table:
    """What a query says, in the experiment's order of attacks, models, views and defences where it names them."""
    headings, rows = run.rows(sql)
    ranks = {key: {name: rank for rank, name in enumerate(names)} for key, names in orders(run.record).items()}
    places = [(place, ranks[name]) for place, name in enumerate(headings) if name in ranks]
    rows = sorted(rows, key=lambda row: [rank.get(row[place], len(rank)) for place, rank in places])
    return Table(tuple(headings), tuple(map(tuple, rows)))


def counted(run: "Run", sql: str) -> Table:
    """What a query counts, whose last two columns are `successes` and `of`: with rate, low and high besides."""
    found = answer(run, sql)
    rows = tuple((*row, *_rate(*row[-2:])) for row in found.rows)
    return Table((*found.headings, *RATES[2:]), rows)


def _rate(successes: int, of: int) -> tuple[float | None, float, float]:
    rate = Rate(successes, of)
    return successes / of if of else None, rate.low, rate.high


def budget(norm: str | None, eps: float | None, bounds: str | None) -> str:
    """A budget as experiments give it: 4/255 in L∞, 3 in other norms, `max_flow=2` in none."""
    if norm is None or eps is None:
        return f"no norm, {bounds}"
    return f"{norm} {eps * 255:g}/255" if norm == "linf" else f"{norm} {eps:g}"


def usual_view(run: "Run") -> str:
    """The view that figures of one view are of: the experiment's first."""
    views: Sequence[str] = orders(run.record)["view"]
    return views[0] if views else "center"


def distinct(run: "Run", column: str, table: str = "predictions") -> list[str]:
    """The values of a key that have rows, in the experiment's order."""
    return [value for (value,) in answer(run, f"select distinct {column} from {table} order by 1").rows]  # noqa: S608 - ours


def some_images(run: "Run", most: int) -> list[str]:
    """The ids of at most so many images, spread evenly over the run in the order of their ids."""
    return [image for (image,) in answer(run, _SPREAD.format(most=most)).rows]


_SPREAD = """
select image_id from (
  select image_id, row_number() over (order by image_id) - 1 as place, count(*) over () as "of" from images)
where (place * {most}) % greatest("of", {most}) < {most}
order by image_id
"""
