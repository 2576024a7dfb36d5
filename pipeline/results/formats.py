"""Sheets: what a command found, for a terminal, a paper, a page or a program. Names are shown, never obeyed."""

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.cli.terminal import console, csv_value, json_value, text_table
from transforms.errors import printable, unknown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table for readers, and the numbers behind it for programs.

    Attributes:
        title: one line that says what the numbers are of.
        headings, cells: the table, as text.
        numbers: one row for each number, not rounded; what CSV and JSON hold.
        notes: sentences below the table.
    """

    title: str
    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    numbers: "pd.DataFrame"
    notes: Sequence[str] = ()


def print_sheet(sheet: Sheet, form: str) -> None:
    """Prints a sheet as one of `FORMS`; raises InputError if it is none."""
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if form in _WRITERS:
        print(_WRITERS[form](sheet), end="")
        return
    console().print(text_table(sheet.title, sheet.headings, sheet.cells))
    for note in sheet.notes:
        print(printable(note))


def csv_lines(headings: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """A table as CSV, record by record, each with its end of line. NaN and null are empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, which spreadsheets do not show
    (OWASP, "CSV Injection").
    """
    for row in (headings, *rows):
        record = io.StringIO()
        csv.writer(record, lineterminator="\n").writerow([_csv_cell(cell) for cell in row])
        yield record.getvalue()


def _csv_cell(cell: object) -> object:
    if isinstance(cell, float) and cell != cell:  # noqa: PLR0124 - NaN
        return ""
    value = csv_value(cell, shown=True)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""The last four are full-width signs, which spreadsheets take for the others."""


def _line(text: str) -> str:
    """A text on one line, without signs that a terminal acts upon."""
    return printable(text) if text else ""


def markdown(sheet: Sheet) -> str:
    """A table as GitHub's Markdown has it, below its title."""
    lines = [sheet.headings, ["---"] * len(sheet.headings), *sheet.cells]
    shown = [_markdown_text(line) if at != 1 else line for at, line in enumerate(lines)]
    table = [f"| {' | '.join(line)} |" for line in shown]
    title, *notes = _markdown_text([sheet.title, *sheet.notes])
    return "\n".join([title, "", *table, *(line for note in notes for line in ("", note))]) + "\n"


def _markdown_text(texts: Iterable[str]) -> list[str]:
    shown = (html.escape(_line(text), quote=False) for text in texts)
    return [re.sub(r"([\\`*_|~$]|(?<=\])\()", r"\\\1", text) for text in shown]


def latex(sheet: Sheet) -> str:
    r"""A table environment for a paper that says `\usepackage{booktabs}`; the notes are part of the caption."""
    caption, *_ = _latex_text([" ".join([f"{sheet.title}.", *sheet.notes])])
    head, *body = (" & ".join(_latex_text(line)) + r" \\" for line in (sheet.headings, *sheet.cells))
    columns = "l" + "r" * (len(sheet.headings) - 1)
    lines = [
        *(r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"),
        *(head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"),
    ]
    return "\n".join(lines) + "\n"


def _latex_text(texts: Iterable[str]) -> list[str]:
    shown = [_line(text).translate(_LATEX) for text in texts]
    return [f"{{{text}}}" if text.startswith(("[", "*")) else text for text in shown]  # options of the \\ before them


_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{"–": "--", "×": r"$\times$", "ε": r"$\varepsilon$", "∞": r"$\infty$"},
    }
)


def page(sheet: Sheet) -> str:
    """An HTML page with nothing but the table."""
    from jinja2 import Environment  # noqa: PLC0415 - most commands print no page

    shown = {
        **{"title": _line(sheet.title), "headings": map(_line, sheet.headings), "notes": map(_line, sheet.notes)},
        "cells": [list(map(_line, row)) for row in sheet.cells],
    }
    return Environment(autoescape=True).from_string(_PAGE).render(shown) + "\n"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; font: 1rem/1.4 system-ui, sans-serif; }
body { margin: 1rem; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.5rem; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #8888; text-align: left; white-space: nowrap; }
</style>
</head>
<body>
<table>
<caption>{{ title }}</caption>
<thead><tr>{% for each in headings %}<th scope="col">{{ each }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in cells %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody>
</table>
{%- for note in notes %}
<p>{{ note }}</p>
{%- endfor %}
</body>
</html>"""


def _csv(sheet: Sheet) -> str:
    return "".join(csv_lines(sheet.numbers.columns, sheet.numbers.itertuples(index=False, name=None)))


def _json(sheet: Sheet) -> str:
    names = list(sheet.numbers.columns)
    rows = [dict(zip(names, row, strict=True)) for row in sheet.numbers.itertuples(index=False, name=None)]
    return json.dumps(json_value({"title": sheet.title, "notes": list(sheet.notes), "rows": rows}), indent=1) + "\n"


_WRITERS = {"markdown": markdown, "latex": latex, "html": page, "csv": _csv, "json": _json}
FORMS = ("text", *_WRITERS)
