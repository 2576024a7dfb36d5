"""Parts: what changes a loop, whatever its base: input transformations, a gradient filter, a frequency band.

A new part is a function here, loop -> loop, and its entry in `PARTS`; its keyword parameters become an experiment's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from transforms.attacks.gradients import FeatureUse
from transforms.attacks.loop import AttackLoop
from transforms.attacks.parts.bands import BANDS, Basis
from transforms.attacks.parts.features import (
    FeatureImportance,
    FittedFeatures,
    IntermediateLevel,
    NeuronAttribution,
    PixelToFeature,
    RandomPatches,
)
from transforms.attacks.parts.filters import Kernel, blur
from transforms.attacks.parts.mixing import CleanFeatureMixup, FeatureTuning, PerturbationDecay
from transforms.attacks.parts.rendering import Background, Lights, ObjectInput, Views
from transforms.attacks.parts.transformations import (
    Angles,
    BlockShuffle,
    DiverseInput,
    Everywhere,
    FrequencyMask,
    MixedFrequencies,
    Mixing,
    MixMask,
    PatchOut,
    ResizedDiversity,
    Scales,
    SpectrumSimulation,
    StructureInvariance,
    Translations,
)
from transforms.attacks.parts.universality import AlikeFeatures, GlobalAndLocal
from transforms.attacks.parts.updates import in_coefficients
from transforms.attacks.protocol import Transformation
from transforms.attacks.units import Degrees, L2Length, LayerNames, Pixels
from transforms.errors import InputError

_SIGMA = 3.0
_USUAL_NOISE = 16 / 255


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


def usmm(
    loop: AttackLoop,
    *,
    scale_low: float = 0.1,
    scale_high: float = 0.75,
    uniform_scales: int = 5,
    mix_masks: int = 3,
    mask_range: float = 0.5,
) -> AttackLoop:
    """Uniform scales, each under masks made of other pictures (the paper's L, H, m, n and r)."""
    return _shown(loop, MixMask(scale_low, scale_high, uniform_scales, mix_masks, mask_range))


def ssa(
    loop: AttackLoop, *, spectra: int = 20, spectrum_noise: Pixels | None = None, spectrum_spread: float = 0.5
) -> AttackLoop:
    """Spectrum simulation: noise, and cosine coefficients multiplied at random (the paper's sigma and rho), by default
    spectrum_noise = eps; in L2 and L1, where eps is no change of single values, 16/255."""
    usual = loop.ball.eps if loop.ball.norm == "linf" else _USUAL_NOISE
    return _shown(
        loop, SpectrumSimulation(spectra, usual if spectrum_noise is None else spectrum_noise, spectrum_spread)
    )


def mfi(
    loop: AttackLoop,
    *,
    mixed_spectra: int = 3,
    mask_radius: float = 100.0,
    gaussian_sigma: Pixels = 32 / 255,
    mask_type: FrequencyMask = "soft",
) -> AttackLoop:
    """High frequencies, beyond `mask_radius` cycles per canvas, are mixed with those of other pictures, and noise is
    added. MFI is this, then `si`."""
    return _shown(loop, MixedFrequencies(mixed_spectra, mask_radius, gaussian_sigma, mask_type))


def sia(loop: AttackLoop, *, structures: int = 20, structure_blocks: int = 3) -> AttackLoop:
    """Structure invariance: random changes of random blocks."""
    return _shown(loop, StructureInvariance(structures, structure_blocks))


def bsr(
    loop: AttackLoop,
    *,
    shuffles: int = 20,
    shuffle_blocks: int = 2,
    rotation: float = 24.0,
    rotation_kind: Angles = "normal",
) -> AttackLoop:
    """Block shuffle and rotation, by up to `rotation` degrees (the paper's tau)."""
    return _shown(loop, BlockShuffle(shuffles, shuffle_blocks, rotation, rotation_kind))


def patchout(loop: AttackLoop, *, patches_kept: float = 0.6633, patch_size: int = 16) -> AttackLoop:
    """Perturbations without some of their patches: gradients of the others (the paper keeps 130 of 196)."""
    return _shown(loop, PatchOut(patches_kept, patch_size))


def anda(loop: AttackLoop, *, shifts: int = 5, shift_range: float = 0.3) -> AttackLoop:
    """The canvas shifted to `shifts` places per axis, by up to `shift_range` half sides."""
    return _shown(loop, Translations(shifts, shift_range))


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


def fia(
    loop: AttackLoop, *, layer: LayerNames = None, ensemble_number: int = 30, drop_probability: float = 0.3
) -> AttackLoop:
    """Feature importance: a layer's features, weighed by the mean gradient of pictures with random holes."""
    return _inside(loop, FeatureImportance(layer, ensemble_number, drop_probability))


def rpa(
    loop: AttackLoop, *, layer: LayerNames = None, ensemble_number: int = 60, drop_probability: float = 0.3
) -> AttackLoop:
    """Random patches: a layer's features, weighed by the mean gradient of pictures with noise in random patches."""
    return _inside(loop, RandomPatches(layer, ensemble_number, drop_probability))


def naa(loop: AttackLoop, *, layer: LayerNames = None, integrated_steps: int = 30, gamma: float = 1.0) -> AttackLoop:
    """Neuron attribution: what a layer's features add to the class's probability on the way from black."""
    return _inside(loop, NeuronAttribution(layer, integrated_steps, gamma))


def bfa(loop: AttackLoop, *, layer: LayerNames = None, ensemble_number: int = 30, eta: L2Length = 28.0) -> AttackLoop:
    """Black-box features: a layer's features, weighed by the mean gradient of pictures far uphill."""
    return _inside(loop, FittedFeatures(layer, ensemble_number, eta))


def p2fa(
    loop: AttackLoop,
    *,
    layer: LayerNames = None,
    ensemble_number: int = 30,
    eta: L2Length = 28.0,
    inner_steps: int = 10,
    feature_decay: float = 1.0,
) -> AttackLoop:
    """Pixel to feature: the same, found anew every `inner_steps` steps."""
    return _inside(loop, PixelToFeature(layer, ensemble_number, eta, inner_steps, feature_decay))


def ila(loop: AttackLoop, *, layer: LayerNames = None, reference_steps: int = 10) -> AttackLoop:
    """Intermediate level: a layer's features, along the way on which I-FGSM takes them."""
    return _inside(loop, IntermediateLevel(layer, loop.ball, loop.alpha, reference_steps))


def ilpd(loop: AttackLoop, *, layer: LayerNames = None, gamma: float = 0.1, sigma: Pixels = 0.05) -> AttackLoop:
    """Perturbation decay: at a layer `gamma` times the features and the rest the clean canvas's, under noise."""
    return _inside(loop, PerturbationDecay(layer, gamma, sigma))


def cfm(loop: AttackLoop, *, mix_probability: float = 0.1, mix_limit: float = 0.75) -> AttackLoop:
    """Clean feature mixup: in random layers, random shares of what they answer to other pictures."""
    return _inside(loop, CleanFeatureMixup(mix_probability, mix_limit))


def ftm(
    loop: AttackLoop, *, mix_probability: float = 0.1, mix_limit: float = 0.75, tuning_beta: float = 0.01
) -> AttackLoop:
    """Feature tuning mixup: `cfm`, and layers' answers moved by perturbations that learn to hinder the attack, of
    `tuning_beta` times their length."""
    return _inside(loop, FeatureTuning(mix_probability, mix_limit, tuning_beta))


def su(
    loop: AttackLoop,
    *,
    layer: LayerNames = None,
    scale_start: float = 0.1,
    scale_interval: float = 0.0,
    similarity_weight: float = 0.001,
) -> AttackLoop:
    """Self-universality: also a random part of the canvas, with features like the whole's (the paper's s_l, s_int and
    lambda)."""
    loop = _inside(loop, AlikeFeatures(layer, similarity_weight))
    return replace(loop, transformations=(GlobalAndLocal(scale_start, scale_interval), *loop.transformations))


def everywhere(loop: AttackLoop, *, partitions: int = 4, local_samples: int = 9) -> AttackLoop:
    """Also copies with one of partitions² blocks alone (the paper's M and N)."""
    return _shown(loop, Everywhere(partitions, local_samples))


def odi(
    loop: AttackLoop,
    *,
    source_3d_models: tuple[str, ...] = ("pack", "pillow", "book"),
    rand_elev: Degrees = 35.0,
    rand_azim: Degrees = 35.0,
    rand_angle: Degrees = 35.0,
    min_dist: float = 0.8,
    rand_dist: float = 0.4,
    ambient_color: float = 0.6,
    rand_ambient_color: float = 0.3,
    rand_diffuse_color: float = 0.5,
    background_type: Background = "random_pixel",
) -> AttackLoop:
    """Object-based diverse input: the canvas on a random solid (`cup` and `ball` are further ones), seen by a camera at
    up to `rand_elev` and `rand_azim` to either side, turned by up to `rand_angle`, at min_dist to min_dist + rand_dist
    of the distance where it fills the picture, in random light."""
    views = Views(rand_elev, rand_azim, rand_angle, min_dist, rand_dist)
    lights = Lights(ambient_color, rand_ambient_color, rand_diffuse_color)
    return _shown(loop, ObjectInput(source_3d_models, views, lights, background_type))


def _inside(loop: AttackLoop, use: FeatureUse) -> AttackLoop:
    if loop.features is not None:
        raise InputError("recipe: two of its parts look inside the surrogates; name one")
    return replace(loop, features=use)


def _shown(loop: AttackLoop, transformation: Transformation) -> AttackLoop:
    return replace(loop, transformations=(*loop.transformations, transformation))


@dataclass(frozen=True)
class Part:
    """A named part.

    Attributes:
        source: the paper.
        links: functions (loop, *, parameters) -> loop, applied first to last.
    """

    source: str
    links: tuple[Callable[..., AttackLoop], ...]


PARTS = {
    "di": Part("Xie et al. 2019, arXiv:1803.06978", (di,)),
    "ti": Part("Dong et al. 2019, arXiv:1904.02884", (ti,)),
    "si": Part("Lin et al. 2020, arXiv:1908.06281", (si,)),
    "dem": Part("Zou et al. 2020, arXiv:2112.06011", (dem,)),
    "admix": Part("Wang et al. 2021, arXiv:2102.00436", (mix, si)),
    "usmm": Part("Wang et al. 2023, arXiv:2311.12051", (usmm,)),
    "ssa": Part("Long et al. 2022, arXiv:2207.05382", (ssa,)),
    "mfi": Part("Qian et al. 2024, TIFS", (mfi, si)),
    "sia": Part("Wang et al. 2023, arXiv:2309.14700", (sia,)),
    "bsr": Part("Wang et al. 2024, arXiv:2308.10299", (bsr,)),
    "patchout": Part("Wei et al. 2022, arXiv:2109.04176", (patchout,)),
    "anda": Part("Fang et al. 2024, CVPR", (anda,)),
    "fia": Part("Wang et al. 2021, arXiv:2107.14185", (fia,)),
    "rpa": Part("Zhang et al. 2022, IJCAI", (rpa,)),
    "naa": Part("Zhang et al. 2022, arXiv:2204.00008", (naa,)),
    "bfa": Part("Wang et al. 2024, Neurocomputing", (bfa,)),
    "p2fa": Part("Liu et al. 2025, ICML", (p2fa,)),
    "ila": Part("Huang et al. 2019, arXiv:1907.10823", (ila,)),
    "ilpd": Part("Li et al. 2023, arXiv:2304.13410", (ilpd,)),
    "cfm": Part("Byun et al. 2023, arXiv:2305.14846", (cfm,)),
    "ftm": Part("Liang et al. 2025, arXiv:2411.15553", (ftm,)),
    "su": Part("Wei et al. 2023, arXiv:2209.03716", (su,)),
    "everywhere": Part("Zeng et al. 2025, arXiv:2501.00707", (everywhere,)),
    "odi": Part("Byun et al. 2022, arXiv:2203.09123", (odi,)),
    "lf": Part("Guo et al. 2019, arXiv:1809.08758; Sharma et al. 2019, arXiv:1903.00073", (lf,)),
}
