"""A child process that does one thing. What would kill this process kills the child instead."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from apache_beam.internal import pickler

from transforms.steps.process import prepare_numerics

T = TypeVar("T")


class ChildDiedError(Exception):
    """The child ended in the middle of its work."""


class NoChildError(Exception):
    """Nothing can be learned from a child: it could not begin, or its work raised an error, which is no death."""


def in_child(work: Callable[[], T]) -> T:
    """What `work` returns in a process of its own, which is the first that the kernel kills for want of memory.

    Args:
        work: pickled as Beam pickles what it sends to workers. It returns, bit for bit, what it would return here.

    Raises:
        ChildDiedError: the child began the work and did not end it.
        NoChildError: the child has no answer, and that says nothing about the work.
    """
    context = multiprocessing.get_context("forkserver")
    # Children are forked from a process that has imported the libraries and runs no threads; not from this one.
    context.set_forkserver_preload([prepare_numerics.__module__])
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there, pickler.dumps(work)), daemon=True)
    try:
        child.start()
    except (AssertionError, OSError) as error:  # Some processes may have no children.
        raise NoChildError(str(error)) from error
    finally:
        there.close()
    with here:
        try:
            answer: T = _answer(here)
        finally:
            child.kill()  # Whoever interrupts the parent does not wait for the work.
            child.join()
    return answer


def _answer(pipe: Connection) -> Any:
    try:
        begun = pipe.recv()
    except EOFError as error:
        raise NoChildError("it could not begin") from error
    try:
        done, answer = pipe.recv() if begun is None else (False, begun)
    except (EOFError, ConnectionError) as error:
        raise ChildDiedError from error
    if not done:
        raise NoChildError(answer)
    return answer


def _serve(pipe: Connection, pickled: bytes) -> None:
    """Answers None where the work is about to begin, and then True and what came of it; otherwise what was raised."""
    for number in (signal.SIGINT, signal.SIGHUP):  # A terminal sends them to parent and child; the parent decides.
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    prepare_numerics()
    try:
        work = pickler.loads(pickled)
    except Exception as error:
        pipe.send(repr(error))
        return
    pipe.send(None)
    try:
        answer = True, work()
    except Exception as error:
        answer = False, repr(error)
    pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
