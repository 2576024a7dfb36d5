"""Runner profiles: each is one small function that returns Beam's options; all other options are Beam's own."""

import os
from argparse import ArgumentError
from collections.abc import Callable, Sequence

import torch
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, _BeamArgumentParser

from transforms.errors import InputError, unknown


def direct() -> list[str]:
    """This machine, in this process, without network: as many workers as CPUs, or one where a GPU does the work."""
    # "DirectRunner" would look for another runner on the network first; this is the local one by its own name.
    workers = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    return ["--runner=FnApiRunner", "--direct_running_mode=in_memory", f"--direct_num_workers={workers}"]


OUR_OPTIONS = ("--output", "--set", "--runner", "--device")
RUNNERS: dict[str, Callable[[], list[str]]] = {"direct": direct}


def runner_options(runner: str, extra: Sequence[str]) -> PipelineOptions:
    """Beam's options for a runner profile, which Beam's filesystems get as well; options in `extra` win.

    Raises:
        InputError: unknown runner, or an option that Beam does not know or cannot read.
    """
    if runner not in RUNNERS:
        raise unknown("runner", runner, RUNNERS)
    parser = _BeamArgumentParser(allow_abbrev=False, exit_on_error=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    try:
        _, unread = parser.parse_known_args(list(extra))
    except ArgumentError as error:
        raise InputError(f"option {error}") from None
    if unread:
        known = {*OUR_OPTIONS, *(option for action in parser._actions for option in action.option_strings)}
        name = unread[0].partition("=")[0]
        if not name.startswith("-"):
            raise InputError(f"{name!r} is one argument too many; give one experiment")
        raise unknown("option", name, known)
    options = PipelineOptions([*RUNNERS[runner](), *extra])
    if options.view_as(DirectOptions).direct_num_workers < 0:
        raise InputError("--direct_num_workers: give 1 or more, or 0 for as many as there are CPUs")
    # Object stores need options too (an endpoint, a region), and the images are listed before any pipeline runs.
    FileSystems.set_options(options)
    return options
