"""Patience: questions that are not waited for longer than they are worth."""

from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float | None, ask: Callable[[], T]) -> T:
    """Asks in a thread, so that a signal ends the waiting and not what is at work.

    Args:
        seconds: how long the answer is waited for; None for as long as it takes.

    Raises:
        Empty: there was no answer in time. What `ask` raises comes as it is.
    """
    outcome = Queue[tuple[T | None, BaseException | None]]()

    def answer() -> None:
        try:
            outcome.put((ask(), None))
        except BaseException as error:
            outcome.put((None, error))

    Thread(target=answer, daemon=True).start()
    answered, error = outcome.get(timeout=seconds)
    if error is not None:
        raise error
    return answered  # type: ignore[return-value]  # an answer, as nothing was raised
