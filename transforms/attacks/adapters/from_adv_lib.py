"""Attacks of adv-lib (Rony & Ben Ayed; https://github.com/jeromerony/adversarial-library)."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from inspect import isfunction
from types import ModuleType
from typing import Any

from torch import Tensor

from transforms.attacks.adapters.bridge import Find, Network
from transforms.attacks.adapters.libraries import Kept, chosen, goals_of, imported
from transforms.attacks.adapters.parameters import offered
from transforms.attacks.balls import Ball
from transforms.attacks.protocol import Batch
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates

_ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}


def _by(parameter: str, *norms: str) -> dict[str, dict[str, Any]]:
    return {norm: {parameter: _ORDERS[norm]} for norm in norms}


@dataclass(frozen=True)
class _Function:
    norms: Mapping[str, Mapping[str, Any]]
    budget: str | None = None


# Which norm a function bounds stands in its documentation, the budget of those that have one in its parameters.
_FUNCTIONS = {
    "alma": _Function({norm: {"distance": norm} for norm in ("l2", "l1")}),
    "apgd": _Function(_by("norm", *_ORDERS), "eps"),
    "apgd_targeted": _Function(_by("norm", *_ORDERS), "eps"),
    "carlini_wagner_l2": _Function({"l2": {}}),
    "carlini_wagner_linf": _Function({"linf": {}}),
    "ddn": _Function({"l2": {}}),
    "df": _Function(_by("norm", "linf", "l2")),
    "fab": _Function(_by("norm", *_ORDERS)),
    "fga": _Function({"l0": {}}),
    "fmn": _Function(_by("norm", *_ORDERS)),
    "pdgd": _Function({"l2": {}}),
    "pdpgd": _Function(_by("norm", *_ORDERS)),
    "pgd_linf": _Function({"linf": {}}, "ε"),
    "sdf": _Function({"l2": {}}),
    "sigma_zero": _Function({"l0": {}}),
    "tr": _Function(_by("p", "linf", "l2")),
    "vfga": _Function({"l0": {}}),
}
# `eps` of `tr` is no budget, and two of a name would be one too many.
_WITHHELD = {"targeted", "norm", "p", "distance", "eps", "return_unsuccessful", "return_targets"}
_GREEK = str.maketrans(
    {"α": "alpha", "β": "beta", "γ": "gamma", "ε": "epsilon", "η": "eta"}
    | {"μ": "mu", "ρ": "rho", "σ": "sigma", "τ": "tau"}
)


@cache
def recipe(name: str) -> Recipe:
    """By the name of its function in `adv_lib.attacks`. Greek letters in the names of parameters are spelled out."""
    attacks = library()
    full_name = chosen("adv-lib", name, (each for each, kept in vars(attacks).items() if isfunction(kept)))
    function, kept = getattr(attacks, name), _FUNCTIONS.get(name, _Function({}))
    theirs = {each.translate(_GREEK): each for each in offered(function, _WITHHELD)}
    parameters = {ours: offered(function, ())[each] for ours, each in theirs.items()}

    def make(ball: Ball, values: dict[str, Any]) -> Find:
        arguments = {theirs.get(each, each): value for each, value in values.items()}
        if kept.budget is not None:
            arguments[kept.budget] = ball.eps

        def find(surrogates: Surrogates, one: Batch, seed: int) -> Tensor:
            network, targets = Network(surrogates, one.canvases.device), one.goal.targets
            labels = one.goal.labels if targets is None else targets
            adversarial: Tensor = function(network, one.clean, labels, targeted=targets is not None, **arguments)
            return adversarial

        return find

    needed: dict[str, Any] = dict(next(iter(kept.norms.values()), {})) | ({kept.budget: 1.0} if kept.budget else {})
    goals = goals_of(
        lambda model, canvas, goal: function(
            model,
            canvas,
            goal.labels if goal.targets is None else goal.targets,
            targeted=goal.targets is not None,
            **needed,
        )
    )
    source = "adv-lib: Rony & Ben Ayed, github.com/jeromerony/adversarial-library"
    return Kept(full_name, source, kept.norms, kept.budget is None, goals, parameters, make).recipe()


def library() -> ModuleType:
    """`adv_lib.attacks`; without visdom, which draws curves for callbacks only and no longer builds."""
    stand_in = "visdom" not in sys.modules and find_spec("visdom") is None
    if stand_in:
        sys.modules["visdom"] = ModuleType("visdom")
    try:
        return imported("adv_lib.attacks", "adv-lib", "pip install --no-deps adv-lib")
    finally:
        if stand_in:
            del sys.modules["visdom"]
