"""Shared by the adapters of libraries: how a library is imported, and how an attack of it becomes a recipe."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from transforms.attacks.adapters.bridge import Find, ImageByImage, iterations
from transforms.attacks.adapters.parameters import maker
from transforms.attacks.balls import BALLS, Ball
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Attack
from transforms.attacks.recipe import LOGIT_FUSIONS, Goals, Kind, Recipe
from transforms.errors import InputError, unknown
from transforms.plugins import refusing


@dataclass(frozen=True)
class Kept:
    """An attack of a library.

    Attributes:
        name: as an experiment writes it.
        source: where it comes from.
        norms: those that it bounds, names of `BALLS` or not, each with the parameters that choose it.
        minimal: whether it looks for the smallest perturbation.
        goals: those that it can pursue.
        parameters: those that an experiment may set.
        make: (ball, values of all parameters and of those that choose the norm) -> the attack.
        gradients: whether it follows any.
    """

    name: str
    source: str
    norms: Mapping[str, Mapping[str, Any]]
    minimal: bool
    goals: Goals
    parameters: Mapping[str, tuple[Any, Any]]
    make: Callable[[Ball, dict[str, Any]], Find] = field(repr=False)
    gradients: bool = True

    def recipe(self) -> Recipe:
        """Raises InputError if it bounds none of `BALLS`."""
        norms = tuple(norm for norm in BALLS if norm in self.norms)
        if not norms:
            bounds = ", ".join(self.norms) or "no norm"
            raise InputError(f"attack {self.name}: bounds {bounds}; an attack here bounds one of {', '.join(BALLS)}")
        chain = [maker(self.name, self.parameters, self._attack)]
        kind: Kind = "minimal-norm" if self.minimal else "other"
        return Recipe(
            self.source,
            chain,
            kind=kind,
            norms=norms,
            goals=self.goals,
            gradients=self.gradients,
            fusions=LOGIT_FUSIONS,
        )

    def _attack(self, ball: Ball, values: dict[str, Any]) -> Attack:
        if ball.norm not in self.norms:
            raise InputError(f"norm: {ball.norm} is not bounded by {self.name}; it bounds {' or '.join(self.norms)}")
        with refusing(f"attack {self.name}"):
            find = self.make(ball, {**values, **self.norms[ball.norm]})
        return ImageByImage(self.name, ball, find, self.minimal, *iterations(values))


def imported(module: str, library: str, install: str) -> ModuleType:
    """Imports a library; raises InputError that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        said = f"no module {error.name!r}" if isinstance(error, ModuleNotFoundError) else str(error)
        raise InputError(f"attacks of {library} need: {install} ({said})") from None


def chosen(library: str, name: str, choices: Iterable[str]) -> str:
    """The name as an experiment writes it; raises InputError if the library has no such attack."""
    if name not in (names := set(choices)):
        raise unknown(f"attack of {library}", name, names)
    return f"{library}/{name}"


class _AskedError(Exception):
    """The model was shown something."""


class _Asked(nn.Module):
    def forward(self, _: Tensor) -> Tensor:
        raise _AskedError


def goals_of(run: Callable[[nn.Module, Tensor, Goal], object]) -> Goals:
    """Finds out which goals an attack accepts.

    It is started for both, with a model that only notes being asked: attacks refuse a goal before they ask a model.

    Args:
        run: starts it: (model, canvas (1, 3, 8, 8), goal).
    """
    canvas, label, target = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]), torch.tensor([1])
    accepted = []
    for goal in (Goal(label), Goal(label, target)):
        with catch_warnings():
            simplefilter("ignore")  # some only warn, and return the image
            try:
                run(_Asked().eval(), canvas, goal)
            except _AskedError:
                accepted.append(goal)
            except Exception:  # noqa: S112
                continue
    if len(accepted) == 1:
        return "untargeted" if accepted[0].targets is None else "targeted"
    return "any"
