"""Tables on the terminal look the same, whichever way they are laid out."""

import io
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.cli import terminal
from pipeline.cli.terminal import csv_value, json_value, print_table, text_table

CELLS = st.text("ab é日🐧\t\n.", max_size=12) | st.sampled_from(["", "x" * 30, "\x1b[31mred"]) | st.floats()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1)), st.data())
def test_rows_laid_out_as_one_look_like_rows(rows: list[list[object]], data: st.DataObject) -> None:
    headings = data.draw(st.lists(st.text("abc日", min_size=1), min_size=len(rows[0]), max_size=len(rows[0])))
    width = data.draw(st.sampled_from([20, 60, 200, 10_000]))

    def printed(known: int) -> str:
        console = Console(width=width, file=io.StringIO())
        console.print(text_table("a title", headings, rows, known))
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert printed(width) == printed(0)


@pytest.mark.parametrize(("width", "columns"), [(60, 12), (60, 6), (80, 30), (200, 15)])
def test_no_column_is_cut_off_on_a_narrow_terminal(width: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit across is shown downwards, each cell beside its column's name."""
    page = Console(width=width, file=io.StringIO())
    monkeypatch.setattr(terminal, "console", lambda: page)
    headings = [f"column_{n}" for n in range(columns)]
    print_table(headings, [[f"cell-{row}-{n}" for n in range(columns)] for row in range(3)])
    said = page.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, said.splitlines())) <= width
    if width < 11 * columns:
        found = re.findall(r"(\d) +│ column_(\d+) +│ cell-(\d)-(\d+)", said)
        assert found == [(str(row + 1), str(n), str(row), str(n)) for row in range(3) for n in range(columns)]
    else:
        assert "column_0" in said.splitlines()[1] and len(said.splitlines()) < 15


@given(st.floats(width=32))
def test_numbers_of_32_bits_are_written_as_short_as_they_read_back(value: float) -> None:
    written = csv_value(value, shown=False)
    assert str(np.float32(written)) == str(np.float32(value))
    assert (
        not math.isfinite(value) or abs(value) > 3.4e38 or len(repr(written)) <= len(str(float(str(np.float32(value)))))
    )


def test_a_number_of_32_bits_has_no_digits_that_nobody_measured() -> None:
    assert csv_value(float(np.float32(0.956)), shown=True) == 0.956
    assert json_value([float(np.float32(0.1)), {"p": float(np.float32(0.829))}]) == [0.1, {"p": 0.829}]


@given(st.floats(allow_nan=False))
def test_numbers_of_64_bits_stay_as_they_are(value: float) -> None:
    if float(np.float64(value).astype(np.float32)) != value:
        assert csv_value(value, shown=False) == value
