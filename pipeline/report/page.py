"""The page: all sections of a run in one HTML file that needs nothing else."""

import base64
import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.report.budgets import over_cost, over_eps
from pipeline.report.calibration import calibration
from pipeline.report.defenses import defenses
from pipeline.report.figures import figures
from pipeline.report.gallery import gallery
from pipeline.report.hygiene import hygiene
from pipeline.report.lowpass import sweep
from pipeline.report.overview import overview
from pipeline.report.robustness import robustness
from pipeline.report.section import RATES, Section, Table
from pipeline.report.spectra import spectra
from pipeline.report.transfer import transfer
from pipeline.report.views import views
from pipeline.results.formats import csv_lines
from pipeline.results.statistics import Rate
from transforms.errors import InputError
from transforms.storage.files import is_remote

if TYPE_CHECKING:
    from pipeline.results.tables import Run

SECTIONS = (
    overview,
    figures,
    transfer,
    over_eps,
    over_cost,
    sweep,
    spectra,
    defenses,
    views,
    robustness,
    calibration,
    hygiene,
    gallery,
)
"""In the order of the page. Each is a function of a run; None where it has nothing to show."""

_SHOWN = 200
"""Rows of a table on the page; its CSV has all."""


def report(run: "Run") -> str:
    """The page as HTML. What readers of the run warn of stands on it, and is warned of once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with run.asked_at_once():
            sections = [section for make in SECTIONS if (section := make(run)) is not None]
    said = list(dict.fromkeys(str(each.message) for each in caught if each.category is UserWarning))
    for message in said:
        warnings.warn(message, stacklevel=2)
    return html_page(str(run.record.experiment.get("name", "run")), sections, said)


def write_report(run: "Run", path: Path | None = None) -> Path:
    """Writes the page, whole or not at all, and returns where; by default to `report.html` in the run directory.

    Raises:
        InputError: the run directory is on an object store and no path is given, or the path's folder is not there.
    """
    if path is None and is_remote(run.store.root):
        raise InputError("--output: give a file on this machine; the run directory is on an object store")
    path = path or Path(run.store.root) / "report.html"
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--output: {str(path)!r} is not a file in a folder of this machine")
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(report(run), encoding="utf-8")
    return unfinished.replace(path)


def html_page(name: str, sections: Sequence[Section], said: Sequence[str]) -> str:
    """Sections as HTML, below notices of what was `said` when they were made."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - takes its time
    from markupsafe import Markup  # noqa: PLC0415

    scripts = [_inline(_charting()), _inline(_script())]
    surroundings = Environment(
        loader=PackageLoader("pipeline", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    surroundings.filters |= {"csv_address": csv_address, "shown": _shown, "slug": slug, "prose": _prose}
    return surroundings.get_template("template.html").render(
        name=name,
        sections=sections,
        said=said,
        most=_SHOWN,
        scripts=[Markup(each) for each in scripts],  # noqa: S704 - Vega's and ours, nothing of a user's
        hashes=[base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts],
    )


@cache
def _charting() -> str:
    """Vega, Vega-Lite and Vega-Embed, which draw charts."""
    import vl_convert  # noqa: PLC0415 - takes seconds

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed")
    return bundle


def _script() -> str:
    return (resources.files("pipeline.report") / "page.js").read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script that can stand inside a page: no end tag in it."""
    return re.sub("</(script)", r"<\\/\1", script, flags=re.IGNORECASE).replace("<!--", "<\\!--")


def _prose(words: str) -> str:
    """Words as HTML, with what stands between backticks as code."""
    from markupsafe import Markup, escape  # noqa: PLC0415 - said above

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(words))))  # noqa: S704 - escaped


def slug(text: str) -> str:
    """A text as the name of a file or of a place on the page: letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "data"


def csv_address(table: Table) -> str:
    """A table as a CSV file inside an address."""
    content = "".join(csv_lines(table.headings, table.rows))
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content.encode()).decode()}"


def _shown(table: Table) -> Table:
    """A table as the page has it: its first rows, as text, with a rate and its interval in one column."""
    names = [name for name in table.headings if name not in RATES[1:]] if set(RATES) <= {*table.headings} else None
    headings = [*table.headings] if names is None else ["rate" if name == RATES[0] else name for name in names]
    rows = []
    for row in table.records()[:_SHOWN]:
        if names is not None:
            row[RATES[0]] = str(Rate(row[RATES[0]], row["of"]))
        rows.append(tuple(_cell(row[name]) for name in names or table.headings))
    return Table(tuple(headings), tuple(rows))


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
