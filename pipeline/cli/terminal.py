"""Tables as the terminal shows them."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

_NARROWEST = 8
"""Characters that a column is left, or as many as it needs; what is longer is folded."""


def console() -> Console:
    """Where tables are printed. A pipe has no width: nothing is folded there."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def text_table(title: str, headings: Iterable[object], rows: Iterable[Iterable[object]]) -> Table:
    """A table for the terminal; numbers are rounded to six digits."""
    table = Table(title=title or None, title_justify="left")
    written = [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    for place, heading in enumerate(map(str, headings)):
        longest = max((len(cells[place]) for cells in written), default=0)
        table.add_column(Text(heading), overflow="fold", min_width=min(_NARROWEST, max(longest, len(heading))))
    for cells in written:
        table.add_row(*map(Text, cells))
    return table
