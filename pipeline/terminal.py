"""Tables as the terminal shows them."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text


def text_table(title: str, headings: Iterable[object], rows: Iterable[Iterable[object]]) -> Table:
    """A table for the terminal; numbers are rounded to six digits."""
    table = Table(title=title or None, title_justify="left")
    for place, heading in enumerate(headings):
        # The first column names the row: it may not be cut off.
        table.add_column(Text(str(heading)), no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:.6g}" if isinstance(cell, float) else str(cell)) for cell in row))
    return table
