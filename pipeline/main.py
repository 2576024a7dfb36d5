"""The command `megalith`: what the user types, and one line and an exit code for whatever goes wrong."""

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from typing import Annotated, Any, NoReturn

import pandas as pd
import torch
import typer
from rich.console import Console

from pipeline.experiment import load_experiment
from pipeline.results import open_run
from pipeline.run import Prepared, execute, prepare
from pipeline.runners import runner_options
from pipeline.summary import frame_table, print_summary
from transforms.attacks.recipes import RECIPES
from transforms.defenses.grid import DEFENSES, parameter_types
from transforms.errors import InputError
from transforms.models.sources import source_names
from transforms.models.views import VIEWS


class Exit(IntEnum):
    """Exit codes of the command."""

    DONE = 0
    BROKEN = 1
    WRONG_INPUT = 2
    DONE_WITH_FAILURES = 3
    INTERRUPTED = 130


class Format(StrEnum):
    """How `sql` prints its answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Thing(StrEnum):
    """What `list` lists."""

    ATTACKS = "attacks"
    DEFENSES = "defenses"
    MODELS = "models"
    VIEWS = "views"


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which adversarial pictures fool which ImageNet classifiers, and which defences bring the truth back.",
)
Output = Annotated[str, typer.Option(help="The run directory.")]
ExperimentFile = Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. attacks.mi4.eps=2/255")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    experiment: ExperimentFile,
    output: Output,
    change: Changes = None,
    runner: Annotated[str, typer.Option(help="Where Beam runs.")] = "direct",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Computes what an experiment still lacks, and shows the results. Other options are Beam's own."""
    console = Console()
    with _one_line_errors():
        options = runner_options(runner, context.args)
        prepared = prepare(load_experiment(experiment, change or []), output)
        _print_plan(prepared, console)
        for proof in execute(prepared, options, device):
            console.print(f"{proof.model}: {proof.correct} of {proof.of} clean images right", highlight=False)
            if proof.absurd:
                _say(f"warning: {proof.model} is mostly wrong on clean images; check its weights, and the labels")
        results = open_run(output)
        print_summary(results, prepared.experiment, console)
        failed = len(results.failures)
        _print_next_steps(output, console)
    raise typer.Exit(Exit.DONE_WITH_FAILURES if failed else Exit.DONE)


@app.command()
def plan(experiment: ExperimentFile, output: Output, change: Changes = None) -> None:
    """Shows what `run` would compute, and its cost. Writes nothing."""
    with _one_line_errors():
        _print_plan(prepare(load_experiment(experiment, change or []), output), Console())


@app.command()
def sql(
    run_directory: Annotated[str, typer.Argument(metavar="RUNDIR")],
    query: Annotated[str, typer.Argument(help="DuckDB's SQL over images, attacks, canvases, predictions, failures.")],
    form: Annotated[Format, typer.Option("--format")] = Format.TABLE,
) -> None:
    """Answers a query over a run's tables."""
    with _one_line_errors():
        answer = open_run(run_directory).sql(query)
    if form is Format.TABLE:
        Console().print(frame_table("", answer))
    else:
        print(answer.to_csv(index=False).rstrip() if form is Format.CSV else answer.to_json(orient="records"))


@app.command("list")
def list_(thing: Thing) -> None:
    """Shows the names that an experiment may use."""
    Console().print(frame_table("", pd.DataFrame(_LISTS[thing]())))


def _attacks() -> Iterator[dict[str, str]]:
    for name, recipe in RECIPES.items():
        yield {"recipe": name, "what": _summary(recipe.make), "parameters": _parameters(recipe.make), "source": recipe.source}


def _defenses() -> Iterator[dict[str, str]]:
    for name, function in DEFENSES.items():
        yield {"defense": name, "what": _summary(function), "parameters": ", ".join(parameter_types(name))}


def _models() -> Iterator[dict[str, str]]:
    return ({"model": name} for name in source_names())


def _views() -> Iterator[dict[str, str]]:
    return ({"view": name, "what": _summary(view)} for name, view in VIEWS.items())


_LISTS: dict[Thing, Callable[[], Iterable[dict[str, str]]]] = {
    Thing.ATTACKS: _attacks,
    Thing.DEFENSES: _defenses,
    Thing.MODELS: _models,
    Thing.VIEWS: _views,
}


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


def _parameters(function: Callable[..., Any]) -> str:
    own = [each for each in inspect.signature(function).parameters.values() if each.kind is each.KEYWORD_ONLY]
    return ", ".join(f"{each.name}={each.default}" for each in own)


def _print_plan(prepared: Prepared, console: Console) -> None:
    images = sum(len(chunk.refs) for chunk in prepared.chunks)
    console.print(f"{prepared.experiment.name}: {images} images in {len(prepared.chunks)} chunks → {prepared.store.root}")
    cost, total = prepared.plan.cost, prepared.plan.total
    steps = [{"step": kind, "units": total[kind], "to do": cost[kind]} for kind in ("load", "attack", "predict")]
    console.print(frame_table("", pd.DataFrame(steps)))
    console.print(f"to do: about {cost['forwards']:,} forward and {cost['backwards']:,} backward passes", highlight=False)
    if prepared.leftovers:
        console.print(f"{len(prepared.leftovers)} damaged or unfinished files are made again", highlight=False)


def _print_next_steps(output: str, console: Console) -> None:
    console.print(
        f"\nThe tables are Parquet files in {output}. To go on:\n"
        f'  megalith sql {output} "select attack, model, avg(correct::int) from predictions group by all order by all"\n'
        "  megalith list attacks\n"
        "  Add a model, an attack or a defence to the experiment and run again: only what is missing is computed.",
        highlight=False,
        soft_wrap=True,
    )


def _say(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _say(f"megalith: {error}")
        raise typer.Exit(Exit.WRONG_INPUT) from None
    except (OSError, torch.OutOfMemoryError, torch.AcceleratorError) as error:
        _stop(f"megalith: stopped: {error}; what is finished is kept, the same command goes on", Exit.BROKEN)
    except KeyboardInterrupt:
        _stop("megalith: interrupted; what is finished is kept, the same command goes on", Exit.INTERRUPTED)


def _stop(message: str, code: Exit) -> NoReturn:
    _say(message)
    sys.stdout.flush()
    # Other workers may be in the middle of an attack. Parts are published whole, so they need not be waited for.
    os._exit(code)


def main() -> None:
    """Entry point of the console command."""
    # Beam warns about extras that a local run does not need, and about each step that it optimises.
    logging.getLogger().setLevel(logging.ERROR)
    app()
