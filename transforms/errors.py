"""The one exception for a user's mistake, and the sentence that mends it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 50
"""Names in a message, at most; all attacks or defences, but not all models."""
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|\bMemoryError|out of memory|DefaultCPUAllocator|bad_alloc|Failed to allocate memory"
)
"""In the words of torch on a GPU and on a CPU, of C++, and of ONNX Runtime."""
_USER_OF_A_URL = re.compile(r"://[^/\s@]*@")


class InputError(ValueError):
    """Wrong input from a user: one line that names the thing, the value, and what would be right.

    The command prints the message alone (no traceback) and exits with 2.
    """


class StoppedError(RuntimeError):
    """The machine failed in the middle: disk, accelerator, network. One line; what is finished is kept.

    The command prints the message alone and exits with 1.
    """


def out_of_memory(said: Exception | str) -> bool:
    """Whether it says that memory is short, which is no fault of an image, a file, a network or a plug-in.

    By its words: torch's error on a CPU is a bare RuntimeError, and of workers only the text is known.
    """
    return _OUT_OF_MEMORY.search(f"{type(said).__name__}: {said}") is not None


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """Builds the error for a name that is not among `choices`, suggesting the nearest one."""
    known = sorted(choices)
    lowered = {each.lower(): each for each in known}
    close = get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.5)
    close.sort(key=lambda each: each not in _with_neighbours_swapped(str(name).lower()))
    nearest = [lowered[each] for each in close[:1]]
    listed = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {listed or 'none'}"
    return InputError(f"unknown {kind} {str(name)!r}; {hint}")


def _with_neighbours_swapped(word: str) -> set[str]:
    """The commonest slip of fingers, which counts as two differences elsewhere."""
    return {f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}" for at in range(len(word) - 1)}


def printable(said: object, longest: int = 2000) -> str:
    """A text, or what an exception says, on one line, cut to a length: without signs that a terminal acts upon, and
    without passwords in URLs."""
    words = " ".join(_USER_OF_A_URL.sub("://", str(said)).split()) or type(said).__name__
    shown = visible(words[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[:longest]} …"


def visible(text: str) -> str:
    """A text with whatever a terminal would act upon, but for ends of lines, spelled out as in Python."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def said_by(error: Exception) -> str:
    """What a library says, and with which exception, shortened to fit into one line of ours."""
    kind, said = type(error).__name__, printable(error, 300)
    return kind if said == kind else f"{kind}: {said}"
