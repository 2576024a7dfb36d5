"""What a person reads on the terminal: tables, plans, and lines on stderr."""

import base64
import csv
import json
import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.process import warn
from transforms.errors import InputError, printable, visible

if TYPE_CHECKING:
    from pipeline.results.record import Json
    from pipeline.run.clean_accuracy import CleanAccuracy
    from pipeline.run.prepare import Prepared

_NARROWEST = 8
"""Characters that a column is left, or as many as it needs; what is longer is folded."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # Rich's own would end the process.


def console() -> Console:
    """Where tables are printed. A pipe has no width: nothing is folded there."""
    return _Console() if sys.stdout.isatty() else _Console(width=10_000)


def text_table(title: str, headings: Iterable[object], rows: Iterable[Iterable[object]], width: int = 0) -> Table:
    """A table for the terminal; numbers are rounded to six digits, and bytes are counted.

    Args:
        width: of the terminal. Where nothing has to be folded, Rich lays out all rows as one, many times as fast.
    """
    table = Table(title=Text(visible(title)) if title else None, title_justify="left")
    names = [visible(str(each)) for each in headings]
    written = [[_written(cell) for cell in row] for row in rows]
    columns = [[row[place] for row in written] for place in range(len(names))]
    widths = [max(map(cell_len, [name, *column])) for name, column in zip(names, columns, strict=True)]
    for name, longest in zip(names, widths, strict=True):
        table.add_column(Text(name), overflow="fold", min_width=min(_NARROWEST, longest))
    fits = sum(widths) + 3 * len(widths) + 1 <= width and not any("\n" in cell for row in written for cell in row)
    if written and fits:
        written = [["\n".join(column) for column in columns]]
    for cells in written:
        table.add_row(*map(Text, cells))
    return table


def _written(cell: object) -> str:
    if isinstance(cell, bytes):
        return f"{len(cell):,} bytes"
    return f"{cell:.6g}" if isinstance(cell, float) else visible(str(cell))


def print_table(headings: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Prints a table without a title; where the terminal is too narrow for its columns, each cell on a line."""
    target, names, listed = console(), [*headings], [[*row] for row in rows]
    table = text_table("", names, listed, target.width)
    if sum(3 + (column.min_width or 0) for column in table.columns) + 1 > target.width:  # Rich would cut some off
        cells = ((place, *cell) for place, row in enumerate(listed, 1) for cell in zip(names, row, strict=True))
        table = text_table("", ["row", "column", "value"], cells, target.width)
    target.print(table)


def print_answer(form: str, headings: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Prints what a query found: as a table, csv or json."""
    if form == "csv":
        lines = ([csv_value(cell, shown=sys.stdout.isatty()) for cell in row] for row in (headings, *rows))
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
    elif form == "json":
        print(json.dumps([json_object(headings, row) for row in rows]))
    else:
        print_table(headings, rows)


_SINGLE = 3.4e38
"""No number of 32 bits is larger, but for a few."""


def json_object(headings: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    """A row as JSON, which has neither infinities, nor bytes, nor two keys of one name; raises InputError for those."""
    if len(set(headings)) < len(headings):
        raise InputError(f"sql: JSON needs a name of its own for each column, not {', '.join(headings)}")
    return dict(zip(headings, map(json_value, row), strict=True))


def json_value(value: Any) -> Any:
    """A value as JSON has it, lists and structures too: null for infinities and NaN, base64 for bytes."""
    if isinstance(value, dict):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return _shortest(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _shortest(value: float) -> float:
    """A number that a column of 32 bits holds, with no more decimals than tell it from its neighbours there: 0.956
    rather than 0.9559999704360962. Others stay as they are."""
    import numpy as np  # noqa: PLC0415 - a moment that `--help` has no use for

    single = np.float32(value) if abs(value) <= _SINGLE else np.float32("nan")
    return float(str(single)) if float(single) == value else value


def csv_value(value: Any, *, shown: bool) -> Any:
    """A value as CSV has it: JSON for lists and structures, base64 for bytes.

    Args:
        shown: whether it goes to a terminal, which acts upon some signs.
    """
    if isinstance(value, list | tuple | dict):
        value = json.dumps(json_value(value), ensure_ascii=False)
    elif isinstance(value, bytes):
        value = base64.b64encode(value).decode()
    elif isinstance(value, float):
        value = _shortest(value)
    return visible(value) if shown and isinstance(value, str) else value


def print_plan(prepared: "Prepared") -> None:
    """What is going to be computed, and its cost."""
    meant = prepared.chunks[prepared.shard.slice]
    images, where = sum(len(chunk.refs) for chunk in meant), printable(prepared.store.root)
    share = "" if prepared.shard.is_whole else f", shard {prepared.shard}"
    print(f"{prepared.experiment.name}{share}: {images} images in {len(meant)} chunks, to {where}")
    cost, total = prepared.plan.cost, prepared.plan.total
    print_table(["task", "in all", "to do"], ((kind, total[kind], cost[kind]) for kind in total))
    attacks = prepared.plan.attack_passes
    if attacks:
        rows = ((name, f"{forwards:,}", f"{backwards:,}") for name, (forwards, backwards) in attacks.items())
        print_table(["passes of", "forwards", "backwards"], rows)
    print(f"to do: about {cost['forwards']:,} forward and {cost['backwards']:,} backward passes")
    if prepared.damaged:
        print(f"damaged parts: {len(prepared.damaged)}, {printable(prepared.damaged[0])} among them")
        print("`run` removes them, and makes those of this experiment again")
    if prepared.again:
        print(f"made again, with all that depends on it: {len(prepared.again)} parts, {prepared.again[0].path} first")
    for warning in prepared.warnings:
        warn(warning)


def print_clean_accuracy(found: "CleanAccuracy") -> None:
    """How a model did on clean images; a warning where that is implausible."""
    print(f"{found.model}: {found.correct} of {found.of} clean images right", flush=True)
    if found.implausible:
        known = "" if found.published is None else f", far below the published {found.published:.1%}"
        warn(
            f"{found.model} is right on {found.correct} of {found.of} clean images{known}; check its weights, "
            "its preprocessing, and the labels"
        )


def print_times(cost: "Json") -> None:
    """What took the time of a run: an entry of the record's `costs`. Seconds of all workers are added up."""
    steps = cost.get("steps", {})
    rows = (
        (name, each["count"], f"{each['seconds']:.1f}", f"{each['seconds'] / max(1, each['count']):.3g}")
        for name, each in steps.items()
    )
    if steps:
        title = f"Time of all workers; {cost['seconds']} s on the clock"
        console().print(text_table(title, ["work", "times", "seconds", "seconds each"], rows))
