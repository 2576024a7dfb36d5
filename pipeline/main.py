"""The command `megalith`: what the user types, and one line and an exit code for whatever goes wrong.

Each command imports what it needs when it runs, so that none waits for the libraries of another.
"""

import atexit
import base64
import csv
import json
import logging
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from transforms.errors import InputError, StoppedError

if TYPE_CHECKING:
    from pipeline.run.clean_accuracy import CleanAccuracy
    from pipeline.run.prepare import Prepared


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
    runner: Annotated[str, typer.Option(help="direct, prism, flink or dataflow.")] = "direct",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    models_in_memory: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Models that a worker may hold at once; by default all.")
    ] = None,
) -> None:
    """Computes what an experiment still lacks, and shows the results. Other options are Beam's own."""
    with _one_line_errors():
        from pipeline.cli.terminal import console
        from pipeline.config.experiment import load_experiment
        from pipeline.results.render import print_summary
        from pipeline.results.tables import open_run
        from pipeline.run.execute import execute
        from pipeline.run.prepare import prepare
        from pipeline.run.runners import check_paths, runner_options
        from transforms.models.device import torch_device

        options = runner_options(runner, context.args)
        torch_device(device)
        prepared = prepare(load_experiment(experiment, change or []), output)
        check_paths(runner, prepared.paths)
        _print_plan(prepared)
        execute(prepared, options, device, _print_clean_accuracy, _warn, models_in_memory)
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
        int | None,
        typer.Option(min=1, metavar="N", help="Also how long N workers (a thread or a GPU each) need, by timing some."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Also what they cost, at X for an hour of one.")
    ] = None,
) -> None:
    """Shows what `run` would compute, and its cost. Writes nothing but weights that it downloads. Other options are
    Beam's own."""
    with _one_line_errors():
        from pipeline.config.experiment import load_experiment
        from pipeline.run.prepare import prepare

        if price is not None and workers is None:
            raise InputError("--price: give --workers too, how many there are going to be")
        _tell_beam(context)
        prepared = prepare(load_experiment(experiment, change or []), output)
        _print_plan(prepared)
        if workers is not None and prepared.plan.missing:
            from pipeline.run.estimate import estimate

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
        from pipeline.cli.terminal import console, text_table
        from pipeline.verify.whole import verify as checks_of

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
        from pipeline.results.tables import open_run

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
        from pipeline.cli import lists

        headings, rows = lists.LISTS[thing]
        if name is None:
            _print_table(headings, rows())
            if thing is Thing.ATTACKS:
                print(lists.how_to_combine())
        elif thing is Thing.ATTACKS:
            print(lists.in_words(name))
            _print_table(["parameter", "default", "or"], lists.parameters(name))
        elif thing is Thing.MODELS:
            _print_table(headings, lists.models(name))
        else:
            raise InputError(f"list {thing.value}: takes no name; `list attacks NAME` and `list models PART` do")


_SHOWN = 10
"""Lines of each check of `verify`."""

_NEXT_STEPS = """
The tables are Parquet files in {output}. To go on:
  {command} sql {output} "select * from predictions limit 10"
  {command} list attacks
  Add a model, an attack or a defence to the experiment and run it again: only what is missing is computed.\
"""


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
        _warn(warning)


def _tell_beam(context: typer.Context) -> None:
    """Beam's options for its filesystems, where a command runs no pipeline; typically there are none."""
    if context.args:
        from pipeline.run.runners import runner_options

        runner_options("direct", context.args)


def _print_clean_accuracy(proof: "CleanAccuracy") -> None:
    print(f"{proof.model}: {proof.correct} of {proof.of} clean images right", flush=True)
    if proof.implausible:
        known = "" if proof.published is None else f", far below the published {proof.published:.1%}"
        _say(
            f"warning: {proof.model} is right on {proof.correct} of {proof.of} clean images{known}; check its weights, "
            "its preprocessing, and the labels"
        )


def _print_table(headings: list[str], rows: Any) -> None:
    from pipeline.cli.terminal import console, text_table

    console().print(text_table("", headings, rows))


def _json_object(headings: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    """JSON has neither infinities, nor bytes, nor two keys of one name."""
    if len(set(headings)) < len(headings):
        raise InputError(f"sql: JSON needs a name of its own for each column, not {', '.join(headings)}")
    values = (base64.b64encode(cell).decode() if isinstance(cell, bytes) else cell for cell in row)
    finite = (None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in values)
    return dict(zip(headings, finite, strict=True))


def _warn(message: str) -> None:
    _say(f"warning: {message}")


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
