"""Attacks that differ in one key alone, such as ε: what can be drawn as a line."""

import json
from fractions import Fraction
from typing import TYPE_CHECKING

from pipeline.report.section import distinct
from pipeline.results.outcomes import quoted

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_STEP = "alpha"
"""A step's length, which goes with ε and the number of steps."""


def series(run: "Run", key: str) -> list[list[str]]:
    """Attacks with rows whose definitions are the same but for a key, and perhaps the length of a step; two or more
    each, with different values of the key, the least first."""
    defined, known = run.record.definitions.attacks, set(distinct(run, "attack", "attacks"))
    groups: dict[str, list[str]] = {}
    for name, definition in defined.items():
        if name in known and definition.get(key) is not None:
            rest = {other: value for other, value in definition.items() if other not in (key, _STEP)}
            groups.setdefault(json.dumps(rest, sort_keys=True), []).append(name)
    ordered = [sorted(names, key=lambda name: Fraction(str(defined[name][key]))) for names in groups.values()]
    return [names for names in ordered if defined[names[0]][key] != defined[names[-1]][key]]


def as_values(found: list[list[str]]) -> str:
    """Series as a table of SQL: attack, series."""
    pairs = ", ".join(f"({quoted(name)}, {quoted(', '.join(names))})" for names in found for name in names)
    return f"(values {pairs}) as series(attack, series)"
