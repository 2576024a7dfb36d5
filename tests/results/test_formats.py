"""Sheets in every format, read back by readers of these formats; names that mean harm do none."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from pipeline.results.formats import FORMS, Sheet, csv_lines, latex, markdown, page, print_sheet
from transforms.errors import InputError

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; \"double\" 'single'",
    "a|b||c",
    "[click](javascript:alert(1))",
    "*[x]* _y_ **z** `code` ~~gone~~",
    r"\input{/etc/passwd} \write18{ls} \\ \end{tabular}",
    "50 % of $x^2$ & {y} # ~",
    "[0.5em] begins a row",
    "* begins another",
    '=HYPERLINK("http://x")',
    "+1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "-1+1",
    "{{ 7 * 7 }} {% raw %}",
    "red \x1b[31m bell \x07",
    "two\nlines\r\nand\ttabs",
]
"""Names of attacks, models, classes and images are whatever a user's files say."""


def shown(name: str) -> str:
    """What a reader sees: one line, control signs spelled out."""
    return " ".join(name.replace("\x1b", "\\x1b").replace("\x07", "\\x07").split())


SHEET = Sheet(
    title="Success; model <b>x</b> & 100 % [red]\x1b[1m",
    headings=["attack", *HOSTILE[:2]],
    cells=[[name, "17/18 94% [74–99]", ""] for name in HOSTILE],
    numbers=pd.DataFrame({"attack": HOSTILE, "rate": [0.5] * 16 + [float("nan")], "of": range(17)}),
    notes=["Of $1 <i>and</i> all.", "ε is 4/255 × 2, L∞."],
)


class _Reader(HTMLParser):
    """Rows of cells of an HTML table, and the names of all elements."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: set[str] = set()
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert not any(name.startswith("on") or name in {"href", "src"} for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


TABLE = [["attack", *map(shown, HOSTILE[:2])], *([shown(name), "17/18 94% [74–99]", ""] for name in HOSTILE)]


TABLE_ELEMENTS = ("table", "thead", "tbody", "tr", "th", "td")


def test_a_page_shows_names_as_they_are() -> None:
    reader = _Reader()
    reader.feed(page(SHEET))
    assert reader.rows == TABLE
    assert reader.elements <= {"html", "head", "meta", "title", "style", "body", "caption", "p", *TABLE_ELEMENTS}
    assert "<title>Success; model &lt;b&gt;x&lt;/b&gt; &amp; 100 % [red]\\x1b[1m</title>" in page(SHEET)


def test_markdown_shows_names_as_they_are() -> None:
    """With HTML passed on, as GitHub does."""
    reader = _Reader()
    reader.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown(SHEET)))
    assert reader.rows == TABLE
    assert reader.elements == {"p", *TABLE_ELEMENTS}


SIGNS = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">", "bar": "|"}


def read_latex(cell: str) -> str:
    """What LaTeX prints for a cell in which nothing but signs is spelled with a backslash."""
    inside = cell[1:-1] if cell.startswith(("{[", "{*")) else cell
    assert re.fullmatch(r"([^\\&%$#_{}~^<>|]|\\[&%$#_{}]|\\text[a-z]+\{\})*", inside), cell
    return re.sub(r"\\text([a-z]+)\{\}|\\(.)", lambda found: SIGNS[found[1]] if found[1] else found[2], inside)


def test_latex_has_a_row_for_each_and_no_command_of_theirs() -> None:
    text = latex(SHEET)
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    cells = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in body]
    assert [[read_latex(cell) for cell in row] for row in cells] == [
        [shown(name), "17/18 94% [74--99]", ""] for name in HOSTILE
    ]
    assert not any(line.startswith(("[", "*")) for line in body)  # an option of the end of the line before
    assert r"\caption{Success; model \textless{}b" in text and r"$\varepsilon$ is 4/255 $\times$ 2, L$\infty$.}" in text
    assert text.count(r"\end{tabular}") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{latex(SHEET)}\end{{document}}"
    (tmp_path / "table.tex").write_text(document)
    line = ["pdflatex", "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Misplaced" not in done.stdout and (tmp_path / "table.pdf").stat().st_size > 1000


def test_csv_holds_no_formulas_and_reads_back() -> None:
    text = "".join(csv_lines(SHEET.numbers.columns, SHEET.numbers.itertuples(index=False, name=None)))
    headings, *found = list(csv.reader(io.StringIO(text)))
    assert headings == ["attack", "rate", "of"]
    assert not any(cell.startswith(tuple("=+-@\t\r\n")) for row in found for cell in row)
    for (name, rate, of), expected, at in zip(found, HOSTILE, range(17), strict=True):
        assert name.removeprefix("'") == expected.replace("\x1b", "\\x1b").replace("\x07", "\\x07").replace(
            "\r", "\\r"
        ).replace("\t", "\\t")
        assert name.startswith("'") == (expected[0] in "=+-@")
        assert (rate, of) == ("" if at == 16 else "0.5", str(at))


def test_negative_numbers_are_no_formulas() -> None:
    assert list(csv_lines(["difference"], [[-0.25], [-3], [None]])) == ["difference\n", "-0.25\n", "-3\n", '""\n']


def test_json_is_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_sheet(SHEET, "json")
    found = json.loads(capsys.readouterr().out)
    assert (found["title"], found["notes"]) == (SHEET.title, SHEET.notes)
    assert [row["attack"] for row in found["rows"]] == HOSTILE
    assert found["rows"][-1] == {"attack": HOSTILE[-1], "rate": None, "of": 16}


def test_a_terminal_is_sent_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_sheet(SHEET, "text")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "100 % [red]\\x1b[1m" in " ".join(out.split())
    assert "[click](javascript:alert(1))" in out and "red \\x1b[31m bell \\x07" in out


def test_formats_have_names() -> None:
    assert FORMS == ("text", "markdown", "latex", "html", "csv", "json")
    with pytest.raises(InputError, match="unknown format 'tex'; did you mean 'text'"):
        print_sheet(SHEET, "tex")
