"""Models of a user's own package, which names them in the entry-point group `megalith.models`."""

from transforms.errors import InputError, said_by
from transforms.plugins import installed

_GROUP = "megalith.models"


def names() -> list[str]:
    """What the installed packages offer."""
    return list(installed(_GROUP, "model"))


def load(name: str) -> object:
    """What the function of that entry point returns, called without arguments.

    Raises:
        InputError: it cannot be imported or called; one line that says where it is.
    """
    point = installed(_GROUP, "model")[name]
    try:
        return point.load()()
    except InputError:
        raise
    except Exception as error:  # the plug-in's code
        raise InputError(
            f"model {name} ({point.value}): {said_by(error)}; it has to be a function "
            "without arguments that returns a ModelSource"
        ) from None
