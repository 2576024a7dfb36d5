"""Tables on the terminal look the same, whichever way they are laid out."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.cli.terminal import text_table

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
