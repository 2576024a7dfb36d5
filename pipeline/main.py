"""The command `megalith`: what the user types, and one line and an exit code for whatever goes wrong.

Each command imports what it needs when it runs, so that none waits for the libraries of another.
"""

import atexit
import base64
import csv
import inspect
import json
import logging
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from transforms.errors import InputError, StoppedError

if TYPE_CHECKING:
    from pipeline.proof import Proof
    from pipeline.run import Prepared
    from transforms.attacks.registry import Recipe


class Exit(IntEnum):
    """Exit codes of the command."""

    DONE = 0
    STOPPED = 1
    WRONG_INPUT = 2
    DONE_WITH_FAILURES = 3
    INTERRUPTED = 130
    TERMINATED = 143


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
    pretty_exceptions_enable=False,
    help="Which adversarial pictures fool which ImageNet classifiers, and which defences bring the truth back.",
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
ExperimentFile = Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml")]
Output = Annotated[str, typer.Option(metavar="RUNDIR", help="The run directory.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. attacks.mi4.eps=2/255")]


@app.command(context_settings=_PASS_ON)
def run(
    context: typer.Context,
    experiment: ExperimentFile,
    output: Output,
    change: Changes = None,
    runner: Annotated[str, typer.Option(help="Where Beam runs.")] = "direct",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    models_in_memory: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Models that a worker may hold at once; by default all.")
    ] = None,
) -> None:
    """Computes what an experiment still lacks, and shows the results. Other options are Beam's own."""
    with _one_line_errors():
        from pipeline.experiment import load_experiment
        from pipeline.results import open_run
        from pipeline.run import execute, prepare
        from pipeline.runners import check_paths, runner_options
        from pipeline.summary import print_summary
        from pipeline.terminal import console
        from transforms.held_models import torch_device

        options = runner_options(runner, context.args)
        torch_device(device)
        prepared = prepare(load_experiment(experiment, change or []), output)
        check_paths(runner, prepared.paths)
        _print_plan(prepared)
        execute(prepared, options, device, _print_proof, models_in_memory)
        results = open_run(output)
        print_summary(results, prepared.experiment, console())
        command = "megalith" if shutil.which("megalith") else sys.argv[0]
        print(_NEXT_STEPS.format(command=command, output=shlex.quote(output)))
        code = Exit.DONE_WITH_FAILURES if len(results.failures) else Exit.DONE
    raise typer.Exit(code)


@app.command(context_settings=_PASS_ON)
def plan(
    context: typer.Context,
    experiment: ExperimentFile,
    output: Output,
    change: Changes = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Also how long N workers need, by timing some of it here.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Also what they cost, at X for an hour of one.")
    ] = None,
) -> None:
    """Shows what `run` would compute, and its cost. Writes nothing. Other options are Beam's own."""
    with _one_line_errors():
        from pipeline.experiment import load_experiment
        from pipeline.run import prepare

        if price is not None and workers is None:
            raise InputError("--price: give --workers too, how many there are going to be")
        _tell_beam(context)
        prepared = prepare(load_experiment(experiment, change or []), output)
        _print_plan(prepared)
        if workers is not None and prepared.plan.missing:
            from pipeline.estimate import estimate

            print(estimate(prepared, "auto").in_words(workers, price))


@app.command(context_settings=_PASS_ON)
def verify(
    context: typer.Context,
    run_directory: Annotated[str, typer.Argument(metavar="RUNDIR")],
    sample: Annotated[int, typer.Option(min=0, help="Images and predictions to make again, drawn at random.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Checks a run directory: files, rows, canvases, and some of its work done again. Other options are Beam's own."""
    with _one_line_errors():
        from pipeline.terminal import console, text_table
        from pipeline.verify import verify as checks_of

        _tell_beam(context)
        checks = list(checks_of(run_directory, sample, device))
        rows = [(each.what, each.looked_at, len(each.wrong), len(each.unknown)) for each in checks]
        console().print(text_table("Verified", ["it was checked that", "cases", "wrong", "unknown"], rows))
        for check in checks:
            for line in [*check.wrong[:_SHOWN], *check.unknown[:_SHOWN]]:
                print(line)
        code = Exit.DONE_WITH_FAILURES if any(each.wrong for each in checks) else Exit.DONE
    raise typer.Exit(code)


@app.command(context_settings=_PASS_ON)
def sql(
    context: typer.Context,
    run_directory: Annotated[str, typer.Argument(metavar="RUNDIR")],
    query: Annotated[str, typer.Argument(help="DuckDB's SQL over images, attacks, canvases, predictions, failures.")],
    form: Annotated[Format, typer.Option("--format")] = Format.TABLE,
) -> None:
    """Answers a query over a run's tables. Other options are Beam's own."""
    with _one_line_errors():
        from pipeline.results import open_run

        _tell_beam(context)
        headings, rows = open_run(run_directory).rows(query)
        if form is Format.CSV:
            csv.writer(sys.stdout, lineterminator="\n").writerows([headings, *rows])
        elif form is Format.JSON:
            print(json.dumps([_json_object(headings, row) for row in rows], default=str))
        else:
            _print_table(headings, rows)


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A model, as in keras/NASNetMobile")],
    path: Annotated[
        Path, typer.Argument(metavar="PATH.onnx", help="The new file, named in experiments as onnx/PATH.onnx")
    ],
    weights: Annotated[str | None, typer.Option(help="A local file of weights instead of the source's own.")] = None,
) -> None:
    """Writes a model as an ONNX file, with its preprocessing inside."""
    with _one_line_errors():
        from transforms.models import export as exporting

        exporting.export(source, path, weights)
        print(f"{path}: {source}")


@app.command("list")
def list_(
    thing: Thing,
    name: Annotated[
        str | None,
        typer.Argument(help="A recipe, to see its parameters (mi-di-ti, foolbox/LinfPGD); a part of models' names"),
    ] = None,
) -> None:
    """Shows the names that an experiment may use, or what one attack may be told."""
    with _one_line_errors():
        if name is not None:
            if thing is Thing.ATTACKS:
                _print_recipe(name)
            elif thing is Thing.MODELS:
                _print_table(_MODEL_HEADINGS, _models(name))
            else:
                raise InputError(f"list {thing.value}: takes no name; `list attacks NAME` and `list models PART` do")
            return
        headings, rows = _LISTS[thing]
        _print_table(headings, rows())
        if thing is Thing.ATTACKS:
            _print_how_to_combine()


def _attacks() -> Iterator[tuple[str, ...]]:
    from transforms.attacks.adapters import own_names
    from transforms.attacks.recipes import RECIPES, recipe

    for name in (*RECIPES, *own_names()):
        try:
            found = recipe(name)
        except InputError as error:  # somebody's package, which does not load
            yield name, *"?" * 4, str(error)
        else:
            yield name, found.kind, " ".join(found.norms), *_cost(found), found.source


def _print_recipe(name: str) -> None:
    from transforms.attacks.recipes import recipe

    found = recipe(name)
    forwards, backwards = _cost(found)
    print(f"{name}: {found.kind}, bounds {' or '.join(found.norms)}, goals: {found.goals}. {found.source}")
    print(f"per image: {forwards} forward and {backwards} backward passes{_OF_SEVERAL if found.models > 1 else ''}")
    rows = ((key, _shown(default)) for key, (_, default) in found.parameters.items())
    _print_table(["parameter", "default"], rows)


def _print_how_to_combine() -> None:
    from transforms.attacks.recipes import BASES, PARTS

    print("Passes are per image, of one surrogate; of adaea, cwa and svre, which need several, of two.")
    print("The parameters of one: megalith list attacks NAME")
    print("A base and parts combine, as in vmi-di-ti-si, and take the parameters of all of them:")
    print(f"  bases {', '.join(BASES)}; parts {', '.join(PARTS)}")
    print("Also torchattacks/NAME, foolbox/NAME, adv-lib/NAME, and attacks of your own: docs/own-attack.md")


def _cost(recipe: "Recipe") -> tuple[str, str]:
    """Forward and backward passes per image."""
    from transforms.attacks.balls import BALLS

    try:
        attack = recipe.make(BALLS[recipe.norms[0]](_SHOWN_EPS))
    except InputError:  # a part of it is another library's, which is not installed
        return "?", "?"
    forwards, backwards = attack.cost(recipe.models)
    return f"{forwards:,}", f"{backwards:,}"


def _defenses() -> Iterator[tuple[str, ...]]:
    from transforms.defenses.registry import defense_function, defense_names, parameter_types

    for name in defense_names():
        yield name, _first_line(defense_function(name)), ", ".join(parameter_types(name))


def _models(part: str = "") -> Iterator[tuple[str, ...]]:
    """Those with this in their names, and what they are shown."""
    from transforms.models.sources import model_source, source_names

    for name in source_names():
        if part in name:
            found = model_source(name)
            shown = found.preprocessing
            resized = f"{shown.resize} {shown.interpolation}{'' if shown.antialias else ', not antialiased'}"
            colours = f"{shown.channels} to {shown.value_range:g}"
            moments = (" ".join(f"{value:g}" for value in each) for each in (shown.mean, shown.std))
            published = "" if found.published is None else f"{found.published:.1%}"
            yield name, resized, str(shown.input_size), colours, *moments, published


def _views() -> Iterator[tuple[str, ...]]:
    from transforms.models.views import VIEWS

    return ((name, _first_line(view)) for name, view in VIEWS.items())


_OF_SEVERAL = " (of two surrogates together)"
_SHOWN_EPS = 16 / 255
"""Any budget: costs do not depend on it."""

_MODEL_HEADINGS = ["model", "resize", "crop", "range", "mean", "std", "published"]

_LISTS: dict[Thing, tuple[list[str], Callable[[], Iterator[tuple[str, ...]]]]] = {
    Thing.ATTACKS: (
        ["recipe", "kind", "norms", "forwards", "backwards", "source"],
        _attacks,
    ),
    Thing.DEFENSES: (["defense", "what", "parameters"], _defenses),
    Thing.MODELS: (_MODEL_HEADINGS, _models),
    Thing.VIEWS: (["view", "what"], _views),
}

_SHOWN = 10
"""Lines of each check of `verify`."""

_NEXT_STEPS = """
The tables are Parquet files in {output}. To go on:
  {command} sql {output} "select * from predictions limit 10"
  {command} list attacks
  Add a model, an attack or a defence to the experiment and run it again: only what is missing is computed.\
"""


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


def _shown(default: Any) -> str:
    """A parameter's default as a user would write it."""
    if isinstance(default, tuple):
        return f"[{', '.join(map(_shown, default))}]"
    if isinstance(default, bool) or default is None:
        return {True: "true", False: "false", None: "null"}[default]
    levels = 255 * default if isinstance(default, float) else 0.5
    # 16/255, but 0.2 and not 51/255
    return f"{levels:.0f}/255" if levels.is_integer() and len(repr(default)) > len("0.1234") else str(default)


def _print_plan(prepared: "Prepared") -> None:
    images = sum(len(chunk.refs) for chunk in prepared.chunks)
    print(f"{prepared.experiment.name}: {images} images in {len(prepared.chunks)} chunks, to {prepared.store.root}")
    cost, total = prepared.plan.cost, prepared.plan.total
    _print_table(["step", "units", "to do"], ((kind, total[kind], cost[kind]) for kind in total))
    attacks = prepared.plan.attack_passes
    if attacks:
        rows = ((name, f"{forwards:,}", f"{backwards:,}") for name, (forwards, backwards) in attacks.items())
        _print_table(["passes of", "forwards", "backwards"], rows)
    print(f"to do: about {cost['forwards']:,} forward and {cost['backwards']:,} backward passes")
    if prepared.damaged:
        print(f"damaged parts: {len(prepared.damaged)}, {prepared.damaged[0]} among them")
        print("`run` removes them, and makes those of this experiment again")
    for warning in prepared.warnings:
        _say(f"warning: {warning}")


def _tell_beam(context: typer.Context) -> None:
    """Beam's options for its filesystems, where a command runs no pipeline; typically there are none."""
    if context.args:
        from pipeline.runners import runner_options

        runner_options("direct", context.args)


def _print_proof(proof: "Proof") -> None:
    print(f"{proof.model}: {proof.correct} of {proof.of} clean images right", flush=True)
    if proof.absurd:
        known = "" if proof.published is None else f", far below the published {proof.published:.1%}"
        _say(
            f"warning: {proof.model} is right on {proof.correct} of {proof.of} clean images{known}; check its weights, "
            "its preprocessing, and the labels"
        )


def _print_table(headings: list[str], rows: Any) -> None:
    from pipeline.terminal import console, text_table

    console().print(text_table("", headings, rows))


def _json_object(headings: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    """JSON has neither infinities, nor bytes, nor two keys of one name."""
    if len(set(headings)) < len(headings):
        raise InputError(f"sql: JSON needs a name of its own for each column, not {', '.join(headings)}")
    values = (base64.b64encode(cell).decode() if isinstance(cell, bytes) else cell for cell in row)
    finite = (None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in values)
    return dict(zip(headings, finite, strict=True))


def _say(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _say(f"megalith: {error}")
        raise typer.Exit(Exit.WRONG_INPUT) from None
    except (StoppedError, OSError) as error:
        _leave(f"megalith: {error}", Exit.STOPPED)
    except _TerminatedError:
        _leave("megalith: terminated; what is finished is kept, the same command goes on", Exit.TERMINATED)
    except KeyboardInterrupt:
        _leave("megalith: interrupted; what is finished is kept, the same command goes on", Exit.INTERRUPTED)


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, as a machine sends that is about to be taken away, ends a run like Ctrl-C."""


def _terminate(*_: object) -> NoReturn:
    raise _TerminatedError


class _Retries(logging.Handler):
    """Says in one line that Beam or Google's client waits for an object store, which may take minutes."""

    def emit(self, record: logging.LogRecord) -> None:
        match record.args:
            case (float() as seconds, _, str() as error, _):  # Beam's, with a traceback besides
                _say(f"warning: {error.strip()}; trying again in {seconds:.0f} seconds")
            case _:
                _say(f"warning: {record.getMessage()}")


def _unless_a_runner_is_lost(error: threading.ExceptHookArgs) -> None:
    """Threads of Beam's talk to its runner; that it is gone is said once, by the one that waits for the job's end."""
    if not error.exc_type.__module__.startswith("grpc."):
        threading.__excepthook__(error)


def _leave(message: str, code: Exit) -> NoReturn:
    _say(message)
    sys.stdout.flush()
    # Beam stops the job servers that it started when Python ends, which it is not going to.
    atexit._run_exitfuncs()
    # Other workers may be in the middle of an attack. Parts are published whole, so they need not be waited for.
    os._exit(code)


def main() -> None:
    """Entry point of the console command."""
    signal.signal(signal.SIGTERM, _terminate)
    # Beam warns about extras that a local run does not need, and logs what we say in one line.
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Beam sets the level of this one when it starts Prism.
    logging.getLogger("PrismJobServer").propagate = False
    logging.getLogger("PrismJobServer").handlers = [logging.NullHandler()]
    threading.excepthook = _unless_a_runner_is_lost
    for library, level in {"apache_beam.utils.retry": logging.WARNING, "google.api_core.retry": logging.DEBUG}.items():
        retries = logging.getLogger(library)
        retries.setLevel(level)
        retries.handlers = [_Retries()]
        retries.propagate = False
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        _say(f"megalith: {error.format_message()} See megalith --help.")
        code = Exit.WRONG_INPUT
    sys.exit(code)
