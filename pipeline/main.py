"""The command `megalith`: what a user types.

Each command imports what it needs when it runs, so that none waits for the libraries of another.
"""

import re
import shlex
import shutil
import sys
from dataclasses import asdict
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.process import (
    Exit,
    one_line_errors,
    prepare_process,
    read_by_somebody,
    say,
    somebody_types,
    standard_input,
    warn,
)
from transforms.data.verdicts import Verdict
from transforms.errors import InputError, printable


class Format(StrEnum):
    """How `sql` prints its answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Stage(StrEnum):
    """What failed, and may be tried again."""

    LOAD = "load"
    ATTACK = "attack"
    PREDICT = "predict"
    ALL = "all"


class Thing(StrEnum):
    """What `list` lists."""

    ATTACKS = "attacks"
    DEFENSES = "defenses"
    MODELS = "models"
    MODIFIERS = "modifiers"
    LAYERS = "layers"
    VIEWS = "views"


app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich takes as long to import as all the rest of `--help`.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Which adversarial pictures fool which ImageNet classifiers, and which defences restore the correct label.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"megalith {version('megalith')}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 stopped, 2 wrong input, 3 done with failures, 130 interrupted.")
def megalith(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Shows the version and exits.")
    ] = False,
) -> None:
    """What may stand before a command."""


_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
ExperimentFile = Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml")]
RunDirectory = Annotated[str, typer.Argument(metavar="RUNDIR")]
Attacks = Annotated[list[str] | None, typer.Option("--attack", metavar="NAME", help="Only this one; may be repeated.")]
Output = Annotated[str, typer.Option(metavar="RUNDIR", help="The run directory.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. attacks.mi4.eps=2/255")]
Retry = Annotated[
    list[Stage] | None,
    typer.Option(
        "--retry-failures",
        metavar="STAGE",
        help="Tries again what failed in load, attack, predict or all, and whatever depends on it.",
    ),
]


Share = Annotated[
    str, typer.Option("--shard", metavar="K/N", help="Only this share of the images; other processes do the others.")
]


@app.command(context_settings=_PASS_ON)
def run(
    context: typer.Context,
    experiment: ExperimentFile,
    output: Output,
    change: Changes = None,
    retry: Retry = None,
    share: Share = "1/1",
    runner: Annotated[str, typer.Option(help="direct, prism, flink or dataflow.")] = "direct",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    models_in_memory: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Models that a worker may hold at once; by default all.")
    ] = None,
) -> None:
    """Computes what an experiment lacks, and shows the results. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.cli.terminal import console, print_clean_accuracy, print_plan, print_times
        from pipeline.config.experiment import load_experiment
        from pipeline.results.render import print_summary
        from pipeline.results.tables import open_run
        from pipeline.run.execute import execute
        from pipeline.run.prepare import prepare
        from pipeline.run.runners import check_paths, runner_options
        from pipeline.run.shard import Shard
        from transforms.models.device import torch_device
        from transforms.storage.files import is_remote

        options = runner_options(runner, context.args)
        torch_device(device)
        prepared = prepare(load_experiment(experiment, change or []), output, retry or (), Shard.parse(share))
        check_paths(runner, prepared.paths)
        with read_by_somebody():
            print_plan(prepared)
        outcome = execute(prepared, options, device, print_clean_accuracy, warn, models_in_memory)
        if outcome.cost is not None:
            print_times(outcome.cost)
        results = open_run(output)
        if outcome.finished:
            with results.asked_at_once():
                print_summary(results, console())
            command = "megalith" if shutil.which("megalith") else sys.argv[0]
            page = " --output report.html" if is_remote(output) else ""
            print(_NEXT_STEPS.format(command=command, output=shlex.quote(output), page=page))
        else:
            print(f"shard {share} is done, and others are not; whichever ends last shows the results")
        code = Exit.DONE_WITH_FAILURES if len(results.failures) else Exit.DONE
    raise typer.Exit(code)


@app.command(context_settings=_PASS_ON)
def plan(
    context: typer.Context,
    experiment: ExperimentFile,
    output: Output,
    change: Changes = None,
    retry: Retry = None,
    share: Share = "1/1",
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Also how long N workers (a thread or a GPU each) need, by timing some."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Also what they cost, at X for an hour of one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for --workers.")] = "auto",
) -> None:
    """Shows what `run` would compute, and its cost. Writes nothing but weights that it downloads. Other options are
    Beam's own."""
    with one_line_errors():
        from pipeline.cli.terminal import print_plan
        from pipeline.config.experiment import load_experiment
        from pipeline.run.prepare import prepare
        from pipeline.run.shard import Shard

        if price is not None and workers is None:
            raise InputError("--price: give --workers too, how many there are going to be")
        _tell_beam(context)
        prepared = prepare(load_experiment(experiment, change or []), output, retry or (), Shard.parse(share))
        print_plan(prepared)
        if workers is not None and prepared.plan.missing:
            from pipeline.run.estimate import estimate

            print(estimate(prepared, device).in_words(workers, price))


@app.command(context_settings=_PASS_ON)
def verify(
    context: typer.Context,
    run_directory: RunDirectory,
    sample: Annotated[int, typer.Option(min=0, help="Images and predictions to make again, drawn at random.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Checks a run's files and rows, and redoes some of its work. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.cli.terminal import console, text_table
        from pipeline.verify.whole import verify as checks_of

        _tell_beam(context)
        checks = list(checks_of(run_directory, sample, device))
        rows = [(each.what, each.looked_at, len(each.wrong), len(each.unknown)) for each in checks]
        console().print(text_table("Verified", ["it was checked that", "cases", "wrong", "unknown"], rows))
        for check in checks:
            for line in [*check.wrong[:_SHOWN], *check.unknown[:_SHOWN]]:
                print(printable(line))
        code = Exit.DONE_WITH_FAILURES if any(each.wrong for each in checks) else Exit.DONE
        if unknown := sum(len(each.unknown) for each in checks):
            print(f"{unknown} cases could not be checked, which the exit code does not count; the reasons are above")
    raise typer.Exit(code)


@app.command(context_settings=_PASS_ON)
def sql(
    context: typer.Context,
    run_directory: RunDirectory,
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY", help="E.g. 'from answers limit 10'. Without it: a shell, or what standard input says."
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format")] = Format.TABLE,
    schema: Annotated[
        bool, typer.Option("--schema", help="Shows tables and views, with their columns, types and meanings.")
    ] = False,
    allow_files: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A CSV, JSON or Parquet file that it may read: from 'PATH'")
    ] = None,
) -> None:
    """Answers queries over a run's tables. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.cli.terminal import print_answer
        from pipeline.results.tables import SCHEMA, open_run, statements

        query = _unless_an_option(query, context)
        _tell_beam(context)
        run, files, show = open_run(run_directory), allow_files or [], partial(print_answer, form.value)
        if schema:
            show(SCHEMA, run.schema())
        elif query is None and somebody_types():
            from pipeline.cli.shell import converse

            converse(run, files, show)
        else:
            for statement in statements(standard_input() if query is None else query):
                show(*run.rows(statement, files))


@app.command(context_settings=_PASS_ON)
def report(
    context: typer.Context,
    run_directory: RunDirectory,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Where the page goes; by default RUNDIR/report.html.")
    ] = None,
) -> None:
    """Writes a run's figures, pictures and tables as one HTML page. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.report.page import write_report
        from pipeline.results.tables import open_run

        _tell_beam(context)
        written = write_report(open_run(run_directory), output)
        print(f"{printable(written)}: {written.stat().st_size / 1e6:.1f} MB; any browser shows it, without a network")


@app.command(context_settings=_PASS_ON)
def pictures(
    context: typer.Context,
    run_directory: RunDirectory,
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder that the files go to.")],
    attack: Attacks = None,
    where: Annotated[
        str,
        typer.Option(metavar="SQL", help='A condition over columns of attacks and label_name: "success and l2 < 2"'),
    ] = "true",
    times: Annotated[int, typer.Option(min=1, metavar="K", help="How many times as large differences are shown.")] = 10,
) -> None:
    """Writes pictures, attacked and not, as PNG files with a CSV. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.report.pictures import write_pictures
        from pipeline.results.tables import open_run

        _tell_beam(context)
        count = write_pictures(open_run(run_directory), output, attack or (), where, times)
        print(f"{printable(output)}: {count} attacked pictures, their originals and differences, and pictures.csv")


Metric = Annotated[
    str,
    typer.Option(help="success, accuracy, confidence, label-confidence or margin; see docs/numbers.md."),
]
Denominator = Annotated[
    str | None,
    typer.Option(
        help="all, clean-correct, all-models-correct or surrogate-fooled; by default clean-correct for success."
    ),
]
Models = Annotated[list[str] | None, typer.Option("--model", metavar="NAME", help="Likewise.")]
Views = Annotated[list[str] | None, typer.Option("--view", metavar="NAME", help="Likewise.")]
Defenses = Annotated[
    list[str] | None, typer.Option("--defense", metavar="NAME", help="Likewise; by default undefended, none.")
]
WorstCase = Annotated[bool, typer.Option("--worst-case", help="All attacks together, image by image.")]
Judged = Annotated[
    Verdict,
    typer.Option("--verdict", help="What decides behind a random defence."),
]
SheetForm = Annotated[str, typer.Option("--format", help="text, markdown, latex, html, csv or json.")]


@app.command(context_settings=_PASS_ON)
def table(
    context: typer.Context,
    run_directory: RunDirectory,
    rows: Annotated[str, typer.Option(metavar="KEY", help="attack, model, view or defense.")] = "attack",
    columns: Annotated[str, typer.Option(metavar="KEY", help="Another of them.")] = "model",
    metric: Metric = "success",
    denominator: Denominator = None,
    attack: Attacks = None,
    model: Models = None,
    view: Views = None,
    defense: Defenses = None,
    worst_case: Annotated[
        bool, typer.Option("--worst-case", help="Also all attacks together, image by image.")
    ] = False,
    verdict: Judged = "mean",
    form: SheetForm = "text",
) -> None:
    """Shows a metric with its 95 % intervals, for papers. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.results.crosstabs import crosstab
        from pipeline.results.formats import print_sheet
        from pipeline.results.tables import open_run

        _tell_beam(context)
        wanted = _wanted(attack, model, view, defense)
        found = crosstab(
            open_run(run_directory), rows, columns, metric, denominator, wanted, worst=worst_case, verdict=verdict
        )
        print_sheet(found, form)


@app.command(context_settings=_PASS_ON)
def compare(
    context: typer.Context,
    run_directory: RunDirectory,
    other: Annotated[str | None, typer.Argument(metavar="RUNDIR2")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="attack, model, view or defense: in one run what is compared, each with each; of two what has a line.",
        ),
    ] = None,
    metric: Metric = "accuracy",
    denominator: Denominator = None,
    attack: Attacks = None,
    model: Models = None,
    view: Views = None,
    defense: Defenses = None,
    worst_case: WorstCase = False,
    flips: Annotated[bool, typer.Option("--flips", help="Lists the images that flipped instead.")] = False,
    verdict: Judged = "mean",
    form: SheetForm = "text",
) -> None:
    """Tells what differs on the same images, and how surely. Other options are Beam's own."""
    with one_line_errors():
        from pipeline.results.comparisons import between, compared_sheet, flips_sheet, within
        from pipeline.results.formats import print_sheet
        from pipeline.results.tables import open_run

        other = _unless_an_option(other, context)
        _tell_beam(context)
        wanted, first = _wanted(attack, model, view, defense), open_run(run_directory)
        if other is not None:
            found = between(first, open_run(other), by, metric, denominator, wanted, worst=worst_case, verdict=verdict)
        elif by is not None:
            found = within(first, by, metric, denominator, wanted, worst=worst_case, verdict=verdict)
        else:
            raise InputError("compare: give a second run directory, or --by to compare within one")
        print_sheet(flips_sheet(found) if flips else compared_sheet(found), form)


@app.command()
def leaderboard(
    run_directories: Annotated[list[str], typer.Argument(metavar="RUNDIR")],
    attack: Attacks = None,
    model: Models = None,
    view: Views = None,
    defense: Defenses = None,
    allow_unlike: Annotated[
        bool,
        typer.Option("--allow-unlike", help="Shows runs of other images, canvases or budgets together, and says so."),
    ] = False,
    verdict: Judged = "mean",
    form: SheetForm = "text",
) -> None:
    """Shows models × attacks over several runs of one protocol."""
    with one_line_errors():
        from pipeline.results.formats import print_sheet
        from pipeline.results.leaderboards import leaderboard as ranked
        from pipeline.results.tables import open_run

        wanted = _wanted(attack, model, view, defense)
        print_sheet(
            ranked(list(map(open_run, run_directories)), wanted, allow_unlike=allow_unlike, verdict=verdict), form
        )


def _wanted(
    attack: list[str] | None, model: list[str] | None, view: list[str] | None, defense: list[str] | None
) -> dict[str, list[str]]:
    named = {"attack": attack, "model": model, "view": view, "defense": defense}
    return {key: names for key, names in named.items() if names}


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A model, as in keras/NASNetMobile")],
    path: Annotated[
        Path, typer.Argument(metavar="PATH.onnx", help="The new file, named in experiments as onnx/PATH.onnx")
    ],
    weights: Annotated[str | None, typer.Option(help="A local file of weights instead of the source's own.")] = None,
) -> None:
    """Writes a model as an ONNX file, preprocessing inside."""
    with one_line_errors():
        from transforms.models import export as exporting

        exporting.export(source, path, weights)
        print(f"{path}: {source}")


@app.command("list")
def list_(
    thing: Annotated[Thing, typer.Argument(metavar="THING")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A recipe, to see its parameters (mi-di-ti, foolbox/LinfPGD); a part of models' names; a model.",
        ),
    ] = None,
) -> None:
    """Shows what an experiment may name, or an attack's parameters."""
    with one_line_errors():
        from pipeline.cli.remembered import remembered
        from pipeline.cli.terminal import print_table

        page = remembered(f"list {thing.value} {name}", partial(_list_page, thing.value, name))
        if page["above"]:
            print(page["above"])
        print_table(page["headings"], page["rows"])
        if page["below"]:
            print(page["below"])


def _list_page(thing: str, name: str | None) -> dict[str, Any]:
    from pipeline.cli import lists  # recipes and models take seconds to import

    return asdict(lists.page(thing, name))


_OPTION = re.compile(r"--\w+(=.*)?")


def _unless_an_option(given: str | None, context: typer.Context) -> str | None:
    """An optional argument. Where none is given, one of Beam's options stands in its place, and is handed to Beam."""
    if given is None or not _OPTION.fullmatch(given):
        return given
    context.args.insert(0, given)
    return None


_SHOWN = 10
"""Lines of each check of `verify`."""

_NEXT_STEPS = """
The tables are Parquet files in {output}. To go on:
  {command} report {output}{page}
  {command} sql {output} "select * from predictions limit 10"
  {command} list attacks
  Add a model, an attack or a defence to the experiment and run it again: only what is missing is computed.\
"""


def _tell_beam(context: typer.Context) -> None:
    """Beam's options for its filesystems, where a command runs no pipeline; typically there are none."""
    if context.args:
        from pipeline.run.runners import runner_options

        runner_options("direct", context.args)


def main() -> None:
    """Entry point of the console command."""
    prepare_process()
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        said = [error.format_message().rstrip("."), *_misspelled(error)]
        say(f"megalith: {'; '.join(said)} (see megalith --help)")
        code = Exit.WRONG_INPUT
    sys.exit(code)


def _misspelled(error: typer.TyperException) -> list[str]:
    """Options that are nearly the command's own: commands pass on what they do not know, since it may be Beam's."""
    context: typer.Context | None = getattr(error, "ctx", None)
    known = [name for parameter in context.command.params for name in parameter.opts] if context else []
    given = {each.partition("=")[0] for each in sys.argv[1:] if each.startswith("--")}
    close = {each: get_close_matches(each, known, n=1) for each in sorted(given.difference(known))}
    return [f"{printable(each)}: did you mean {nearest[0]}?" for each, nearest in close.items() if nearest]


if __name__ == "__main__":
    main()
