"""The process of a command: signals, logging, exit codes, and one line for whatever goes wrong."""

import atexit
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from transforms.errors import InputError, StoppedError, out_of_memory, printable
from transforms.memory import keep_memory


class Exit(IntEnum):
    """Exit codes of the command."""

    DONE = 0
    STOPPED = 1
    WRONG_INPUT = 2
    DONE_WITH_FAILURES = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    UNREAD = 141
    TERMINATED = 143


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Says what went wrong in one line, and ends the command with the exit code for it."""
    try:
        yield
    except InputError as error:
        say(f"megalith: {error}")
        raise typer.Exit(Exit.WRONG_INPUT) from None
    except BrokenPipeError:
        _unread()
    except (StoppedError, OSError) as error:
        leave(f"megalith: {error}", Exit.STOPPED)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        leave(f"megalith: out of memory: {printable(error)}", Exit.STOPPED)
    except TerminatedError as error:
        leave("megalith: terminated; what is finished is kept, the same command goes on", error.code)
    except KeyboardInterrupt:
        leave("megalith: interrupted; what is finished is kept, the same command goes on", Exit.INTERRUPTED)


def somebody_types() -> bool:
    """Whether a person sits at a terminal, who types and reads; neither is piped or closed."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def standard_input() -> str:
    """All of standard input; raises InputError where it is not text in UTF-8."""
    try:
        return sys.stdin.buffer.read().decode() if sys.stdin else ""
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not text in UTF-8: {error}") from None


@contextmanager
def read_by_somebody() -> Iterator[None]:
    """Raises StoppedError where nobody reads what the body prints, as after `| head`: before work rather than in it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise StoppedError("nobody reads the output, so nothing was begun; `> file` keeps it") from None


def _discard_output() -> None:
    with suppress(OSError):  # What is buffered would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unread() -> NoReturn:
    """Ends the process as others end whose output nobody reads any more, in silence."""
    _discard_output()
    leave("", Exit.UNREAD)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, as a machine sends that is about to be taken away, or SIGHUP, as a terminal that is closed, ends a run
    like Ctrl-C."""

    def __init__(self, code: Exit) -> None:
        super().__init__()
        self.code = code


def _terminate(number: int, _: object) -> NoReturn:
    raise TerminatedError(Exit(128 + number))


class _Retries(logging.Handler):
    """Says in one line that Beam or Google's client waits for an object store, which may take minutes."""

    def emit(self, record: logging.LogRecord) -> None:
        match record.args:
            case (float() as seconds, _, str() as error, _):  # Beam's, with a traceback besides
                warn(f"{error.strip()}; trying again in {seconds:.0f} seconds")
            case _:
                warn(f"{record.getMessage()}")


def _unless_a_runner_is_lost(error: threading.ExceptHookArgs) -> None:
    """Threads of Beam's talk to its runner; that it is gone is said once, by the one that waits for the job's end."""
    if not error.exc_type.__module__.startswith("grpc."):
        threading.__excepthook__(error)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """What libraries and readers of results warn of, without the line of code."""
    warn(str(message))


def leave(message: str, code: Exit) -> NoReturn:
    """Ends the process at once, whatever its threads are at; nothing that was computed is lost."""
    with suppress(OSError):  # A terminal may be gone.
        if message:
            say(message)
        sys.stdout.flush()
    # Beam stops the job servers that it started when Python ends, which it is not going to.
    atexit._run_exitfuncs()
    # Other workers may be in the middle of an attack. Parts are published whole, so they need not be waited for.
    os._exit(code)


def _writable(stream: TextIO | None) -> TextIO:
    if stream is None:  # `>&-`
        return Path(os.devnull).open("w")
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def prepare_process() -> None:
    """Lets SIGTERM and SIGHUP end the process like Ctrl-C, and quiets what Beam logs and we say in one line.

    Output that is closed is written nowhere; signs that its encoding lacks become question marks. Freed
    memory is kept.
    """
    keep_memory()
    sys.stdout, sys.stderr = _writable(sys.stdout), _writable(sys.stderr)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has SIGHUP ignored
            signal.signal(number, _terminate)
    # Beam warns about extras that a local run does not need.
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Beam sets the level of this one when it starts Prism.
    logging.getLogger("PrismJobServer").propagate = False
    logging.getLogger("PrismJobServer").handlers = [logging.NullHandler()]
    warnings.showwarning = _show_warning
    threading.excepthook = _unless_a_runner_is_lost
    for library, level in {"apache_beam.utils.retry": logging.WARNING, "google.api_core.retry": logging.DEBUG}.items():
        retries = logging.getLogger(library)
        retries.setLevel(level)
        retries.handlers = [_Retries()]
        retries.propagate = False


def warn(message: str) -> None:
    """One line on stderr that begins with `warning:`."""
    say(f"warning: {message}")


def say(message: str) -> None:
    """One line on stderr."""
    print(printable(message), file=sys.stderr)
