"""Attacks of foolbox (Rauber et al. 2020, JOSS 5(53) 2607; https://github.com/bethgelab/foolbox)."""

from functools import cache
from inspect import isclass, signature
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from transforms.attacks.adapters.bridge import Find, Network, NoneFoundError
from transforms.attacks.adapters.libraries import Kept, chosen, goals_of, imported
from transforms.attacks.adapters.parameters import Offered, offered
from transforms.attacks.balls import BALLS, Ball
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Batch
from transforms.attacks.recipe import Goals, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.plugins import refusing

_WITHHELD = {"constraint", "distance", "tensorboard", "update_stats_every_k"}
# Left open by the library; the paper's number of power iterations (Miyato et al. 2019, arXiv:1704.03976).
_MISSING = {"VirtualAdversarialAttack": {"steps": Offered(int, 1)}}
# It goes to the nearest boundary, and stops at the wanted class only if that happens to lie there.
_UNTARGETED = {"L2DeepFoolAttack", "LinfDeepFoolAttack"}
# They start from other images, which they expect from their caller.
_UNSTARTED = {"BinarizationRefinementAttack", "DatasetAttack"}
_WITHOUT_GRADIENTS = {
    "BoundaryAttack",
    "GaussianBlurAttack",
    "GenAttack",
    "HopSkipJumpAttack",
    "InversionAttack",
    "PointwiseAttack",
}
_WITHOUT_GRADIENTS_ENDING = ("NoiseAttack", "ContrastReductionAttack")


@cache
def recipe(name: str) -> Recipe:
    """By the name of its class in `foolbox.attacks`."""
    library = imported("foolbox", "foolbox", "pip install foolbox")
    bounded = library.attacks.base.AttackWithDistance
    classes: dict[str, Any] = {
        each: kept
        for each, kept in vars(library.attacks).items()
        if isclass(kept) and issubclass(kept, bounded) and each not in _UNSTARTED
    }
    full_name = chosen("foolbox", name, classes)
    attack = classes[name]
    parameters = {**offered(attack, _WITHHELD), **_MISSING.get(name, {})}
    defaults = {each: parameter.default for each, parameter in parameters.items()}
    with refusing(f"attack {full_name}"):
        norms = _norms(library, attack, attack(**defaults))
    minimal = issubclass(attack, library.attacks.base.MinimizationAttack)

    def run(made: Any, network: nn.Module, canvas: Tensor, goal: Goal, eps: float) -> Tensor:
        model = library.PyTorchModel(network, bounds=(0, 1), device=canvas.device)
        _, adversarial, _ = made(model, canvas, _criterion(library, goal), epsilons=None if minimal else eps)
        found: Tensor = adversarial
        return found

    def make(ball: Ball, values: dict[str, Any]) -> Find:
        made = attack(**values)

        def find(surrogates: Surrogates, one: Batch, seed: int) -> Tensor:
            try:
                return run(made, Network(surrogates, one.canvases.device), one.clean, one.goal, ball.eps)
            except ValueError as error:
                if "init_attack failed" in str(error):
                    raise NoneFoundError from None
                raise

        return find

    goals: Goals = "untargeted"
    if name not in _UNTARGETED:
        goals = goals_of(lambda network, canvas, goal: run(attack(**defaults), network, canvas, goal, 1.0))
    gradients = name not in _WITHOUT_GRADIENTS and not name.endswith(_WITHOUT_GRADIENTS_ENDING)
    source = "foolbox: Rauber et al. 2020, doi:10.21105/joss.02607"
    return Kept(full_name, source, norms, minimal, goals, parameters, make, gradients).recipe()


def _norms(library: ModuleType, attack: type, made: Any) -> dict[str, dict[str, Any]]:
    if issubclass(attack, library.attacks.HopSkipJumpAttack):
        return {norm: {"constraint": norm} for norm in ("linf", "l2")}
    if issubclass(attack, library.attacks.base.FlexibleDistanceMinimizationAttack):
        takes = "distance" in signature(attack).parameters
        return {norm: {"distance": getattr(library.distances, norm)} if takes else {} for norm in BALLS}
    return {f"l{made.distance.p:g}": {}}


def _criterion(library: ModuleType, goal: Goal) -> Any:
    if goal.targets is None:
        return library.criteria.Misclassification(goal.labels)
    return library.criteria.TargetedMisclassification(goal.targets)
