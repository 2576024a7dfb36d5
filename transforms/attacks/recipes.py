"""Named attacks: each recipe is the literature's name for a combination of the loop's parts.

A *base* makes a loop from a ball; a *part* changes a loop. Both name their parameters as the papers do; `alpha` is in
the unit of [0, 1] pixels, and None stands for the base's own rule. Any base and parts combine: `mi-di-ti`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal

from transforms.attacks.adapters import adapted, own_names
from transforms.attacks.balls import Ball
from transforms.attacks.bands import BANDS, Basis
from transforms.attacks.checks import above, at_least, odd, within
from transforms.attacks.drivers import apgd, autoattack, carlini_wagner, ddn, deepfool, fmn, square
from transforms.attacks.ensembles import AdaptiveEnsemble, CommonWeakness, VarianceReduction
from transforms.attacks.estimators import (
    EnhancedMomentum,
    GradientNormPenalty,
    GradientRelevance,
    Sampling,
    VarianceTuning,
)
from transforms.attacks.filters import Kernel, blur
from transforms.attacks.loop import AttackLoop, Keep
from transforms.attacks.momentum import adam, momentum
from transforms.attacks.objectives import OBJECTIVES, ObjectiveName
from transforms.attacks.protocol import Transformation
from transforms.attacks.registry import Recipe
from transforms.attacks.steps import as_accumulated, hesitant, in_coefficients, patchwise
from transforms.attacks.transformations import (
    BlockShuffle,
    DiverseInput,
    Mixing,
    ResizedDiversity,
    Scales,
    SpectrumSimulation,
    StructureInvariance,
)
from transforms.errors import InputError, unknown

# Bases


def fgsm(ball: Ball) -> AttackLoop:
    """One step of the full budget."""
    return AttackLoop(ball, steps=1, alpha=ball.eps)


def bim(ball: Ball, *, steps: int = 10, alpha: float | None = None) -> AttackLoop:
    """Small steps from the image, by default as long as reach the edge of the budget: alpha = eps / steps."""
    return AttackLoop(ball, steps, _alpha(alpha, ball.eps, steps))


def pgd(ball: Ball, *, steps: int = 10, alpha: float | None = None) -> AttackLoop:
    """Small steps from a random point of the ball, by default alpha = 2.5 eps / steps."""
    return AttackLoop(ball, steps, _alpha(alpha, 2.5 * ball.eps, steps))


def adam_pgd(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    stabilizer: float = 1e-8,
) -> AttackLoop:
    """Adam's update inside the ball, by default alpha = 2.5 eps / steps."""
    within("[0, 1)", beta1=beta1, beta2=beta2)
    above(0, stabilizer=stabilizer)
    alpha = _alpha(alpha, 2.5 * ball.eps, steps)
    return AttackLoop(ball, steps, alpha, momentum=adam(beta1, beta2, stabilizer), step=as_accumulated(ball, alpha))


def mi_fgsm(
    ball: Ball, *, steps: int = 10, alpha: float | None = None, decay: float = 1.0, normalized: bool = True
) -> AttackLoop:
    """Momentum over gradients of equal weight (unless not `normalized`), by default alpha = eps / steps."""
    at_least(0, decay=decay)
    return AttackLoop(ball, steps, _alpha(alpha, ball.eps, steps), momentum=momentum(decay, normalized=normalized))


def ni_fgsm(ball: Ball, *, steps: int = 10, alpha: float | None = None, decay: float = 1.0) -> AttackLoop:
    """MI-FGSM whose gradients are taken where its momentum leads: alpha * decay ahead (Nesterov)."""
    above(0, decay=decay)
    loop = mi_fgsm(ball, steps=steps, alpha=alpha, decay=decay)
    _looks_back(loop)
    return replace(loop, lookahead=loop.alpha * decay)


def pi_fgsm(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: float | None = None,
    amplification: float = 10.0,
    project_factor: float | None = None,
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


def cwa(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: float | None = None,
    decay: float = 1.0,
    reverse_step: float | None = None,
    inner_step: float = 250.0,
) -> AttackLoop:
    """MI-FGSM towards the common weakness of an ensemble, by default alpha = 2 eps / steps, reverse_step = eps / 15."""
    loop = mi_fgsm(ball, steps=steps, alpha=_alpha(alpha, 2 * ball.eps, steps), decay=decay)
    reverse = ball.eps / 15 if reverse_step is None else reverse_step
    return replace(loop, estimator=CommonWeakness(ball, reverse, inner_step, decay))


def region_fitting(ball: Ball, *, steps: int = 10, alpha: float | None = None, decay: float = 1.0) -> AttackLoop:
    """MI-FGSM with steps of the whole budget."""
    return mi_fgsm(ball, steps=steps, alpha=_alpha(alpha, ball.eps, 1), decay=decay)


# What gradients a loop follows


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
    loop: AttackLoop, *, neighbors: int = 20, beta: float = 3.5, attenuation: float = 0.94
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


def variance_reduced(
    loop: AttackLoop, *, inner_steps: int | None = None, inner_alpha: float | None = None, inner_decay: float = 1.0
) -> AttackLoop:
    """Variance-reduced gradients of an ensemble; inner_alpha = alpha, four inner steps per surrogate."""
    alpha = loop.alpha if inner_alpha is None else inner_alpha
    return replace(loop, estimator=VarianceReduction(loop.ball, alpha, inner_decay, inner_steps))


def adaptively_weighed(loop: AttackLoop, *, ensemble_beta: float = 10.0, threshold: float = -0.3) -> AttackLoop:
    """An ensemble whose weights adapt to each image."""
    return replace(loop, estimator=AdaptiveEnsemble(loop.ball, loop.alpha, ensemble_beta, threshold))


def _looks_back(loop: AttackLoop) -> None:
    if loop.steps == 1:
        raise InputError("steps: 1 has no step before it, which this recipe looks back at; take mi-fgsm")


# Parts

_SIGMA = 3.0


def di(loop: AttackLoop, *, resize_rate: float = 1.1, diversity_probability: float = 0.5) -> AttackLoop:
    """Diverse inputs: randomly resized and padded."""
    return _shown(loop, DiverseInput(resize_rate, diversity_probability))


def ti(
    loop: AttackLoop, *, kernel_type: Kernel = "gaussian", kernel_size: int = 15, kernel_sigma: float = _SIGMA
) -> AttackLoop:
    """Translation invariance: gradients convolved with a kernel. A Gaussian reaches `kernel_sigma` standard deviations
    to either side: a larger one makes it narrower."""
    if kernel_type != "gaussian" and kernel_sigma != _SIGMA:
        raise InputError(f"kernel_sigma: {kernel_sigma} has no effect with kernel_type: {kernel_type}")
    return replace(loop, gradient_filter=blur(kernel_type, kernel_size, kernel_sigma))


def si(loop: AttackLoop, *, scales: int = 5) -> AttackLoop:
    """Scale invariance: also at half, a quarter … of the brightness."""
    return _shown(loop, Scales(scales))


def dem(loop: AttackLoop, *, resize_rates: tuple[float, ...] = (1.14, 1.27, 1.4, 1.53, 1.66)) -> AttackLoop:
    """Diversity ensemble: the logits of several diverse inputs averaged."""
    return _shown(loop, ResizedDiversity(resize_rates))


def mix(loop: AttackLoop, *, mixed_images: int = 3, admix_strength: float = 0.2) -> AttackLoop:
    """A share of other pictures is added. Admix is this, then `si`."""
    return _shown(loop, Mixing(mixed_images, admix_strength))


def ssa(
    loop: AttackLoop, *, spectra: int = 20, spectrum_noise: float = 16 / 255, spectrum_spread: float = 0.5
) -> AttackLoop:
    """Spectrum simulation: noise, and cosine coefficients multiplied at random (the paper's sigma and rho)."""
    return _shown(loop, SpectrumSimulation(spectra, spectrum_noise, spectrum_spread))


def sia(loop: AttackLoop, *, structures: int = 20, structure_blocks: int = 3) -> AttackLoop:
    """Structure invariance: random changes of random blocks."""
    return _shown(loop, StructureInvariance(structures, structure_blocks))


def bsr(loop: AttackLoop, *, shuffles: int = 20, shuffle_blocks: int = 2, rotation: float = 24.0) -> AttackLoop:
    """Block shuffle and rotation."""
    return _shown(loop, BlockShuffle(shuffles, shuffle_blocks, rotation))


def lf(
    loop: AttackLoop,
    *,
    basis: Basis = "dct",
    cutoff: float = 0.5,
    step_in: Literal["pixels", "coefficients"] = "pixels",
) -> AttackLoop:
    """Low frequencies only: steps in pixels, projected to the band, or in the signs of the band's coefficients."""
    band = BANDS[basis](cutoff)
    if step_in == "pixels":
        return replace(loop, band=band)
    if loop.step is not None:
        raise InputError("step_in: coefficients would replace the steps that this recipe is about")
    return replace(loop, band=band, step=in_coefficients(loop.ball, band, loop.alpha))


def _shown(loop: AttackLoop, transformation: Transformation) -> AttackLoop:
    return replace(loop, transformations=(*loop.transformations, transformation))


# What every loop can do

_POSITIVE: tuple[ObjectiveName, ...] = ("cross-entropy", "logit-margin")


def common(
    loop: AttackLoop,
    *,
    objective: ObjectiveName = "cross-entropy",
    keep: Keep = "last",
    random_start: bool = False,
    restarts: int = 1,
    eot: int = 1,
) -> AttackLoop:
    """What the loop climbs, what it keeps, and how often."""
    if isinstance(loop.estimator, AdaptiveEnsemble) and objective not in _POSITIVE:
        raise InputError(f"objective: {objective} may be negative, and adaea weighs models by ratios of losses")
    return replace(
        loop, objective=OBJECTIVES[objective], keep=keep, random_start=random_start, restarts=restarts, eot=eot
    )


COMMON = inspect.getfullargspec(common).kwonlyargs
"""Names of the parameters that every recipe of the loop has."""

_LINF = ("linf",)

BASES = {
    "fgsm": Recipe("Goodfellow et al. 2015, arXiv:1412.6572", (fgsm,)),
    "bim": Recipe("Kurakin et al. 2017, arXiv:1607.02533", (bim,)),
    "pgd": Recipe("Madry et al. 2018, arXiv:1706.06083", (pgd,), defaults={"random_start": True}),
    "adam": Recipe("Kingma & Ba 2015, arXiv:1412.6980", (adam_pgd,), norms=("linf", "l2")),
    "mi": Recipe("Dong et al. 2018, arXiv:1710.06081", (mi_fgsm,)),
    "ni": Recipe("Lin et al. 2020, arXiv:1908.06281", (ni_fgsm,)),
    "pi": Recipe("Gao et al. 2020, arXiv:2007.06765", (pi_fgsm,), norms=_LINF),
    "vmi": Recipe("Wang & He 2021, arXiv:2103.15571", (mi_fgsm, variance_tuned)),
    "vni": Recipe("Wang & He 2021, arXiv:2103.15571", (ni_fgsm, variance_tuned)),
    "emi": Recipe("Wang et al. 2021, arXiv:2103.10609", (mi_fgsm, along_the_last)),
    "gra": Recipe("Zhu et al. 2023, ICCV", (mi_fgsm, relevance_weighed)),
    "pgn": Recipe("Ge et al. 2023, arXiv:2306.05225", (mi_fgsm, norm_penalised)),
    "svre": Recipe("Xiong et al. 2022, arXiv:2111.10752", (mi_fgsm, variance_reduced), models=2),
    "adaea": Recipe(
        "Chen et al. 2023, arXiv:2308.02897",
        (mi_fgsm, adaptively_weighed),
        goals="untargeted",
        models=2,
        fusions=(),
    ),
    "cwa": Recipe("Chen et al. 2024, arXiv:2303.09105", (cwa,), models=2),
}
_Part = Callable[..., AttackLoop]
PARTS: dict[str, tuple[str, tuple[_Part, ...]]] = {
    "di": ("Xie et al. 2019, arXiv:1803.06978", (di,)),
    "ti": ("Dong et al. 2019, arXiv:1904.02884", (ti,)),
    "si": ("Lin et al. 2020, arXiv:1908.06281", (si,)),
    "dem": ("Zou et al. 2020, arXiv:2112.06011", (dem,)),
    "admix": ("Wang et al. 2021, arXiv:2102.00436", (mix, si)),
    "ssa": ("Long et al. 2022, arXiv:2207.05382", (ssa,)),
    "sia": ("Wang et al. 2023, arXiv:2309.14700", (sia,)),
    "bsr": ("Wang et al. 2024, arXiv:2308.10299", (bsr,)),
    "lf": ("Guo et al. 2019, arXiv:1809.08758; Sharma et al. 2019, arXiv:1903.00073", (lf,)),
}


def combined(base: str | Recipe, *parts: str, source: str = "", **defaults: Any) -> Recipe:
    """A base with parts; the transformation named last is applied first: `di` of `vmi-di-si` sees each scale."""
    made = BASES[base] if isinstance(base, str) else base
    sources = dict.fromkeys([*(PARTS[part][0] for part in parts), made.source])
    return replace(
        made,
        source=source or "; ".join(sources),
        chain=(*made.chain, *(function for part in reversed(parts) for function in PARTS[part][1]), common),
        defaults={**made.defaults, **defaults},
    )


def _long_and_targeted(source: str, objective: ObjectiveName, *, normalized: bool) -> Recipe:
    """Hundreds of steps with diverse inputs and a small translation kernel."""
    made = combined(
        "mi",
        "di",
        "ti",
        source=source,
        normalized=normalized,
        steps=300,
        alpha=2 / 255,
        diversity_probability=0.7,
        kernel_size=5,
        objective=objective,
    )
    return replace(made, norms=_LINF, goals="targeted")


RECIPES: dict[str, Recipe] = {
    "fgsm": combined("fgsm"),
    "bim": combined("bim"),
    "pgd": combined("pgd"),
    "adam-pgd": combined("adam"),
    "mi-fgsm": combined("mi"),
    "ni-fgsm": combined("ni"),
    "pi-fgsm": combined("pi"),
    "vmi-fgsm": combined("vmi"),
    "vni-fgsm": combined("vni"),
    "emi-fgsm": combined("emi"),
    "gra": combined("gra"),
    "pgn": combined("pgn"),
    "di-fgsm": combined("mi", "di"),
    "ti-fgsm": combined("mi", "ti"),
    "si-fgsm": combined("mi", "si"),
    "si-ni-fgsm": combined("ni", "si"),
    "dem": combined(Recipe(PARTS["dem"][0], (region_fitting,)), "dem"),
    "admix": combined("mi", "admix"),
    "ssa": combined("mi", "ssa"),
    "sia": combined("mi", "sia"),
    "bsr": combined("mi", "bsr"),
    "lf-fgsm": combined("mi", "lf"),
    "svre": combined("svre"),
    "adaea": combined("adaea"),
    "cwa": combined("cwa"),
    "logit": _long_and_targeted("Zhao et al. 2021, arXiv:2012.11207", "logit", normalized=False),
    # Its gradient is divided by a margin that may be tiny: as it is, a single step could outweigh all others.
    "logit-margin": _long_and_targeted("Weng et al. 2023, arXiv:2303.03680", "logit-margin", normalized=True),
    **carlini_wagner.RECIPES,
    **deepfool.RECIPES,
    **ddn.RECIPES,
    **fmn.RECIPES,
    **apgd.RECIPES,
    **square.RECIPES,
    **autoattack.RECIPES,
}


def recipe(name: str) -> Recipe:
    """Resolves what an experiment calls a recipe.

    Args:
        name: one of `RECIPES`; a base and parts, as in `vmi-di-ti-si`; an attack of another library, as in
            `foolbox/L2FMNAttack`; or a user's own (see `adapters`).

    Raises:
        InputError: there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if "/" in name or name in own_names():
        return adapted(name)
    base, *parts = name.split("-")
    if base not in BASES or not parts or not set(parts) <= set(PARTS):
        raise _unknown(name)
    if again := _twice(parts):
        raise InputError(f"recipe: {name!r} has {again!r} twice")
    return combined(base, *parts)


def behind_random(name: str, draws: int) -> Recipe:
    """A recipe against surrogates that are random themselves, as behind a random defence, which makes sense of `eot`.

    Args:
        draws: how often they are drawn to judge a canvas.

    Raises:
        InputError: there is no such recipe, or it does not average over draws.
    """
    made = recipe(name)
    if made.chain[-1] is not common:
        raise InputError(
            f"defense: it is random, which {name} does not average over; recipes of the loop do (pgd, say)"
        )

    def against_random(loop: AttackLoop) -> AttackLoop:
        return replace(loop, model_draws=draws)

    return replace(made, chain=(*made.chain[:-1], against_random, common))


def _twice(parts: Sequence[str]) -> str | None:
    """What more than one of them does; `admix` does what `si` does."""
    functions = [function.__name__ for part in parts for function in PARTS[part][1]]
    return next((each for each in functions if functions.count(each) > 1), None)


def _unknown(name: str) -> InputError:
    """Says what may have been meant: the same words in our order, a longer name, one spelled alike."""
    words = [word for word in name.split("-") if word != "fgsm"]
    parts = [word for word in words if word in PARTS]
    bases = [word for word in words if word in BASES]
    if parts and len(bases) <= 1 and len(words) == len(bases) + len(parts) and not _twice(parts):
        return InputError(f"unknown recipe {name!r}; did you mean '{'-'.join([*(bases or ['mi']), *parts])}'?")
    longer = [each for each in RECIPES if each.startswith(f"{name}-")]
    if longer:
        return InputError(f"unknown recipe {name!r}; did you mean {' or '.join(longer)}?")
    base, *rest = name.split("-")
    if base in BASES and rest and not get_close_matches(name, RECIPES, cutoff=0.8):
        return unknown(f"part of recipe {name!r}:", next(part for part in rest if part not in PARTS), PARTS)
    return unknown("recipe", name, [*RECIPES, *own_names()])


def _alpha(alpha: float | None, reach: float, steps: int) -> float:
    if alpha is None:
        return reach / max(steps, 1)  # the loop refuses steps < 1
    return alpha
