"""The tables of docs are what the rows in data/results give."""

import json
import re
from pathlib import Path

import pytest

from docs import evidence
from docs.evidence import FIGURES, KEPT, PAGES, figure, keep, renewed, unpacked
from megalith import open_run
from tests.support.runs import ROOT, Finished, rows

NAMES = sorted(each.name for each in KEPT.iterdir())
OURS = ("/root", "/tmp", "/home", "/work", "\\\\")  # noqa: S108 - looked for


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_table_is_what_its_rows_give(page: Path) -> None:
    assert renewed(page.read_text()) == page.read_text()


@pytest.mark.parametrize("path", FIGURES)
def test_each_figure_shows_what_its_rows_give(path: str) -> None:
    """Letters may be drawn otherwise elsewhere; the numbers are the marks' labels."""
    kept, anew = (re.findall(r'aria-label="([^"]+)"', svg) for svg in ((ROOT / path).read_text(), figure(path)))
    assert len(kept) > 5
    assert kept == anew
    page = (ROOT / path).with_suffix(".md").read_text()
    assert f"]({Path(path).name})" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rates_in_tables_have_kept_rows(page: Path) -> None:
    by_hand = re.sub(r"-->\n(\|[^\n]*\n)+", "-->\n", page.read_text())
    assert re.findall(r"^\|.*\d+/\d+ .*\[\d+–\d+\].*$", by_hand, re.MULTILINE) == []


def test_all_that_is_kept_is_shown() -> None:
    shown = re.findall(r"<!-- megalith \w+ ([\w-]+) ", "".join(page.read_text() for page in PAGES))
    assert set(shown) == set(NAMES)


def test_pictures_are_named_by_where_a_reader_puts_them() -> None:
    experiments = sorted((ROOT / "data" / "experiments").glob("*.yaml"))
    assert len(experiments) > 10
    named = [*PAGES, *experiments, ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
    assert [each.name for each in named if "../shared" in each.read_text()] == []


@pytest.mark.parametrize("name", NAMES)
def test_kept_rows_say_what_made_them_and_nothing_of_where(name: str) -> None:
    text = (KEPT / name / "run.json").read_text()
    assert [each for each in OURS if each in text] == []
    record = json.loads(text)
    assert record["commit"] and record["costs"] and record["versions"]["torch"]
    with unpacked(name) as run_directory:
        run = open_run(str(run_directory))
        assert {"/" in uri for uri in run.images["uri"]} == {False}
        assert len(run.images) == record["definitions"]["images"]["count"]


def test_a_table_that_is_not_what_its_rows_give_is_made_anew() -> None:
    marker = "<!-- megalith table quickstart --rows attack --columns model -->\n"
    made = renewed(f"before\n\n{marker}| wrong |\n| 1 |\n\nafter\n")
    assert made == renewed(f"before\n\n{marker}\nafter\n")
    assert "wrong" not in made and made.startswith(f"before\n\n{marker}| attack |") and made.endswith("|\n\nafter\n")


def test_kept_rows_are_the_runs(small_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "KEPT", tmp_path)
    keep(small_run.output, "small", commit="0123abc")
    assert not (tmp_path / "small" / "canvases.parquet").exists()
    with unpacked("small") as run_directory:
        for table in ("attacks", "predictions", "failures"):
            assert sorted(rows(run_directory, table), key=repr) == sorted(rows(small_run.output, table), key=repr)
        names = [Path(row["uri"]).name for row in rows(small_run.output, "images")]
        assert sorted(row["uri"] for row in rows(run_directory, "images")) == sorted(names)
