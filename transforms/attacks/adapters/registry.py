"""Attacks that are not built in: `torchattacks/NAME`, `foolbox/NAME`, `adv-lib/NAME`, and NAME of a plug-in.

A library is imported when an attack of it is named, and not before.
"""

from collections.abc import Callable
from importlib import import_module

from transforms.attacks.adapters import plugins
from transforms.attacks.recipe import Recipe
from transforms.errors import unknown

_LIBRARIES = {"torchattacks": "from_torchattacks", "foolbox": "from_foolbox", "adv-lib": "from_adv_lib"}


def adapted(name: str) -> Recipe:
    """The recipe of an attack that is not built in, as an experiment names it.

    Raises:
        InputError: no such attack; its library or package is missing or does not load; it bounds none of `BALLS`.
    """
    library, slash, attack = name.partition("/")
    if not slash:
        return plugins.recipe(name)
    if library not in _LIBRARIES:
        raise unknown("library of attacks", library, _LIBRARIES)
    module = import_module(f"{__package__}.{_LIBRARIES[library]}")
    recipe: Callable[[str], Recipe] = module.recipe
    return recipe(attack)


def plugin_names() -> list[str]:
    """The attacks of plug-ins, whose packages are not loaded for it."""
    return plugins.names()
