"""Runner profiles: each is one small function that returns Beam's options; all other options are Beam's own."""

import os
from argparse import ArgumentError, ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import apache_beam as beam
import grpc
import torch
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc as services
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner

from transforms.errors import InputError, StoppedError, unknown
from transforms.steps.metrics import totals
from transforms.storage.files import is_remote
from transforms.storage.patience import within
from transforms.storage.preflight import reach


def direct() -> list[str]:
    """This machine, in this process, without network: as many workers as CPUs, or one where a GPU does the work."""
    # "DirectRunner" would look for another runner on the network first; this is the local one by its own name.
    workers = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    return ["--runner=FnApiRunner", "--direct_running_mode=in_memory", f"--direct_num_workers={workers}"]


def prism() -> list[str]:
    """This machine, by the runner that Beam's DirectRunner becomes where there is internet."""
    # Prism gives a job its id before it begins, and then Beam takes the time to answer for the time of the whole job.
    return ["--runner=PrismRunner", f"--job_server_timeout={_YEAR}"]


def flink() -> list[str]:
    """A Flink cluster, by a job server; without --job_endpoint or --flink_master, a small cluster on this machine."""
    return ["--runner=FlinkRunner"]


def dataflow() -> list[str]:
    """Google's service: on each worker one process with one thread, because that is what a GPU wants."""
    return [
        "--runner=DataflowRunner",
        "--experiments=no_use_multiple_sdk_containers",
        "--number_of_worker_harness_threads=1",
        # Workers import our code from their image.
        "--no_save_main_session",
    ]


OUR_OPTIONS = ("--output", "--set", "--retry-failures", "--shard", "--runner", "--device", "--models-in-memory")
RUNNERS: dict[str, Callable[[], list[str]]] = {"direct": direct, "prism": prism, "flink": flink, "dataflow": dataflow}
_YEAR = 365 * 24 * 3600
_PATIENCE = 10.0
"""Seconds that a job server may take to answer."""


def runner_options(runner: str, extra: Sequence[str]) -> PipelineOptions:
    """Beam's options for a runner profile, which Beam's filesystems get as well; options in `extra` win.

    Raises:
        InputError: unknown runner, no job server where one should be, or an option that is missing, that Beam does not
            know, or that it cannot read.
    """
    if runner not in RUNNERS:
        raise unknown("runner", runner, RUNNERS)
    _refuse_typos(extra)
    options = PipelineOptions([*RUNNERS[runner](), *extra])
    if options.view_as(DirectOptions).direct_num_workers < 0:
        raise InputError("--direct_num_workers: give 1 or more, or 0 for as many as there are CPUs")
    # Object stores need options too (an endpoint, a region), and the images are listed before any pipeline runs.
    FileSystems.set_options(options)
    _refuse_gaps(runner, options)
    return options


def _refuse_typos(extra: Sequence[str]) -> None:
    parser = _BeamArgumentParser(allow_abbrev=False, exit_on_error=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    try:
        read, unread = parser.parse_known_args(list(extra))
        if read.job_endpoint:
            _add_options_of(read.job_endpoint, parser)
            _, unread = parser.parse_known_args(list(extra))
    except ArgumentError as error:
        raise InputError(f"option {error}") from None
    if unread:
        known = {*OUR_OPTIONS, *parser._option_string_actions}
        name = unread[0].partition("=")[0]
        if not name.startswith("-"):
            # Not repeated: of an option that stands too early it is the value, and may be a secret.
            raise InputError("too many arguments; give one experiment, and after it options, Beam's as --name=value")
        raise unknown("option", name, known)


def _add_options_of(endpoint: str, parser: ArgumentParser) -> None:
    """Adds what a job server understands besides Beam's own options; raises InputError where none answers."""
    try:
        with grpc.insecure_channel(endpoint) as channel:
            grpc.channel_ready_future(channel).result(timeout=_PATIENCE)
            answer = services.JobServiceStub(channel).DescribePipelineOptions(
                api.DescribePipelineOptionsRequest(), timeout=_PATIENCE
            )
    except (grpc.FutureTimeoutError, grpc.RpcError):
        raise InputError(f"--job_endpoint: no job server of Beam's answers at {endpoint!r}") from None
    for option in answer.options:
        if f"--{option.name}" not in parser._option_string_actions:
            flag = option.type == api.PipelineOptionType.BOOLEAN
            parser.add_argument(f"--{option.name}", action="store_true" if flag else "store")


def _refuse_gaps(runner: str, options: PipelineOptions) -> None:
    google = options.view_as(GoogleCloudOptions)
    for name in ("temp_location", "staging_location"):
        if path := getattr(google, name):
            reach(f"--{name}", path)  # The validator asks too, for minutes and in silence.
    validator = PipelineOptionsValidator(options, create_runner(options.view_as(StandardOptions).runner))
    try:
        errors = validator.validate()
    except Exception as error:  # It may ask Google for a bucket that nobody named, and then anything can go wrong.
        raise InputError(f"--runner {runner}: {_first_line(error)}") from None
    if errors:
        raise InputError(f"--runner {runner}: {' '.join(errors)}")


def check_paths(runner: str, paths: Iterable[str]) -> None:
    """Raises InputError for a path that the runner's workers cannot see, as far as that can be known from here."""
    for path in paths:
        if runner == "dataflow" and not is_remote(path):
            raise InputError(f"--runner dataflow: its workers cannot see {path}; give gs:// or s3:// paths")


def run_to_end(root: beam.Pipeline) -> Counter[str]:
    """Runs a pipeline and waits for its end; a job that goes on elsewhere is cancelled when we stop waiting.

    Returns:
        What its steps have counted (`steps.metrics`); nothing where the runner does not tell.

    Raises:
        StoppedError: the runner does not take the job, or loses it. What workers raise comes as the runner gives it.
    """
    try:
        # Beam would report what a signal raises as an error of a step, were this thread the only worker.
        result = within(None, root.run) if isinstance(root.runner, FnApiRunner) else root.run()
        try:
            result.wait_until_finish()
        except BaseException:
            with suppress(Exception):
                result.cancel()
            raise
    except Exception as error:
        if isinstance(root.runner, FnApiRunner) or "Traceback" in str(error):
            raise
        raise StoppedError(f"{type(root.runner).__name__}: {_first_line(error)}") from error
    with suppress(Exception):  # Some runners have no metrics, and some ask a server that may be gone.
        return totals(result.metrics())
    return Counter()


def _first_line(error: Exception) -> str:
    text = error.details() if isinstance(error, grpc.Call) else str(error)
    return (text or type(error).__name__).strip().partition("\n")[0]
