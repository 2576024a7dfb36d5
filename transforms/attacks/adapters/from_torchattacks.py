"""Attacks of torchattacks (Kim 2020, arXiv:2010.01950; https://github.com/Harry24k/adversarial-attacks-pytorch)."""

from functools import cache
from inspect import signature
from typing import Any

from torch import Tensor, nn

from transforms.attacks.adapters.bridge import Find, Network
from transforms.attacks.adapters.libraries import Kept, chosen, imported
from transforms.attacks.adapters.parameters import offered
from transforms.attacks.balls import Ball
from transforms.attacks.protocol import Batch
from transforms.attacks.recipe import Goals, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import Length
from transforms.plugins import refusing

# A class says its norm in prose only. Its README and these lines agree where the README does.
_LINF = "FGSM BIM RFGSM PGD EOTPGD FFGSM TPGD MIFGSM UPGD DIFGSM TIFGSM Jitter NIFGSM PGDRS SINIFGSM VMIFGSM VNIFGSM"
_NORMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys([*_LINF.split(), "SPSA", "PIFGSM", "PIFGSMPP"], ("linf",)),
    **dict.fromkeys(["CW", "PGDL2", "PGDRSL2", "DeepFool"], ("l2",)),
    **dict.fromkeys(["EADL1", "EADEN"], ("l1",)),
    **dict.fromkeys(["SparseFool", "OnePixel", "Pixle", "JSMA"], ("l0",)),
    **dict.fromkeys(["GN", "VANILA"], ("linf", "l2", "l1")),
    # FAB has lines for L1 too, and fails in them.
    **dict.fromkeys(["APGD", "APGDT", "AutoAttack", "FAB", "Square"], ("linf", "l2")),
}
_SPELLING = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_MINIMAL = {"CW", "DeepFool", "EADL1", "EADEN", "FAB", "SparseFool"}
_WITHOUT_GRADIENTS = {"SPSA", "Square", "GN", "VANILA"}
_BUDGETS = ("eps", "max_epsilon")
_WITHHELD = {*_BUDGETS, "norm", "seed", "verbose"}
_REALS = {"c", "kappa", "lam", "nsig", "scale"}


@cache
def recipe(name: str) -> Recipe:
    """By the name of its class."""
    library = imported("torchattacks", "torchattacks", "pip install torchattacks")
    full_name = chosen("torchattacks", name, (each for each in _NORMS if hasattr(library, each)))
    attack = getattr(library, name)
    parameters: dict[str, tuple[Any, Any]] = dict(offered(attack, _WITHHELD, _REALS))
    if "alpha" in parameters and name not in _MINIMAL:
        parameters["alpha"] = Length, parameters["alpha"][1]
    takes = signature(attack).parameters
    norms = {norm: {"norm": _SPELLING[norm]} if "norm" in takes else {} for norm in _NORMS[name]}

    def make(ball: Ball, values: dict[str, Any]) -> Find:
        values = {**values, **{budget: ball.eps for budget in _BUDGETS if budget in takes}}
        attack(nn.Linear(1, 1), **values)  # a wrong value is said now, not on a worker

        def find(surrogates: Surrogates, one: Batch, seed: int) -> Tensor:
            # Some seed torch themselves, always with the same number.
            seeded = {**values, "seed": seed} if "seed" in takes else values
            made, targets = attack(Network(surrogates, one.canvases.device), **seeded), one.goal.targets
            if targets is not None:
                # Not "by label": FAB needs the true class besides.
                made.set_mode_targeted_by_function(lambda inputs, _: targets.expand(len(inputs)), quiet=True)
            adversarial: Tensor = made(one.clean, one.goal.labels)
            return adversarial

        return find

    with refusing(f"attack {full_name}"):
        targeted = "targeted" in attack(nn.Linear(1, 1)).supported_mode
    goals: Goals = "any" if targeted else "untargeted"
    source = "torchattacks: Kim 2020, arXiv:2010.01950"
    gradients = name not in _WITHOUT_GRADIENTS
    return Kept(full_name, source, norms, name in _MINIMAL, goals, parameters, make, gradients).recipe()
