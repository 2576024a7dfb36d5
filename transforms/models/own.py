"""Models of a user's own package, which names them in the entry-point group `megalith.models`."""

from importlib.metadata import EntryPoint, entry_points

from transforms.errors import InputError, said_by

GROUP = "megalith.models"


def names() -> list[str]:
    """What the installed packages offer."""
    return list(_by_name())


def load(name: str) -> object:
    """What the function of that entry point returns, called without arguments.

    Raises:
        InputError: it cannot be imported or called; one line that says where it is.
    """
    point = _by_name()[name]
    try:
        return point.load()()
    except InputError:
        raise
    except Exception as error:  # somebody's code
        raise InputError(
            f"model {name} ({point.value}): {said_by(error)}; it has to be a function "
            "without arguments that returns a ModelSource"
        ) from None


def _by_name() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for each in entry_points(group=GROUP):
        other = found.setdefault(each.name, each)
        if other.value != each.value:
            raise InputError(f"model {each.name!r} is offered twice, by {other.value} and by {each.value}")
    return found
