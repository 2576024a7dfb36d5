"""Defences after the eye and the visual cortex: `fovea`, `fovea-saccades`, `retina`, `v1`.

Each models what a stage of primate vision keeps of a picture, and draws it again as a picture: uint8 (B, 3, S, S) to
the same shape. The colour channels are treated alike: none of this models colour vision. The literature gives lengths
in degrees of visual angle; `degrees` says how many of them the canvas is wide.
"""

import math

import torch
from torch import Tensor

from transforms.defenses.eight_bit import to_8bit
from transforms.errors import InputError
from transforms.randomness import Draws
from transforms.spectrum import cosines, radii

# The fovea -----------------------------------------------------------------------------------------------------------

# Geisler & Perry 1998, "A real-time foveated multiresolution system for low-bandwidth video communication", Proc. SPIE
# 3299, fitted to measured thresholds: a grating of f cycles/degree at e degrees from the fixation is seen from contrast
# LEAST_CONTRAST * exp(DECAY * f * (e + HALF) / HALF) on.
_LEAST_CONTRAST = 1 / 64
_DECAY = 0.106
_HALF = 2.3

# Where people look in pictures: a normal distribution around the centre, in halves of the picture's width (Clarke &
# Tatler 2014, "Deriving an appropriate baseline for describing fixation behaviour", Vision Research 102).
_GAZE_X = math.sqrt(0.22)
_GAZE_Y = math.sqrt(0.45 * 0.22)


def fovea(canvases: Tensor, *, degrees: float, contrast: float, x: float, y: float) -> Tensor:
    """Sharp where the eye is fixed, coarser with eccentricity, as the human eye resolves (Geisler & Perry 1998).

    At e degrees from the fixation gratings of Michelson contrast `contrast` are seen up to the frequency at which the
    measured threshold reaches that contrast,

        f(e) = e2 ln(contrast / CT0) / (alpha (e + e2)) cycles/degree,  alpha = 0.106, e2 = 2.3, CT0 = 1/64,

    which is their formula with `contrast` in place of 1. Each place of the canvas is blurred by a Gaussian that halves
    the amplitude of f(e); the Gaussian and the half are ours. Where f(e) is at least twice the highest frequency that
    the canvas holds, S / (2 degrees), nothing changes. A linear filter cannot tell contrasts apart: what is too fine
    for `contrast` goes, whatever contrast it has. With `contrast` 1 hardly anything goes from 224 pixels that are 20
    degrees wide or more: from so near, the canvas holds less than the eye resolves, but in the corners at 20 degrees.

    Args:
        canvases: uint8 (B, 3, S, S).
        degrees: the visual angle that the canvas is wide, in (0, 180); a pixel is degrees / S everywhere.
        contrast: in (1/64, 1].
        x, y: the fixation, from the left and from the top, in parts of the canvas, 0–1.

    Raises:
        InputError: a parameter out of its range.
    """
    _check_fovea("fovea", degrees, contrast)
    for name, place in (("x", x), ("y", y)):
        if not 0 <= place <= 1:
            raise InputError(f"fovea: {name} {place} is not in 0–1")
    return to_8bit(smooth_fovea(canvases.double(), degrees=degrees, contrast=contrast, x=x, y=y))


def smooth_fovea(canvases: Tensor, *, degrees: float, contrast: float, x: float, y: float) -> Tensor:
    """`fovea` of float canvases, without rounding: linear."""
    fixation = torch.tensor([[x, y]], dtype=canvases.dtype, device=canvases.device)
    return _foveated(canvases, fixation, degrees, contrast)


def fovea_saccades(canvases: Tensor, draws: Draws, *, degrees: float, contrast: float) -> Tensor:
    """`fovea` with the fixation where people look: drawn near the centre of each image (Clarke & Tatler 2014).

    Their normal distribution has a variance of 0.22 across and 0.45 * 0.22 upright, in the unit of half a canvas; what
    falls outside is moved to the border. With `repeats` each draw is a fixation, and a sequence of them, whose
    probabilities are averaged, stands for saccades.

    Args:
        canvases: uint8 (B, 3, S, S).
        degrees, contrast: as in `fovea`.

    Raises:
        InputError: a parameter out of its range.
    """
    _check_fovea("fovea-saccades", degrees, contrast)
    return to_8bit(smooth_fovea_saccades(canvases.double(), draws, degrees=degrees, contrast=contrast))


def smooth_fovea_saccades(canvases: Tensor, draws: Draws, *, degrees: float, contrast: float) -> Tensor:
    """`fovea_saccades` of float canvases, without rounding: linear."""
    deviation = torch.tensor([_GAZE_X, _GAZE_Y]) / 2
    fixations = (0.5 + deviation * draws.normal((2,), "fixation")).clamp(0, 1)
    return _foveated(canvases, fixations.to(canvases), degrees, contrast)


def _check_fovea(name: str, degrees: float, contrast: float) -> None:
    _check_degrees(name, degrees)
    if not _LEAST_CONTRAST < contrast <= 1:
        raise InputError(
            f"{name}: contrast {contrast} is not in (1/64, 1], from what the eye just sees to black on white"
        )


def _foveated(canvases: Tensor, fixations: Tensor, degrees: float, contrast: float) -> Tensor:
    """Blurred by eccentricity from fixations (B or 1, 2), x and y.

    Linear in the octave between blurs that are half an octave apart: the frequency that is halved is at most 1 % below
    f(e), if the canvas holds f(e).
    """
    if not len(canvases):
        return canvases
    side = canvases.shape[-1]
    level = _blur_levels(side, fixations, degrees, contrast)
    spectrum = _cosine_transform(canvases)
    foveated = torch.zeros_like(canvases)
    for number in range(math.ceil(level.max()) + 1):
        weight = (1 - (level - number).abs()).clamp(min=0)
        foveated = foveated + weight * _inverse(spectrum * _blur(spectrum, number))
    return foveated


def _blur_levels(side: int, fixations: Tensor, degrees: float, contrast: float) -> Tensor:
    """How far each place is blurred, (B or 1, 1, S, S): 0 where f(e) is one cycle/pixel or more, 2 more per octave."""
    centers = (torch.arange(side, dtype=fixations.dtype, device=fixations.device) + 0.5) / side
    across = centers.view(1, 1, 1, -1) - fixations[:, 0].view(-1, 1, 1, 1)
    down = centers.view(1, 1, -1, 1) - fixations[:, 1].view(-1, 1, 1, 1)
    eccentricity = degrees * torch.hypot(across, down)
    cutoff = _HALF * math.log(contrast / _LEAST_CONTRAST) / (_DECAY * (eccentricity + _HALF))
    return (-2 * torch.log2(cutoff * degrees / side)).clamp(min=0)


def _blur(spectrum: Tensor, level: int) -> Tensor:
    """What blur `level` passes of each frequency, (S, S): a Gaussian, half at 2 ** (-level / 2) cycles/pixel."""
    if level == 0:
        return torch.ones_like(spectrum[0, 0])
    return _square(torch.exp2(-(2**level) * _frequencies(spectrum) ** 2))


# The retina ----------------------------------------------------------------------------------------------------------

# Croner & Kaplan 1995, "Receptive fields of P and M ganglion cells across the primate retina", Vision Research 35(1): P
# cells within 5 degrees of the fovea (table 1), their surrounds (p. 12), and the ratio of integrated gains (abstract).
# A radius is where a Gaussian has fallen to 1/e.
_CENTER_RADIUS = 0.03
_SURROUND_RADIUS = 6.7 * _CENTER_RADIUS
_SURROUND_GAIN = 0.55


def retina(canvases: Tensor, *, degrees: float, semisaturation: float) -> Tensor:
    """Centre minus surround, divided by what the neighbours respond, and drawn again (Carandini & Heeger 2012).

    1. A ganglion cell at each pixel responds with R = C - 0.55 S. C is the picture, blurred by the centre of a P cell
       near the fovea (radius 0.03 degrees), S the same with its surround, 6.7 times as wide (Croner & Kaplan 1995).
    2. It is divided: R / (semisaturation + P), after Carandini & Heeger (doi:10.1038/nrn3136) with exponent 1. P is
       |R|, averaged over the channels, which keeps the hue, and over the size of the surround. A pool of absolute
       values is that of Laparra et al. 2016 (doi:10.2352/ISSN.2470-1173.2016.16.HVEI-103); what it spans is ours.
    3. The picture is drawn again: the result times (semisaturation + P's mean over the canvas), and the surround added
       back. (R is C less a part of C blurred, which is undone exactly, frequency by frequency.) This is ours.

    Lost is what the centre blurs: without step 2 the result would be C. Where neighbours respond more than on average,
    contrast and brightness fall, elsewhere they rise, the more so the smaller `semisaturation` is. A canvas of one
    colour stays as it is.

    Args:
        canvases: uint8 (B, 3, S, S).
        degrees: the visual angle that the canvas is wide, in (0, 180).
        semisaturation: in levels (0–255), positive: the response of the neighbours that halves a cell's own.

    Raises:
        InputError: a parameter out of its range.
    """
    _check_degrees("retina", degrees)
    if not 0 < semisaturation < math.inf:
        raise InputError(f"retina: semisaturation {semisaturation} is not a positive number of levels")
    return to_8bit(smooth_retina(canvases.double(), degrees=degrees, semisaturation=semisaturation))


def smooth_retina(canvases: Tensor, *, degrees: float, semisaturation: float) -> Tensor:
    """`retina` of float canvases, without rounding and clipping."""
    center = _receptive_field(canvases, degrees, _CENTER_RADIUS)
    surround = _receptive_field(canvases, degrees, _SURROUND_RADIUS)
    # The surround is the centre, blurred once more by this.
    spread = _receptive_field(canvases, degrees, math.sqrt(_SURROUND_RADIUS**2 - _CENTER_RADIUS**2))
    response = _inverse(_cosine_transform(canvases) * (center - _SURROUND_GAIN * surround))
    pool = _inverse(_cosine_transform(response.abs().mean(dim=1, keepdim=True)) * surround)
    gain = (semisaturation + pool.mean(dim=(2, 3), keepdim=True)) / (semisaturation + pool)
    return _inverse(_cosine_transform(response * gain) / (1 - _SURROUND_GAIN * spread))


def _receptive_field(canvases: Tensor, degrees: float, radius: float) -> Tensor:
    """What a Gaussian passes of each frequency, (S, S); it falls to 1/e at `radius` degrees."""
    cycles_per_degree = _frequencies(canvases) * canvases.shape[-1] / degrees
    return _square(torch.exp(-((math.pi * radius * cycles_per_degree) ** 2)))


# V1 ------------------------------------------------------------------------------------------------------------------

# VOneNet's `noise_level`, for an on cell and an off cell.
_SPONTANEOUS_SPIKES = 2 * 0.07
_MOST_ORIENTATIONS = 16


def v1(canvases: Tensor, draws: Draws, *, scales: int, orientations: int, noise: float) -> Tensor:
    """Oriented simple cells with Poisson-like noise, drawn again (after VOneNet, Dapello et al. 2020).

    1. Analysis by a steerable pyramid (`steerable_filters`): a cell at each pixel, for each scale and orientation.
    2. Each is a pair of rectified cells, one for the positive and one for the negative part; rectification therefore
       loses nothing.
    3. A response of r levels is r / noise spikes. Normal noise is added, whose variance is the number of spikes
       (Tolhurst et al. 1983, doi:10.1016/0042-6989(83)90200-6: proportional to the mean) and of the 0.07 spontaneous
       ones of each cell, as in VOneNet's code. In levels that is a variance of noise * r + 0.14 * noise**2.
    4. Synthesis by the same filters: the pyramid inverts itself, so that without noise the canvas comes back.

    Unlike VOneNet (doi:10.1101/2020.06.16.154542): a classifier is shown a picture instead of responses, so that
    complex cells, whose phase is lost, are left out; what noise made negative is not rectified again; the highest
    frequencies, which the pyramid leaves unoriented, are one more kind of cell; and the mean brightness, all that is
    coarser than the last scale, passes without noise. The canvas is taken to be periodic.

    Args:
        canvases: uint8 (B, 3, S, S).
        scales: octaves of oriented cells, from half the highest frequency down; S >= 2 ** (scales + 1).
        orientations: per scale, 1–16.
        noise: levels per spike, positive: as it tends to 0, nothing changes.

    Raises:
        InputError: a parameter out of its range.
    """
    side = canvases.shape[-1]
    if not 1 <= scales <= math.floor(math.log2(side)) - 1:
        raise InputError(f"v1: scales {scales} is not in 1–{math.floor(math.log2(side)) - 1} for {side} pixels")
    if not 1 <= orientations <= _MOST_ORIENTATIONS:
        raise InputError(f"v1: orientations {orientations} is not in 1–{_MOST_ORIENTATIONS}")
    if not 0 < noise < math.inf:
        raise InputError(f"v1: noise {noise} is not a positive number of levels per spike")
    return to_8bit(smooth_v1(canvases.double(), draws, scales=scales, orientations=orientations, noise=noise))


def smooth_v1(canvases: Tensor, draws: Draws, *, scales: int, orientations: int, noise: float) -> Tensor:
    """`v1` of float canvases, without rounding and clipping; differentiable, with the noise of the same draws."""
    shape, size = canvases.shape[1:], canvases.shape[-2:]
    spectrum = torch.fft.rfft2(canvases)
    *cells, brightness = steerable_filters(size[0], scales, orientations).to(spectrum)
    drawn = spectrum * brightness * brightness.conj()
    for number, cell in enumerate(cells):
        responses = torch.fft.irfft2(spectrum * cell, s=size)
        deviation = torch.sqrt(noise * responses.abs() + _SPONTANEOUS_SPIKES * noise**2)
        noisy = responses + deviation * draws.at("cell", number).normal(shape, "noise").to(canvases)
        drawn = drawn + torch.fft.rfft2(noisy) * cell.conj()
    rebuilt: Tensor = torch.fft.irfft2(drawn, s=size)
    return rebuilt


def steerable_filters(side: int, scales: int, orientations: int) -> Tensor:
    """A steerable pyramid without subsampling: what its filters pass of each coefficient of `torch.fft.rfft2`.

    Simoncelli & Freeman 1995, with the raised cosines of Portilla & Simoncelli 2000 (Int. J. of Computer Vision 40(1)).

    Returns:
        complex128 (1 + scales * orientations + 1, side, side // 2 + 1): the highest frequencies, unoriented; from fine
        to coarse, per scale, orientation k, which peaks for gratings whose wave vector is turned by
        pi k / orientations from the x axis towards the y axis (down); the lowest frequencies. Their squared magnitudes
        add up to 1.
    """
    down, across = torch.fft.fftfreq(side, dtype=torch.float64), torch.fft.rfftfreq(side, dtype=torch.float64)
    angles = torch.atan2(down[:, None], across)
    octave = torch.log2(2 * radii(side, angles.device))  # 0 at the highest frequency along an axis
    filters = [_above(octave).to(torch.complex128)]
    for scale in range(scales):
        ring = _below(octave + scale) * _above(octave + scale + 1)
        filters += [ring * _oriented(angles, number, orientations) for number in range(orientations)]
    return torch.stack([*filters, _below(octave + scales).to(torch.complex128)])


def _below(octave: Tensor) -> Tensor:
    """Falls from 1 at octave -1 to 0 at 0, so that its square and that of `_above` add up to 1."""
    return torch.cos(math.pi / 2 * (octave + 1).clamp(0, 1))


def _above(octave: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * (octave + 1).clamp(0, 1))


def _oriented(angles: Tensor, number: int, orientations: int) -> Tensor:
    """One of `orientations` filters of equal shape, a power of a cosine, whose squared magnitudes add up to 1."""
    order = orientations - 1
    norm = 2**order * math.factorial(order) / math.sqrt(orientations * math.factorial(2 * order))
    # By this phase the filter is real in space: even or odd.
    oriented: Tensor = (-1j) ** order * norm * torch.cos(angles - math.pi * number / orientations) ** order
    return oriented


# In common -----------------------------------------------------------------------------------------------------------


def _check_degrees(name: str, degrees: float) -> None:
    if not 0 < degrees < 180:  # noqa: PLR2004 - half a turn
        raise InputError(f"{name}: degrees {degrees} is not in (0, 180)")


def _cosine_transform(canvases: Tensor) -> Tensor:
    """The two-dimensional DCT-II: frequencies of the canvas mirrored at its borders, which is how it goes on there."""
    transform = cosines(canvases.shape[-1]).to(canvases)
    return transform @ canvases @ transform.T


def _inverse(spectrum: Tensor) -> Tensor:
    transform = cosines(spectrum.shape[-1]).to(spectrum)
    return transform.T @ spectrum @ transform


def _frequencies(canvases: Tensor) -> Tensor:
    """The frequencies of `_cosine_transform` along an axis, (S,), cycles/pixel, below 1/2."""
    side = canvases.shape[-1]
    return torch.arange(side, dtype=canvases.dtype, device=canvases.device) / (2 * side)


def _square(passed: Tensor) -> Tensor:
    """The response (S, S) of a separable filter from its response (S,) along one axis."""
    return passed[:, None] * passed
