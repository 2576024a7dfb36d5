"""What a run found, as tables on the terminal."""

import pandas as pd
from rich.console import Console
from rich.table import Table

from pipeline.cli.terminal import text_table
from pipeline.config.experiment import Experiment
from pipeline.results.statistics import Rate
from pipeline.results.tables import Run
from transforms.defenses.defense import NO_DEFENSE
from transforms.rows.parts import CLEAN

_ACCURACY = """
select attack, model, view, defense, sum(correct::int)::bigint as successes, count(*) as "of"
from predictions group by all
"""
_SHOWN = {"attack": {CLEAN: "clean"}, "defense": {NO_DEFENSE.name: "undefended"}}
_ADAPTIVE = ", adaptive"
_UNKNOWN = " *"
_NOT_KNOWN = "* no attack here knows this defence: it was not attacked, which is not the same as that it holds."
_COST = "select attack, avg(forwards) as forwards, avg(backwards) as backwards from attacks group by attack"
_FAILURES = "select stage, message, count(*) as images from failures group by all order by images desc, message"


def print_summary(run: Run, experiment: Experiment, console: Console) -> None:
    """Prints clean accuracy, the transfer table, what each defence gives and costs, and failures."""
    accuracy = _in_order(_with_adaptive(run.sql(_ACCURACY), experiment), experiment)
    undefended = accuracy[accuracy["defense"] == NO_DEFENSE.name]
    console.print(_pivot("Clean accuracy", undefended[undefended["attack"] == CLEAN], "model", "view"))
    success = _in_order(run.success(), experiment)
    transfer = success[success["defense"] == NO_DEFENSE.name]
    if len(transfer):
        title = "Attack success: of the images that a model gets right when they are clean, those the attack turns"
        console.print(_pivot(title, transfer, "attack", "model", cost=run.sql(_COST)))
    if experiment.defenses:
        # The longer of the two goes down the page.
        down, across = "defense", "attack"
        if len(experiment.attacks) > len(experiment.defenses):
            down, across = across, down
        for model in _attacked(experiment):
            title = f"Defences: accuracy of {model} on clean and on attacked images behind each"
            rates = _marked(accuracy[accuracy["model"] == model], experiment, model)
            console.print(_pivot(title, rates, down, across))
            if any(name.endswith(_UNKNOWN) for name in rates["defense"].cat.categories):
                console.print(_NOT_KNOWN)
        others = [name for name in experiment.targets if name not in _attacked(experiment)]
        if others:
            console.print(f"Behind defences, {', '.join(others)}: open_run(…).success(), or megalith sql")
    failures = run.sql(_FAILURES)
    if len(failures):
        console.print(text_table("Failures", failures.columns, failures.itertuples(index=False)))


def _with_adaptive(rates: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """The variants of adaptive attacks, each behind the defence that it knows, under one name."""
    variants = {
        (spec.name, spec.defense.name): spec.variant_of + _ADAPTIVE
        for spec in experiment.specs
        if spec.variant_of is not None
    }
    names = [variants.get((row.attack, row.defense), row.attack) for row in rates.itertuples()]
    return rates.assign(attack=names)


def _marked(rates: pd.DataFrame, experiment: Experiment, model: str) -> pd.DataFrame:
    """Rates with a mark on each defence that no attack on this model knows."""
    known = {spec.defense.name for spec in experiment.specs if model in spec.surrogates} | {NO_DEFENSE.name}
    marks = {name: name if name in known else name + _UNKNOWN for name in rates["defense"].cat.categories}
    return rates.assign(defense=rates["defense"].cat.rename_categories(marks))


def _in_order(rates: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """The rows of the experiment at hand (a run directory may hold more), in the order in which it names things."""
    orders = {
        "attack": [CLEAN, *(each for name in experiment.attacks for each in (name, name + _ADAPTIVE))],
        "model": experiment.targets,
        "view": experiment.views,
        "defense": [NO_DEFENSE.name, *(defense.name for defense in experiment.defenses)],
    }
    for column, names in orders.items():
        rates = rates[rates[column].isin(names)]
        rates = rates.assign(**{column: pd.Categorical(rates[column], categories=list(names), ordered=True)})
    return rates.sort_values(list(orders))


def _attacked(experiment: Experiment) -> list[str]:
    """The targets that some attack has as a surrogate: where defences have most to do."""
    surrogates = {name for attack in experiment.attacks.values() for name in attack.surrogates}
    return [name for name in experiment.targets if name in surrogates]


def _pivot(title: str, rates: pd.DataFrame, down: str, across: str, cost: pd.DataFrame | None = None) -> Table:
    """A table of rates with 95 % intervals; views, if there are several, get rows of their own.

    `cost` has the mean forwards and backwards per image of each attack.
    """
    index = [down, "view"] if across != "view" and rates["view"].nunique() > 1 else [down]
    cells = [str(Rate(row.successes, row.of)) for row in rates.itertuples()]
    pivoted = rates.assign(cell=cells).pivot_table(
        index=index, columns=across, values="cell", aggfunc="first", observed=True
    )
    shown = pivoted.fillna("").reset_index().rename(columns=_SHOWN.get(across, {}))
    shown[down] = [_SHOWN.get(down, {}).get(name, name) for name in shown[down]]
    if cost is not None:
        passes = cost.set_index("attack")
        for place, column in enumerate(("forwards", "backwards"), start=len(index)):
            shown.insert(place, column, [f"{passes[column][attack]:.0f}" for attack in shown["attack"]])
    return text_table(title, shown.columns, shown.itertuples(index=False))
