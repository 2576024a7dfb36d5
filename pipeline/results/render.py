"""Findings as tables on the terminal."""

from functools import partial
from typing import TYPE_CHECKING

from pipeline.cli.terminal import text_table
from pipeline.results import findings
from pipeline.results.cases import ADAPTIVE, beyond_budget, labelled, shown, shown_attack
from pipeline.results.statistics import Rate
from pipeline.results.tables import Run
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

_UNKNOWN = " *"
_NOT_KNOWN = "* no attack here knows this defence: it was not attacked, which is not the same as that it holds."
_WRONG_ALREADY = "its surrogates get them wrong when clean"
_OWN = "do not count, as the class that it wants of them is their label"
_TRANSFER = "Attack success: of the images that the model gets right when clean, the share that the attack turns"


def print_summary(run: Run, console: "Console") -> None:
    """Prints clean accuracy, the transfer table, what each defence gives and costs, and failures."""
    order = findings.orders(run.record)
    accuracy = _in_order(findings.accuracy(run).rows, order)
    undefended = accuracy[accuracy["defense"] == findings.UNDEFENDED]
    console.print(_pivot("Clean accuracy", undefended[undefended["attack"] == CLEAN], "model", "view"))
    for said in labelled(run):
        console.print(said)
    success = _in_order(findings.success(run).rows, order)
    transfer = success[success["defense"] == findings.UNDEFENDED]
    if len(transfer):
        console.print(_pivot(_TRANSFER, transfer, "attack", "model", cost=findings.costs(run)))
        for left in findings.untouched(run).itertuples():
            console.print(f"{left.attack} left {left.images} of {left.of} images untouched: {_WRONG_ALREADY}")
        for own in findings.own_targets(run).itertuples():
            console.print(f"{own.attack}: {own.images} of {own.of} images {_OWN}")
        for said in beyond_budget(run, order["attack"]):
            console.print(said)
    if len(order["defense"]) > 1:
        _print_defenses(run, console, accuracy, order)
    failures = findings.failures(run)
    if len(failures):
        console.print(text_table("Failures", failures.columns, failures.itertuples(index=False)))


def _print_defenses(run: Run, console: "Console", accuracy: "pd.DataFrame", order: dict[str, list[str]]) -> None:
    """A table for each attacked target, where defences have most to do; the longer of its two sides goes down."""
    down, across = "defense", "attack"
    if len(order["attack"]) > len(order["defense"]):
        down, across = across, down
    known = findings.attacked_defenses(run)
    attacked = [name for name in order["model"] if (name, findings.UNDEFENDED) in known]
    for model in attacked:
        title = f"Defences: accuracy of {model} on clean and on attacked images behind each"
        rates = accuracy[accuracy["model"] == model]
        marks = {name: name if (model, name) in known else name + _UNKNOWN for name in rates["defense"].cat.categories}
        console.print(_pivot(title, rates.assign(defense=rates["defense"].cat.rename_categories(marks)), down, across))
        if any(name.endswith(_UNKNOWN) for name in marks.values()):
            console.print(_NOT_KNOWN)
    others = [name for name in order["model"] if name not in attacked]
    if others:
        console.print(f"Behind defences, {', '.join(others)}: open_run(…).success(), or megalith sql")


def _in_order(rates: "pd.DataFrame", order: dict[str, list[str]]) -> "pd.DataFrame":
    """The rows of the last experiment (a run directory may hold more), in the order in which it names things.

    The variants of an adaptive attack, each behind the defence that it knows, come under one name after the attack.
    """
    import pandas as pd  # noqa: PLC0415 - takes a second, and only summaries need it

    rates = rates.assign(attack=[shown_attack(row.attack, row.defense) for row in rates.itertuples()])
    names = {**order, "attack": [each for name in order["attack"] for each in (name, name + ADAPTIVE)]}
    for column, some in names.items():
        rates = rates[rates[column].isin(some)]
        rates = rates.assign(**{column: pd.Categorical(rates[column], categories=some, ordered=True)})
    return rates.sort_values(list(names))


def _pivot(title: str, rates: "pd.DataFrame", down: str, across: str, cost: "pd.DataFrame | None" = None) -> "Table":
    """A table of rates with 95 % intervals; views, if there are several, get rows of their own.

    `cost` has the mean forwards and backwards per image of each attack.
    """
    index = [down, "view"] if across != "view" and rates["view"].nunique() > 1 else [down]
    cells = [str(Rate(row.successes, row.of)) for row in rates.itertuples()]
    pivoted = rates.assign(cell=cells).pivot_table(
        index=index, columns=across, values="cell", aggfunc="first", observed=True
    )
    grid = pivoted.fillna("").reset_index().rename(columns=partial(shown, across))
    grid[down] = [shown(down, name) for name in grid[down]]
    if cost is not None:
        passes = cost.set_index("attack")
        for place, column in enumerate(("forwards", "backwards"), start=len(index)):
            grid.insert(place, column, [f"{passes[column][attack]:.0f}" for attack in grid["attack"]])
    return text_table(title, grid.columns, grid.itertuples(index=False))
