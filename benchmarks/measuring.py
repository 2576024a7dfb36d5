"""Interleaved timing: all contenders do the same work in turn, so that a machine's moods meet them alike."""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.memory import keep_memory

_BY_ITSELF = {-4: 65_536, -3: 2**25, -1: 2**26, -2: 2**17}
"""M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD: what glibc has once large blocks were freed."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """One contender's share of a comparison.

    Attributes:
        measure: what is compared.
        contender: who.
        value: median over the rounds, in `unit`.
        unit: such as images/s.
        ratio: median over the rounds of how many times as fast as the first contender, in the same round.
        low, high: the least and the greatest of these.
        note: what else was seen, such as the success of an attack.
    """

    measure: str
    contender: str
    value: float
    unit: str
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    note: str = ""


@contextmanager
def as_shipped() -> Iterator[None]:
    """Memory as users of other code have it: this project keeps what a pass frees, glibc by itself does not."""
    for number, value in _BY_ITSELF.items():
        ctypes.CDLL(None).mallopt(number, value)
    try:
        yield
    finally:
        keep_memory()


def peak_memory(process: int | str = "self") -> float:
    """Most resident memory of a process so far, MiB; 0 of one that has ended and was not waited for.

    (`ru_maxrss` is at least that of the process that started it.)
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 2**10 if found else 0.0


def interleaved(
    measure: str,
    contenders: Mapping[str, Work],
    *,
    rounds: int,
    images: int = 0,
    notes: Callable[[Any], str] = lambda found: "",
) -> list[Measured]:
    """Times contenders against the first of them.

    Args:
        contenders: each does the same work; one call of each goes before, untimed.
        images: that a call handles, for images/s; 0 for seconds.
        notes: says something of what a contender's last call returned.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, object] = {}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            gc.collect()
            started = time.perf_counter()
            found[name] = work()
            if number:
                seconds[name].append(time.perf_counter() - started)
    first = next(iter(seconds.values()))
    rows = []
    for name, took in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(first, took, strict=True)]
        median = statistics.median(took)
        value, unit = (images / median, "images/s") if images else (median, "s")
        low, high = min(ratios), max(ratios)
        rows.append(Measured(measure, name, value, unit, statistics.median(ratios), low, high, notes(found[name])))
    return rows


HEAD = "| what | who | median | times the first, [least–most] | seen |\n|---|---|---|---|---|"


def line(row: Measured) -> str:
    """A row of a table in Markdown."""
    ratio = f"{row.ratio:.2f}" + ("" if row.low == row.high else f" [{row.low:.2f}–{row.high:.2f}]")
    return f"| {row.measure} | {row.contender} | {row.value:.3g} {row.unit} | {ratio} | {row.note} |"


def table(rows: Sequence[Measured]) -> str:
    """All rows in Markdown."""
    return "\n".join([HEAD, *map(line, rows)])
