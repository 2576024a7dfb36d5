"""Evidence: the rows behind these pages, kept as Parquet in data/results, and the tables and figures made from them.

    python -m docs.evidence keep RUNDIR NAME   # keeps the rows of a finished run, without its pictures
    python -m docs.evidence show               # makes tables and figures of all pages anew (`make docs-tables`)

A page says above a table by which command it is made, with the name of kept rows in place of a run directory:

    <!-- megalith table quickstart --rows attack --columns model -->
    <!-- megalith sql quickstart "select label_name, count(*) as images from images group by all" -->
"""

import csv
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
import vl_convert
from typer.testing import CliRunner

from megalith import open_run
from pipeline.main import app as megalith
from pipeline.report.budgets import over_cost
from pipeline.report.defenses import defenses
from pipeline.report.lowpass import sweep
from pipeline.report.section import Section
from pipeline.report.transfer import transfer
from pipeline.report.views import views
from pipeline.results.record import RUN_JSON
from pipeline.results.tables import Run
from transforms.rows.parts import Part
from transforms.rows.tables import TABLES
from transforms.storage.seal import sealed
from transforms.storage.store import Store

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "data" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIGURES: dict[str, tuple[str, Callable[[Run], Section | None], str]] = {
    "docs/questions/one-network.svg": ("quickstart", transfer, "Untargeted attacks"),
    "docs/attacks-evidence.svg": ("recipes-lite0", over_cost, "Success and passes"),
    "docs/defenses.svg": ("defenses", defenses, "Accuracy of lite0 behind each defence"),
    "docs/questions/lowpass.svg": ("lowpass-sweep", sweep, "Accuracy behind lowpass, by cutoff"),
    "docs/questions/ten-crops.svg": ("questions-ten-crop-32", views, "Accuracy by view"),
    "docs/questions/two-networks.svg": ("ensembles", transfer, "Untargeted attacks"),
}
"""By file: the kept rows, the section of a report, and the title of its exhibit."""
_SMALLEST = 19
"""zstd's level: written once, and kept in the repository."""

_MADE = re.compile(r"(?P<marker><!-- megalith (?P<command>.+?) -->\n)(?P<table>(?:\|[^\n]*\n)*)", re.DOTALL)
app = typer.Typer(help="Rows behind the tables of docs.", pretty_exceptions_enable=False)


@app.command()
def keep(
    run_directory: Annotated[Path, typer.Argument(metavar="RUNDIR")],
    name: Annotated[str, typer.Argument()],
    commit: Annotated[str, typer.Option(help="Of the code that made the run; by default, what is checked out.")] = "",
) -> None:
    """Keeps a run's rows, one file and row group for each table, with the commit that made them."""
    run, folder = open_run(str(run_directory)), KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    for table in [each for each in TABLES if each != "canvases"]:
        rows = run.dataset(table).to_table()
        rows = rows.sort_by([(each, "ascending") for each in (*TABLES[table].partitions, "image_id")])
        if "uri" in rows.column_names:  # where the images were is nobody's business
            names = pc.replace_substring_regex(rows["uri"], ".*/", "")
            rows = rows.set_column(rows.column_names.index("uri"), rows.schema.field("uri"), names)
        path, whole = folder / f"{table}.parquet", max(1, len(rows))
        pq.write_table(rows, path, compression="zstd", compression_level=_SMALLEST, row_group_size=whole)
    record = json.loads((run_directory / RUN_JSON).read_text())
    (folder / RUN_JSON).write_text(json.dumps({**record, "commit": commit or _commit()}, indent=1) + "\n")


@app.command()
def show() -> None:
    """Makes the tables and figures of all pages anew."""
    for page in PAGES:
        page.write_text(renewed(page.read_text()))
    for path in FIGURES:
        (ROOT / path).write_text(figure(path))


def figure(path: str) -> str:
    """One of `FIGURES` as SVG. Its marks carry their numbers as `aria-label`."""
    name, make, title = FIGURES[path]
    with unpacked(name) as run_directory:
        section = make(open_run(str(run_directory)))
    (exhibit,) = [each for each in section.exhibits if each.title == title] if section else []
    # Pages may be dark, and a picture does not know.
    return f"{vl_convert.vegalite_to_svg({**(exhibit.chart or {}), 'background': 'white'})}\n"


def renewed(text: str) -> str:
    """A page with the tables that its markers stand for."""
    return _MADE.sub(lambda found: found["marker"] + _table(shlex.split(found["command"])), text)


@contextmanager
def unpacked(name: str) -> Iterator[Path]:
    """A run directory with kept rows, for as long as the context lasts: every command that reads results takes it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.publish_bytes(RUN_JSON, (KEPT / name / RUN_JSON).read_bytes())
        for table in [each for each in TABLES if each != "canvases"]:
            for part, rows in _by_part(table, pq.read_table(KEPT / name / f"{table}.parquet")):
                store.publish_bytes(part.compacted, sealed(rows))
        yield Path(folder)


def _by_part(table: str, rows: pa.Table) -> Iterable[tuple[Part, pa.Table]]:
    partitions = list(TABLES[table].partitions)
    columns = [each for each in TABLES[table].columns.names if each in rows.column_names]  # the others are newer
    for keys in rows.group_by(partitions).aggregate([]).to_pylist() if partitions else [{}]:
        chosen = rows
        for column, value in keys.items():
            chosen = chosen.filter(pc.equal(chosen[column], value))
        yield Part(table, 0, tuple(keys[each] for each in partitions)), chosen.select(columns)


def _table(command: list[str]) -> str:
    """The lines of a Markdown table that a command over kept rows prints."""
    verb, name, *rest = command
    form = "csv" if verb == "sql" else "markdown"
    with unpacked(name) as run_directory:
        done = CliRunner().invoke(megalith, [verb, str(run_directory), *rest, "--format", form])
    if done.exit_code:
        raise RuntimeError(f"megalith {shlex.join(command)}: {done.output}")
    if form == "markdown":
        return "".join(f"{line}\n" for line in done.stdout.splitlines() if line.startswith("|"))
    head, *rows = csv.reader(done.stdout.splitlines())
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def _commit() -> str:
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(described, cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603 - nobody's input
    return done.stdout.strip()


if __name__ == "__main__":
    app()
