"""Bases: the first links of a recipe, which make a loop from a ball and may exchange its estimator.

`alpha` is the length of a step; None stands for the rule that the docstring gives.
"""

from dataclasses import replace
from typing import Annotated

from transforms.attacks.balls import BALLS, Ball
from transforms.attacks.loop import AttackLoop
from transforms.attacks.parts.ensembles import AdaptiveEnsemble, CommonWeakness, Reweighing, VarianceReduction
from transforms.attacks.parts.estimators import (
    DirectionTuning,
    EnhancedMomentum,
    ExpectedFlatness,
    FrequencyRelevance,
    GradientNormPenalty,
    GradientRelevance,
    PredictionCorrection,
    ReversePerturbation,
    Sampling,
    VarianceTuning,
)
from transforms.attacks.parts.integrated import IntegratedGradients
from transforms.attacks.parts.learning import LearntOperations
from transforms.attacks.parts.momentum import adam, momentum
from transforms.attacks.parts.operators import OperatorPerturbation
from transforms.attacks.parts.updates import as_accumulated, contradicted, hesitant, patchwise
from transforms.attacks.parts.warping import ConstrainedWarping
from transforms.attacks.recipe import Recipe
from transforms.attacks.units import Carried, L2Length, Length, Memory, Pixels
from transforms.errors import InputError
from transforms.ranges import above, at_least, odd, within


def fgsm(ball: Ball) -> AttackLoop:
    """One step of the full budget."""
    return AttackLoop(ball, steps=1, alpha=ball.eps)


def bim(ball: Ball, *, steps: int = 10, alpha: Length | None = None) -> AttackLoop:
    """Small steps from the image, by default as long as reach the edge of the budget: alpha = eps / steps."""
    return AttackLoop(ball, steps, _alpha(alpha, ball.eps, steps))


def pgd(ball: Ball, *, steps: int = 10, alpha: Length | None = None) -> AttackLoop:
    """Small steps from a random point of the ball, by default alpha = 2.5 eps / steps."""
    return AttackLoop(ball, steps, _alpha(alpha, 2.5 * ball.eps, steps))


def adam_pgd(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    beta1: Memory[float] = 0.9,
    beta2: Memory[float] = 0.999,
    stabilizer: float = 1e-8,
) -> AttackLoop:
    """Adam's update inside the ball, by default alpha = 2.5 eps / steps."""
    within("[0, 1)", beta1=beta1, beta2=beta2)
    above(0, stabilizer=stabilizer)
    alpha = _alpha(alpha, 2.5 * ball.eps, steps)
    return AttackLoop(ball, steps, alpha, momentum=adam(beta1, beta2, stabilizer), step=as_accumulated(ball, alpha))


def mi_fgsm(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    decay: Memory[float] = 1.0,
    normalized: Annotated[bool, Carried(by="decay")] = True,
) -> AttackLoop:
    """Momentum over gradients of equal weight (unless not `normalized`), by default alpha = eps / steps."""
    at_least(0, decay=decay)
    return AttackLoop(ball, steps, _alpha(alpha, ball.eps, steps), momentum=momentum(decay, normalized=normalized))


def ni_fgsm(ball: Ball, *, steps: int = 10, alpha: Length | None = None, decay: Memory[float] = 1.0) -> AttackLoop:
    """MI-FGSM whose gradients are taken where its momentum leads: alpha * decay ahead (Nesterov)."""
    above(0, decay=decay)
    loop = mi_fgsm(ball, steps=steps, alpha=alpha, decay=decay)
    _looks_back(loop)
    return replace(loop, lookahead=loop.alpha * decay)


def gi_fgsm(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    decay: float = 1.0,
    pre_steps: int = 5,
    search_factor: float = 10.0,
) -> AttackLoop:
    """MI-FGSM whose momentum begins with that of `pre_steps` steps, `search_factor` times as long, from the image."""
    above(0, decay=decay, search_factor=search_factor)
    at_least(1, pre_steps=pre_steps)
    loop = mi_fgsm(ball, steps=steps, alpha=alpha, decay=decay)
    return replace(loop, search_steps=pre_steps, search_alpha=search_factor * loop.alpha)


def pc_i_fgsm(ball: Ball, *, steps: int = 10, alpha: Length | None = None) -> AttackLoop:
    """Prediction and correction: steps along the gradient and that of a canvas a step further on, by default alpha =
    eps / steps."""
    return _corrected(bim(ball, steps=steps, alpha=alpha))


def pc_mi_fgsm(ball: Ball, *, steps: int = 10, alpha: Length | None = None, decay: Memory[float] = 1.0) -> AttackLoop:
    """The same with momentum."""
    return _corrected(mi_fgsm(ball, steps=steps, alpha=alpha, decay=decay))


def pi_fgsm(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    amplification: float = 10.0,
    project_factor: Pixels | None = None,
    project_kernel: int = 3,
) -> AttackLoop:
    """Patch-wise: steps `amplification` times as long; what the budget cuts off goes to the neighbours, in each step
    `project_factor` (in the unit of [0, 1] pixels; the gamma of the paper), by default as much as a step is long."""
    above(0, amplification=amplification)
    odd(project_kernel=project_kernel)
    loop = bim(ball, steps=steps, alpha=alpha)
    factor = amplification * loop.alpha if project_factor is None else project_factor
    above(0, project_factor=factor)
    return replace(loop, step=patchwise(ball.eps, loop.alpha, amplification, factor, project_kernel))


def fgsra(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    decay: Memory[float] = 1.0,
    neighbors: int = 20,
    beta: float = 2.0,
    rho: float = 0.7,
    attenuation: float = 0.94,
) -> AttackLoop:
    """Gradients weighed with those of neighbours within beta * eps, whose spectra vary by rho; steps shrink where the
    gradient's sign is not the momentum's. By default alpha = eps / steps."""
    above(0, beta=beta)
    within("(0, 1)", attenuation=attenuation)
    loop = mi_fgsm(ball, steps=steps, alpha=alpha, decay=decay)
    estimator = FrequencyRelevance(ball, neighbors, beta * ball.eps, rho)
    return replace(loop, estimator=estimator, step=contradicted(ball, loop.alpha, attenuation, decay))


def dta(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    decay: float = 1.0,
    inner_steps: int = 10,
    inner_decay: float = 0.0,
) -> AttackLoop:
    """Steps in the mean direction of `inner_steps` short steps, by default alpha = eps / steps (the paper's K and mu_2
    are `inner_steps` and `inner_decay`)."""
    loop = ni_fgsm(ball, steps=steps, alpha=alpha, decay=decay)
    estimator = DirectionTuning(ball, loop.alpha, loop.lookahead, inner_steps, inner_decay)
    return replace(loop, estimator=estimator, momentum=momentum(decay, normalized=False))


def mef(
    ball: Ball,
    *,
    steps: int = 20,
    alpha: Length | None = None,
    decay: Memory[float] = 0.5,
    neighbors: int = 20,
    gamma: float = 2.0,
    xi: float = 0.15,
    inner_decay: Memory[float] = 0.9,
) -> AttackLoop:
    """Maximin expected flatness: neighbours within gamma * eps, each moved by xi * eps along a memory of its gradients;
    by default alpha = 2 eps / steps."""
    above(0, gamma=gamma, xi=xi)
    loop = mi_fgsm(ball, steps=steps, alpha=_alpha(alpha, 2 * ball.eps, steps), decay=decay)
    estimator = ExpectedFlatness(ball, neighbors, gamma * ball.eps, xi * ball.eps, inner_decay)
    return replace(loop, estimator=estimator)


def rap(
    ball: Ball,
    *,
    steps: int = 400,
    alpha: Length | None = None,
    decay: Memory[float] = 1.0,
    late_start: int | None = None,
    inner_steps: int = 8,
    reverse_eps: Length | None = None,
    reverse_alpha: Length | None = None,
) -> AttackLoop:
    """MI-FGSM at the point nearby, within reverse_eps = eps, that `inner_steps` steps of reverse_alpha = reverse_eps /
    inner_steps find lowest, after the first quarter of the steps (late_start); by default alpha = eps / 8."""
    late = steps // 4 if late_start is None else late_start
    if late >= steps > 0:
        raise InputError(f"late_start: {late} is not below steps: {steps}")
    reverse = ball.eps if reverse_eps is None else reverse_eps
    length = _alpha(reverse_alpha, reverse, inner_steps)
    loop = mi_fgsm(ball, steps=steps, alpha=_alpha(alpha, ball.eps, 8), decay=decay)
    return replace(loop, estimator=ReversePerturbation(BALLS[ball.norm](reverse), length, inner_steps, late))


def cwa(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    decay: float = 1.0,
    reverse_step: Length | None = None,
    inner_step: L2Length = 250.0,
) -> AttackLoop:
    """MI-FGSM towards the common weakness of an ensemble, by default alpha = 2 eps / steps, reverse_step = eps / 15.

    `decay` is no mere memory: it also weighs what one surrogate passes on to the next within a step.
    """
    loop = mi_fgsm(ball, steps=steps, alpha=_alpha(alpha, 2 * ball.eps, steps), decay=decay)
    reverse = ball.eps / 15 if reverse_step is None else reverse_step
    return replace(loop, estimator=CommonWeakness(ball, reverse, inner_step, decay))


def region_fitting(
    ball: Ball, *, steps: int = 10, alpha: Length | None = None, decay: Memory[float] = 1.0
) -> AttackLoop:
    """MI-FGSM with steps of the whole budget."""
    return mi_fgsm(ball, steps=steps, alpha=_alpha(alpha, ball.eps, 1), decay=decay)


def tenths(ball: Ball, *, steps: int = 100, alpha: Length | None = None) -> AttackLoop:
    """Small steps from the image, by default alpha = eps / 10 however many."""
    return bim(ball, steps=steps, alpha=_alpha(alpha, ball.eps, 10))


def variance_tuned(loop: AttackLoop, *, neighbors: int = 20, beta: float = 1.5) -> AttackLoop:
    """Gradients corrected by those around the point before, within beta * eps."""
    _looks_back(loop)
    above(0, beta=beta)
    return replace(loop, estimator=VarianceTuning(loop.ball, neighbors, beta * loop.ball.eps))


def along_the_last(
    loop: AttackLoop, *, samples: int = 11, radius: float = 7.0, sampling: Sampling = "linear"
) -> AttackLoop:
    """The mean gradient of points along the last direction, up to `radius` times alpha either way."""
    _looks_back(loop)
    above(0, radius=radius)
    return replace(loop, estimator=EnhancedMomentum(loop.ball, samples, radius * loop.alpha, sampling))


def relevance_weighed(
    loop: AttackLoop, *, neighbors: int = 20, beta: float = 3.5, attenuation: Memory[float] = 0.94
) -> AttackLoop:
    """Gradients weighed with those around, within beta * eps; steps shrink where signs change."""
    above(0, beta=beta)
    within("(0, 1)", attenuation=attenuation)  # with 1 no step would shrink
    estimator = GradientRelevance(loop.ball, neighbors, beta * loop.ball.eps)
    return replace(loop, estimator=estimator, step=hesitant(loop.ball, loop.alpha, attenuation))


def norm_penalised(loop: AttackLoop, *, neighbors: int = 20, beta: float = 3.0, balance: float = 0.5) -> AttackLoop:
    """Gradients that avoid steep places, around the point within beta * eps."""
    above(0, beta=beta)
    return replace(loop, estimator=GradientNormPenalty(loop.ball, neighbors, beta * loop.ball.eps, balance, loop.alpha))


def operators_around(loop: AttackLoop, *, neighbors: int = 10, operators: int = 20, beta: float = 2.0) -> AttackLoop:
    """Gradients of random sequences of operators, around the point within up to 1.5 beta * eps."""
    above(0, beta=beta)
    return replace(loop, estimator=OperatorPerturbation(loop.ball, neighbors, operators, beta * loop.ball.eps))


def along_integration_paths(
    loop: AttackLoop,
    *,
    auxiliary: int = 6,
    baselines: int = 1,
    interpolations: int = 1,
    regions: int = 2,
    position: float = 0.65,
) -> AttackLoop:
    """Integrated gradients of the canvas and `auxiliary` changed copies, from baselines of `regions` values per channel
    (the paper's lambda is `position`)."""
    estimator = IntegratedGradients(auxiliary, baselines, interpolations, regions, position)
    return replace(loop, estimator=estimator)


def through_warping(
    loop: AttackLoop, *, warpings: int = 20, mesh: int = 3, noise_scale: float = 2.0, rho: float = 0.01
) -> AttackLoop:
    """Gradients of warped canvases, whose mesh of control points moves by up to noise_scale / 2 half sides, and back by
    rho times the objective's slope."""
    above(0, noise_scale=noise_scale, rho=rho)
    return replace(loop, estimator=ConstrainedWarping(warpings, mesh, noise_scale, rho))


def by_learnt_operations(
    loop: AttackLoop, *, num_scale: int = 3, ops_num: int = 2, learning_rate: Memory[float] = 0.01
) -> AttackLoop:
    """Gradients of `num_scale` copies, each changed by `ops_num` operations, which are drawn by probabilities that
    learn from what the objective was."""
    return replace(loop, estimator=LearntOperations(num_scale, ops_num, learning_rate))


def variance_reduced(
    loop: AttackLoop, *, inner_steps: int | None = None, inner_alpha: Length | None = None, inner_decay: float = 1.0
) -> AttackLoop:
    """Variance-reduced gradients of an ensemble; inner_alpha = alpha, four inner steps per surrogate."""
    alpha = loop.alpha if inner_alpha is None else inner_alpha
    return replace(loop, estimator=VarianceReduction(loop.ball, alpha, inner_decay, inner_steps))


def reweighed(
    loop: AttackLoop,
    *,
    inner_decay: float = 1.0,
    inner_rounds: int = 4,
    weight_rate: float = 0.02,
    weight_decay: float = 0.002,
) -> AttackLoop:
    """An ensemble whose surrogates are followed in turn, `inner_rounds` times a step, by weights that learn."""
    estimator = Reweighing(loop.ball, loop.alpha, inner_decay, inner_rounds, weight_rate, weight_decay)
    return replace(loop, estimator=estimator)


def adaptively_weighed(loop: AttackLoop, *, ensemble_beta: float = 10.0, threshold: float = -0.3) -> AttackLoop:
    """An ensemble whose weights adapt to each image."""
    return replace(loop, estimator=AdaptiveEnsemble(loop.ball, loop.alpha, ensemble_beta, threshold))


def _corrected(loop: AttackLoop) -> AttackLoop:
    return replace(loop, estimator=PredictionCorrection(loop.ball, loop.alpha))


def _looks_back(loop: AttackLoop) -> None:
    if loop.steps == 1:
        raise InputError("steps: 1 has no step before it, which this recipe looks back at; take mi-fgsm")


def _alpha(alpha: float | None, reach: float, steps: int) -> float:
    if alpha is None:
        return reach / max(steps, 1)  # the loop refuses steps < 1
    return alpha


BASES = {
    "fgsm": Recipe("Goodfellow et al. 2015, arXiv:1412.6572", (fgsm,)),
    "bim": Recipe("Kurakin et al. 2017, arXiv:1607.02533", (bim,)),
    "pgd": Recipe("Madry et al. 2018, arXiv:1706.06083", (pgd,), defaults={"random_start": True}),
    "adam": Recipe("Kingma & Ba 2015, arXiv:1412.6980", (adam_pgd,), norms=("linf", "l2")),
    "mi": Recipe("Dong et al. 2018, arXiv:1710.06081", (mi_fgsm,)),
    "ni": Recipe("Lin et al. 2020, arXiv:1908.06281", (ni_fgsm,)),
    "gi": Recipe("Wang et al. 2022, arXiv:2211.11236", (gi_fgsm,)),
    "pi": Recipe("Gao et al. 2020, arXiv:2007.06765", (pi_fgsm,), norms=("linf",)),
    "vmi": Recipe("Wang & He 2021, arXiv:2103.15571", (mi_fgsm, variance_tuned)),
    "vni": Recipe("Wang & He 2021, arXiv:2103.15571", (ni_fgsm, variance_tuned)),
    "emi": Recipe("Wang et al. 2021, arXiv:2103.10609", (mi_fgsm, along_the_last)),
    "gra": Recipe("Zhu et al. 2023, ICCV", (mi_fgsm, relevance_weighed)),
    "pgn": Recipe("Ge et al. 2023, arXiv:2306.05225", (mi_fgsm, norm_penalised)),
    "mef": Recipe("Qiu et al. 2024, arXiv:2405.16181", (mef,)),
    "rap": Recipe("Qin et al. 2022, arXiv:2210.05968", (rap,)),
    "fgsra": Recipe("Wang et al. 2024, CIKM", (fgsra,)),
    "dta": Recipe("Yang et al. 2023, arXiv:2303.15109", (dta,)),
    "ops": Recipe("Guo et al. 2025, CVPR", (mi_fgsm, operators_around)),
    "mumodig": Recipe("Ren et al. 2025, arXiv:2412.18844", (mi_fgsm, along_integration_paths)),
    "decowa": Recipe("Lin et al. 2024, arXiv:2402.03951", (mi_fgsm, through_warping)),
    "pc": Recipe("Wan et al. 2023, arXiv:2306.01809", (pc_mi_fgsm,)),
    "l2t": Recipe("Zhu et al. 2024, arXiv:2405.14077", (mi_fgsm, by_learnt_operations)),
    "svre": Recipe("Xiong et al. 2022, arXiv:2111.10752", (mi_fgsm, variance_reduced), models=2),
    "adaea": Recipe(
        "Chen et al. 2023, arXiv:2308.02897",
        (mi_fgsm, adaptively_weighed),
        goals="untargeted",
        models=2,
        fusions=(),
    ),
    "smer": Recipe("Tang et al. 2024, CVPR", (mi_fgsm, reweighed), goals="untargeted", models=2, fusions=()),
    "cwa": Recipe("Chen et al. 2024, arXiv:2303.09105", (cwa,), models=2),
}
