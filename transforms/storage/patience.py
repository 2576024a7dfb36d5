"""Patience: questions that are not waited for longer than they are worth."""

from collections.abc import Callable
from queue import Queue
from threading import Thread


def within(seconds: float, ask: Callable[[], object]) -> None:
    """Asks in a thread that nobody waits for longer; raises what it raises, or Empty."""
    outcome = Queue[Exception | None]()

    def answer() -> None:
        try:
            ask()
        except Exception as error:
            outcome.put(error)
        else:
            outcome.put(None)

    Thread(target=answer, daemon=True).start()
    error = outcome.get(timeout=seconds)
    if error is not None:
        raise error
