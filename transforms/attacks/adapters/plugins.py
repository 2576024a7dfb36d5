"""Plug-ins: attacks of installed packages, which name them in the entry-point group `megalith.attacks`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor

from transforms.attacks.adapters.bridge import ImageByImage, iterations
from transforms.attacks.adapters.parameters import maker
from transforms.attacks.balls import Ball
from transforms.attacks.protocol import Attack, Batch, Found, PoolUse
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE
from transforms.errors import InputError
from transforms.plugins import installed, loaded, refusing

_GROUP = "megalith.attacks"
_GIVEN = 3
_SHAPE = "(surrogates, batch, ball, *, parameter: type = default, ...)"


def names() -> list[str]:
    """The names that installed packages offer, without loading them."""
    return sorted(installed(_GROUP, "attack"))


def recipe(name: str) -> Recipe:
    """By the name of its entry point, which is a function or a `Recipe`.

    A function, (surrogates, batch, ball, *, parameters) -> float canvases (B, 3, S, S) in [0, 1], is called with one
    image at a time, and the generators of torch, NumPy and Python are seeded for that image. A `Recipe` makes attacks
    on whole batches, which see to that themselves. What both return is brought onto the 8-bit grid inside the budget; a
    `Recipe` that bounds no norm keeps its own.
    """
    found = loaded(_GROUP, "attack", name)
    if isinstance(found, Recipe):
        if not found.bounds:
            raise InputError(f"attack {name}: it bounds no norm, and none of its parameters is a units.Budget")
        return _GuardedRecipe(**vars(found), name=name)
    if not callable(found):
        place = installed(_GROUP, "attack")[name].value
        raise InputError(f"attack {name}: {place} is neither a function nor a Recipe")
    return _of_function(name, found)


def _of_function(name: str, function: Callable[..., Tensor]) -> Recipe:
    parameters = _parameters(name, function)

    def make(ball: Ball, values: dict[str, Any]) -> Attack:
        def find(surrogates: Surrogates, one: Batch, seed: int) -> Tensor:
            return function(surrogates, one, ball, **values)

        return ImageByImage(name, ball, find, False, *iterations(values), pool="offered")

    source = " ".join((function.__doc__ or "").split()) or f"{function.__module__}.{function.__qualname__}"
    return Recipe(source, [maker(name, parameters, make)], kind="other")


def _parameters(name: str, function: Callable[..., Tensor]) -> dict[str, tuple[Any, Any]]:
    given = [each for each in signature(function).parameters.values() if each.kind is not Parameter.KEYWORD_ONLY]
    named = [each for each in signature(function).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]
    if len(given) != _GIVEN or any(each.kind is not Parameter.POSITIONAL_OR_KEYWORD for each in given):
        raise InputError(f"attack {name}: {function.__qualname__}{signature(function)} is not of the form {_SHAPE}")
    with refusing(f"attack {name}"):
        hints = get_type_hints(function, include_extras=True)
    for each in named:
        if each.name not in hints or each.default is Parameter.empty:
            raise InputError(f"attack {name}: parameter {each.name} needs a type and a default: {_SHAPE}")
    return {each.name: (hints[each.name], each.default) for each in named}


@dataclass(frozen=True)
class _Guarded:
    """An attack that a plug-in's recipe made, held to the budget, and offered the pool; all else the attack says."""

    name: str
    ball: Ball | None
    attack: Attack

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by copy and pickle, before there is an attack
            raise AttributeError(attribute)
        return getattr(self.attack, attribute)

    @property
    def stages(self) -> tuple["_Guarded", ...]:
        stages = self.attack.stages
        return tuple(replace(self, attack=each) for each in stages) if len(stages) > 1 else (self,)

    @property
    def pool(self) -> PoolUse:
        return "needed" if self.attack.pool == "needed" else "offered"

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        found = self.attack(surrogates, batch)
        if found.canvases.dtype != torch.uint8 or found.canvases.shape != batch.canvases.shape:
            got = f"{found.canvases.dtype} {tuple(found.canvases.shape)}"
            raise InputError(f"attack {self.name}: returned {got}, not uint8 {tuple(batch.canvases.shape)}")
        if self.ball is None:
            return found
        # What is on the grid and in the budget already comes back as it is.
        return found._replace(canvases=self.ball.to_grid(batch.canvases, found.canvases.float() / WHITE))


@dataclass(frozen=True)
class _GuardedRecipe(Recipe):
    """A plug-in's recipe, whose attacks are guarded."""

    name: str = ""

    def make(self, ball: Ball | None, **parameters: Any) -> Attack:
        with refusing(f"attack {self.name}"):
            made: object = super().make(ball, **parameters)
        if not isinstance(made, Attack):
            raise InputError(
                f"attack {self.name}: a {type(made).__name__} is no Attack; derive it from protocol.BaseAttack"
            )
        return cast(Attack, _Guarded(self.name, ball, made))
