"""What an experiment may name, as `megalith list` shows it: attacks and their parameters, defences, models and their
layers, views."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from transforms.attacks.adapters.registry import plugin_names
from transforms.attacks.balls import BALLS
from transforms.attacks.modifiers.registry import MODIFIERS
from transforms.attacks.modifiers.registry import parameters as modifier_parameters
from transforms.attacks.recipe import Recipe
from transforms.attacks.recipes.bases import BASES
from transforms.attacks.recipes.names import RECIPES, recipe
from transforms.attacks.recipes.parts import PARTS
from transforms.attacks.units import Unit
from transforms.defenses.registry import defense_function, defense_names, parameter_types
from transforms.errors import InputError
from transforms.models.device import torch_device
from transforms.models.sources.registry import model_source, source_names
from transforms.models.views import VIEWS

_ANY_EPS = 16 / 255
"""Costs do not depend on the budget."""


@dataclass(frozen=True)
class Page:
    """A table, and words above and below it."""

    headings: list[str]
    rows: list[list[str]]
    above: str = ""
    below: str = ""


def page(thing: str, name: str | None) -> Page:
    """What `megalith list THING NAME` shows; raises InputError for a name that nobody knows, or none can be given."""
    if thing == "layers":
        return _layers(name)
    headings, rows = _LISTS[thing]
    if name is None:
        return Page(headings, list(map(list, rows())), below=how_to_combine() if thing == "attacks" else "")
    if thing == "attacks":
        return Page(["parameter", "default", "unit or words"], list(map(list, parameters(name))), above=in_words(name))
    if thing == "models":
        found = list(map(list, models(name)))
        if not found:
            raise InputError(f"list models: no model has {name!r} in its name; `list models` shows all of them")
        return Page(headings, found)
    raise InputError(f"list {thing}: takes no name; `list attacks NAME`, `list models PART`, `list layers MODEL` do")


def attacks() -> Iterator[tuple[str, ...]]:
    """Recipes, and attacks of other packages; of one that does not load, the reason."""
    for name in (*RECIPES, *plugin_names()):
        try:
            found = recipe(name)
        except InputError as error:
            yield name, *"?" * 4, str(error)
        else:
            yield name, found.kind, " ".join(found.bounds), *_cost(found), found.source


def in_words(name: str) -> str:
    """Kind, norms, source and cost of an attack; raises InputError for an unknown name."""
    found = recipe(name)
    forwards, backwards = _cost(found)
    several = " (of two surrogates together)" if found.models > 1 else ""
    return (
        f"{name}: {found.kind}, bounds {_bounds(found)}, goals: {found.goals}. {found.source}\n"
        f"per image: {forwards} forward and {backwards} backward passes{several}"
    )


def parameters(name: str) -> Iterator[tuple[str, str, str]]:
    """An attack's parameters: name, default as an experiment writes it, and unit or other words."""
    found = recipe(name)
    units = found.marked(Unit)
    for key, (kind, default) in found.parameters.items():
        others = [each for each in get_args(kind) if each != default] if get_origin(kind) is Literal else []
        yield key, _written(default), units[key].value if key in units else ", ".join(others)


def how_to_combine() -> str:
    """Words below the list of attacks."""
    return f"""\
Passes are per image, of one surrogate; of adaea, cwa, smer and svre, which need several, of two.
The parameters of one: megalith list attacks NAME
A base and parts combine, as in vmi-di-ti-si, and take the parameters of all of them:
  bases {", ".join(BASES)}; parts {", ".join(PARTS)}
Also torchattacks/NAME, foolbox/NAME, adv-lib/NAME, and attacks of your own: docs/plugin-attack.md"""


def defenses() -> Iterator[tuple[str, ...]]:
    """Functions that a grid may name."""
    for name in defense_names():
        yield name, _first_line(defense_function(name)), ", ".join(parameter_types(name))


def modifiers() -> Iterator[tuple[str, ...]]:
    """What changes a surrogate while its gradients are taken, with the parameters' defaults."""
    for name, function in MODIFIERS.items():
        defaults = ", ".join(f"{key}: {_written(default)}" for key, (_, default) in modifier_parameters(name).items())
        yield name, _first_line(function), defaults, function().source


def models(part: str = "") -> Iterator[tuple[str, ...]]:
    """Those with this in their names, and what they are shown."""
    for name in source_names():
        if part.lower() in name.lower():
            found = model_source(name)
            shown = found.preprocessing
            resized = f"{shown.resize} {shown.interpolation}{'' if shown.antialias else ', not antialiased'}"
            colours = f"{shown.channels} to {shown.value_range:g}"
            moments = (" ".join(f"{value:g}" for value in each) for each in (shown.mean, shown.std))
            published = "" if found.published is None else f"{found.published:.1%}"
            robust = "" if found.published_robust is None else f", AutoAttack {found.published_robust:.1%}"
            yield name, resized, str(shown.input_size), colours, *moments, published + robust


def _layers(model: str | None) -> Page:
    """The layers of a model, in the order in which they answer, and the usual one."""
    if model is None:
        raise InputError("list layers: name a model, as in `list layers packaged/efficientnet-lite0`")
    classifier = model_source(model).load(torch_device("cpu"))
    rows = [[each.name, each.kind, " × ".join(map(str, each.shape))] for each in classifier.layers]
    return Page(["layer", "kind", "shape"], rows, below=f"layer: {classifier.layer(None)} where an attack names none")


def views() -> Iterator[tuple[str, ...]]:
    """Ways of looking at a canvas."""
    return ((name, _first_line(view)) for name, view in VIEWS.items())


_LISTS: dict[str, tuple[list[str], Callable[[], Iterator[tuple[str, ...]]]]] = {
    "attacks": (["recipe", "kind", "bounds", "forwards", "backwards", "source"], attacks),
    "defenses": (["defense", "what", "parameters"], defenses),
    "models": (["model", "resize", "crop", "range", "mean", "std", "published"], models),
    "modifiers": (["modifier", "what", "parameters", "source"], modifiers),
    "views": (["view", "what"], views),
}
"""Headings of each list, and what gives its rows."""


def _bounds(found: Recipe) -> str:
    """One of its norms, or no norm but all of its parameters that are budgets."""
    return " or ".join(found.norms) or f"{' and '.join(found.bounds)} (no norm)"


def _cost(found: Recipe) -> tuple[str, str]:
    """Forward and backward passes per image."""
    try:
        attack = found.make(BALLS[found.norms[0]](_ANY_EPS) if found.norms else None)
    except InputError:  # a part of it is another library's, which is not installed
        return "?", "?"
    forwards, backwards = attack.cost(found.models)
    return f"{forwards:,}", f"{backwards:,}"


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


def _written(default: Any) -> str:
    if isinstance(default, tuple):
        return f"[{', '.join(map(_written, default))}]"
    if isinstance(default, bool) or default is None:
        return {True: "true", False: "false", None: "null"}[default]
    levels = 255 * default if isinstance(default, float) else 0.5
    # 16/255, but 0.2 and not 51/255
    return f"{levels:.0f}/255" if levels.is_integer() and len(repr(default)) > len("0.1234") else str(default)
