"""The one exception for a user's mistake, and the sentence that mends it."""

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 50
"""Names in a message, at most; all attacks or defences, but not all models."""


class InputError(ValueError):
    """Wrong input from a user: one line that names the thing, the value, and what would be right.

    The command prints the message alone (no traceback) and exits with 2.
    """


class StoppedError(RuntimeError):
    """The machine failed in the middle: disk, accelerator, network. One line; what is finished is kept.

    The command prints the message alone and exits with 1.
    """


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """Builds the error for a name that is not among `choices`, suggesting the nearest one."""
    known = sorted(choices)
    nearest = get_close_matches(str(name), known, n=1, cutoff=0.5)
    listed = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {listed or 'none'}"
    return InputError(f"unknown {kind} {str(name)!r}; {hint}")


def said_by(error: Exception) -> str:
    """What a library says, shortened to fit into one line of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
