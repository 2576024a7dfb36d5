"""The last link of every recipe of the loop: parameters that all of them have."""

from dataclasses import replace

from transforms.attacks.loop import AttackLoop, Keep
from transforms.attacks.objectives import OBJECTIVES, ObjectiveName
from transforms.attacks.parts.ensembles import AdaptiveEnsemble, Reweighing
from transforms.attacks.units import Redraws
from transforms.errors import InputError

_POSITIVE: tuple[ObjectiveName, ...] = ("cross-entropy", "logit-margin")


def common(
    loop: AttackLoop,
    *,
    objective: ObjectiveName = "cross-entropy",
    keep: Keep = "last",
    random_start: bool = False,
    restarts: int = 1,
    eot: Redraws = 1,
) -> AttackLoop:
    """The objective, which canvas is kept, and how often runs and draws are repeated."""
    if isinstance(loop.estimator, AdaptiveEnsemble | Reweighing) and objective not in _POSITIVE:
        raise InputError(f"objective: {objective} may be negative, and this recipe weighs models by losses")
    if loop.features is not None and loop.features.own_objective:
        if isinstance(loop.estimator, AdaptiveEnsemble | Reweighing):
            raise InputError("recipe: it weighs models by what they answer, and features are followed in place of that")
        if objective != "cross-entropy" and keep == "last" and restarts == 1:
            raise InputError(
                f"objective: {objective} has no effect: features are followed, and no canvases are compared"
            )
    return replace(
        loop, objective=OBJECTIVES[objective], keep=keep, random_start=random_start, restarts=restarts, eot=eot
    )
