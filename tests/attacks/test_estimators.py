"""Estimators, momentum, steps, filters and ensembles: each recipe against a loop written from its paper.

The references work on one image at a time, in NumPy and double precision, with gradients by hand; what is random they
take from the same keys.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, ndimage, stats
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from tests.support.attacks import (
    EPS,
    L2T,
    POOL,
    POOL_LABELS,
    SHAPE,
    SIDE,
    SIZE,
    Twin,
    Warp,
    batch_of,
    bent,
    by_matrix,
    enlarging,
    found_by,
    grid_shuffle,
    in_proportion,
    iterate,
    make,
    nearest,
    of_l2t,
    operator_matrix,
    quick,
    softmax,
    some_canvases,
    surrogates,
    turning,
)
from tests.support.rendering import traced
from transforms.attacks.balls import BALLS, LinfBall
from transforms.attacks.gradients import Gradients
from transforms.attacks.objectives import OBJECTIVES, Goal, cross_entropy
from transforms.attacks.parts.estimators import EnhancedMomentum, Sampling
from transforms.attacks.parts.filters import Kernel, blur
from transforms.attacks.parts.learning import OPERATIONS, LearntOperations, Policy
from transforms.attacks.parts.momentum import adam, mean_normalized, momentum
from transforms.attacks.parts.transformations import DiverseInput
from transforms.attacks.recipes.names import recipe
from transforms.errors import InputError
from transforms.randomness import Draws

STEPS = 4
COUNT = 4

Seen = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]
"""What a model is shown, and how a gradient comes back from there."""
Look = Callable[["Naive", np.ndarray, int, Draws], Seen]


def unit(gradient: np.ndarray) -> np.ndarray:
    """Divided by its mean magnitude."""
    return gradient / abs(gradient).mean()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one.ravel() @ other.ravel() / np.linalg.norm(one) / np.linalg.norm(other))


def onehot(number: int, logits: np.ndarray) -> np.ndarray:
    return np.eye(len(logits))[number]


def of_cross_entropy(logits: np.ndarray, label: int, target: int | None) -> np.ndarray:
    """The gradient of what is climbed, by logits."""
    if target is None:
        return softmax(logits) - onehot(label, logits)
    return onehot(target, logits) - softmax(logits)


def of_logit(logits: np.ndarray, label: int, target: int | None) -> np.ndarray:
    """Zhao et al. 2021, equation 3."""
    assert target is not None
    return onehot(target, logits)


def of_logit_margin(logits: np.ndarray, label: int, target: int | None) -> np.ndarray:
    """Weng et al. 2023: cross-entropy of logits over the margin between the first two."""
    second, first = np.sort(logits)[-2:]
    return of_cross_entropy(logits / (first - second), label, target) / (first - second)


@dataclass
class Naive:
    """One image under attack."""

    twins: list[Twin]
    clean: np.ndarray
    label: int
    target: int | None
    norm: str
    eps: float
    alpha: float
    draws: Draws
    looks: list[tuple[Look, int]] = field(default_factory=list)
    climbed: Callable[[np.ndarray, int, int | None], np.ndarray] = of_cross_entropy

    def at(self, step: int) -> Draws:
        return self.draws.at("restart", 0, "step", step)

    def small(self, length: float) -> float:
        """The change per value of a length that all values share."""
        return length / {"linf": 1, "l2": math.sqrt(SIZE), "l1": SIZE}[self.norm]

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        return np.sign(gradient) if self.norm == "linf" else gradient / np.linalg.norm(gradient)

    def inside(self, points: np.ndarray) -> np.ndarray:
        wanted = points - self.clean
        return self.clean + nearest(self.norm, wanted, self.eps, (-self.clean, 1 - self.clean))

    def step(self, points: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return self.inside(points + self.alpha * self.direction(gradient))

    def gradient(self, points: np.ndarray, draws: Draws, member: int | None = None) -> np.ndarray:
        """Of what is climbed, by the mean logits, averaged over all copies."""
        twins = self.twins if member is None else [self.twins[member]]
        total, choices = np.zeros(SHAPE), list(itertools.product(*(range(count) for _, count in self.looks)))
        for choice in choices:
            seen, backs = points, []
            for number, (look, _) in enumerate(self.looks):
                path = draws.at("eot", 0, "transformation", number, *choice[: number + 1])
                seen, back = look(self, seen, choice[number], path)
                backs.append(back)
            outer = self.climbed(np.mean([each.logits(seen) for each in twins], axis=0), self.label, self.target)
            pulled = np.mean([each.pulled(seen, outer) for each in twins], axis=0)
            for back in reversed(backs):
                pulled = back(pulled)
            total += pulled
        return total / len(choices)

    def loss(self, points: np.ndarray, member: int) -> float:
        return self.twins[member].loss(points, self.label)

    def noise(self, draws: Draws, number: int) -> tuple[np.ndarray, Draws]:
        """Uniform on [-1, 1], for a neighbour."""
        path = draws.at("neighbor", number)
        return 2 * path.uniform(SHAPE, "neighbor")[0].double().numpy() - 1, path


Run = Callable[[Naive], np.ndarray]


def fgsm(image: Naive) -> np.ndarray:
    return image.inside(image.clean + image.eps * image.direction(image.gradient(image.clean, image.at(0))))


def pgd(image: Naive) -> np.ndarray:
    """Madry et al. 2018, from a random point of the L∞ ball."""
    unit = image.draws.at("restart", 0).uniform(SHAPE, "start")[0].double().numpy()
    points = image.inside(image.clean + (2 * unit - 1) * image.eps)
    for step in range(STEPS):
        points = image.step(points, image.gradient(points, image.at(step)))
    return points


def bim(image: Naive) -> np.ndarray:
    points = image.clean
    for step in range(STEPS):
        points = image.step(points, image.gradient(points, image.at(step)))
    return points


def mi(image: Naive, decay: float = 1.0, filtered: Callable[[np.ndarray], np.ndarray] = np.array) -> np.ndarray:
    """Dong et al. 2018, equations 6 and 7."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        accumulated = decay * accumulated + unit(filtered(image.gradient(points, image.at(step))))
        points = image.step(points, accumulated)
    return points


def unnormalized(image: Naive) -> np.ndarray:
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        accumulated = accumulated + image.gradient(points, image.at(step))
        points = image.step(points, accumulated)
    return points


def ni(image: Naive) -> np.ndarray:
    """Lin et al. 2020, equations 6 to 8."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        ahead = points + image.small(image.alpha) * accumulated
        accumulated = accumulated + unit(image.gradient(ahead, image.at(step)))
        points = image.step(points, accumulated)
    return points


def gi(image: Naive, pre_steps: int = 3) -> np.ndarray:
    """Wang et al. 2022: the momentum of steps ten times as long, after which the picture is put back."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(-pre_steps, STEPS):
        points = image.clean if step == 0 else points
        accumulated = accumulated + unit(image.gradient(points, image.at(step)))
        length = image.alpha * (10 if step < 0 else 1)
        points = image.inside(points + length * image.direction(accumulated))
    return points


def pi(image: Naive) -> np.ndarray:
    """Gao et al. 2020, algorithm 1: beta 10, gamma as long as a step, a kernel of ones around a zero."""
    kernel = np.ones((3, 3)) / 8
    kernel[1, 1] = 0
    points, amplified, long = image.clean, np.zeros(SHAPE), 10 * image.alpha
    for step in range(STEPS):
        signs = np.sign(image.gradient(points, image.at(step)))
        amplified = amplified + long * signs
        cut = np.clip(abs(amplified) - image.eps, 0, None) * np.sign(amplified)
        spread = np.stack([ndimage.convolve(each, kernel, mode="constant") for each in cut])
        spread[abs(spread) < 1e-12] = 0
        projected = long * np.sign(spread)
        amplified = amplified + projected
        points = image.inside(points + long * signs + projected)
    return points


def variance_tuned(image: Naive, *, nesterov: bool, neighbors: int = 3, beta: float = 1.5) -> np.ndarray:
    """Wang & He 2021, algorithm 1, with v computed at the end of each step as written there. The neighbours are those
    of the canvas, also where the gradient is taken ahead, as in the authors' code."""
    points, accumulated, variance = image.clean, np.zeros(SHAPE), np.zeros(SHAPE)
    for step in range(STEPS):
        at = points + image.small(image.alpha) * accumulated if nesterov else points
        gradient = image.gradient(at, image.at(step))
        accumulated = accumulated + unit(gradient + variance)
        here, points = points, image.step(points, accumulated)
        around = []
        for number in range(neighbors):
            noise, path = image.noise(image.at(step), number)
            around.append(image.gradient(here + image.small(beta * image.eps) * noise, path))
        variance = np.mean(around, axis=0) - gradient
    return points


def evenly(image: Naive, step: int, samples: int) -> np.ndarray:
    return np.linspace(-1, 1, samples)


def uniformly(image: Naive, step: int, samples: int) -> np.ndarray:
    paths = [image.at(step).at("sample", number) for number in range(samples)]
    return np.array([2 * path.uniform((), "place").item() - 1 for path in paths])


def normally(image: Naive, step: int, samples: int) -> np.ndarray:
    paths = [image.at(step).at("sample", number) for number in range(samples)]
    return np.array([np.clip(path.normal((), "place").item() / 3, -1, 1) for path in paths])


def emi(
    image: Naive, places: Callable[[Naive, int, int], np.ndarray] = evenly, samples: int = 5, radius: float = 7.0
) -> np.ndarray:
    """Wang et al. 2021: points along the mean gradient of the step before, which at first is none."""
    points, accumulated, before = image.clean, np.zeros(SHAPE), np.zeros(SHAPE)
    for step in range(STEPS):
        factors = radius * places(image, step, samples) * image.small(image.alpha)
        gradient = np.mean([image.gradient(points + each * before, image.at(step)) for each in factors], axis=0)
        before = unit(gradient)
        accumulated = accumulated + unit(gradient)
        points = image.step(points, accumulated)
    return points


def gra(image: Naive, neighbors: int = 3, beta: float = 3.5, eta: float = 0.94) -> np.ndarray:
    """Zhu et al. 2023: the decay indicator begins at 1 / eta, as no sign agrees with that of nothing."""
    points, accumulated, indicator = image.clean, np.zeros(SHAPE), np.full(SHAPE, 1 / eta)
    for step in range(STEPS):
        gradient = image.gradient(points, image.at(step))
        around = []
        for number in range(neighbors):
            noise, path = image.noise(image.at(step), number)
            around.append(image.gradient(points + image.small(beta * image.eps) * noise, path))
        mean = np.mean(around, axis=0)
        relevance = cosine(gradient, mean)
        last = accumulated
        accumulated = accumulated + unit(relevance * gradient + (1 - relevance) * mean)
        indicator = indicator * np.where(np.sign(last) == np.sign(accumulated), 1, eta)
        points = image.inside(points + image.alpha * indicator * image.direction(accumulated))
    return points


def pgn(image: Naive, neighbors: int = 3, zeta: float = 3.0, delta: float = 0.5) -> np.ndarray:
    """Ge et al. 2023, algorithm 1."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        total = np.zeros(SHAPE)
        for number in range(neighbors):
            noise, path = image.noise(image.at(step), number)
            near = points + image.small(zeta * image.eps) * noise
            first = image.gradient(near, path)
            second = image.gradient(near - image.small(image.alpha) * unit(first), path.at("downhill"))
            total += (1 - delta) * first + delta * second
        accumulated = accumulated + unit(total / neighbors)
        points = image.step(points, accumulated)
    return points


def fgsra(image: Naive, neighbors: int = 3, beta: float = 2.0, rho: float = 0.7, eta: float = 0.94) -> np.ndarray:
    """Wang et al. 2024, as in the authors' code: neighbours with changed spectra, weighed by how like the picture they
    are; their sum and the gradient, weighed by how alike they are."""
    points, accumulated, indicator = image.clean, np.zeros(SHAPE), np.full(SHAPE, 1 / eta)
    for step in range(STEPS):
        gradient, total = image.gradient(points, image.at(step)), np.zeros(SHAPE)
        for number in range(neighbors):
            noise, path = image.noise(image.at(step), number)
            factors = 1 + rho * (2 * path.uniform(SHAPE, "spectrum")[0].double().numpy() - 1)

            def changed(picture: np.ndarray, factors: np.ndarray = factors) -> np.ndarray:
                return fft.idctn(fft.dctn(picture, axes=(-2, -1), norm="ortho") * factors, axes=(-2, -1), norm="ortho")

            seen = changed(points + image.small(beta * image.eps) * noise)
            total += cosine(points, seen) * changed(image.gradient(seen, path))
        relevance = cosine(gradient, total)
        current = relevance * gradient + (1 - relevance) * total
        accumulated = accumulated + unit(current)
        indicator = indicator * np.where(np.sign(current) == np.sign(accumulated), 1, eta)
        points = image.inside(points + image.alpha * indicator * image.direction(accumulated))
    return points


def dta(image: Naive, inner_steps: int = 3, inner_decay: float = 0.0) -> np.ndarray:
    """Yang et al. 2023: K short steps, each looking ahead along what is remembered; the mean of their directions."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        total, tuned, memory = np.zeros(SHAPE), points, accumulated
        for number in range(inner_steps):
            ahead = tuned + image.small(image.alpha) * memory
            memory = inner_decay * memory + unit(image.gradient(ahead, image.at(step).at("tuning", number)))
            total = total + memory
            tuned = image.inside(tuned + image.alpha / inner_steps * image.direction(memory))
        accumulated = accumulated + total / inner_steps
        points = image.step(points, accumulated)
    return points


def mef(image: Naive, neighbors: int = 3, gamma: float = 2.0, xi: float = 0.15) -> np.ndarray:
    """Qiu et al. 2024: neighbours that go on along their own gradients of the step before; decays 0.5 and 0.9."""
    points, accumulated, inner = image.clean, np.zeros(SHAPE), [np.zeros(SHAPE)] * neighbors
    for step in range(STEPS):
        around = []
        for number in range(neighbors):
            noise, path = image.noise(image.at(step), number)
            near = points + image.small(gamma * image.eps) * noise + image.small(xi * image.eps) * inner[number]
            around.append(image.gradient(near, path))
        inner = [unit(each) - 0.9 * before for each, before in zip(around, inner, strict=True)]
        accumulated = 0.5 * accumulated + unit(np.mean(around, axis=0))
        points = image.step(points, accumulated)
    return points


def pc(image: Naive, decay: float = 0.0) -> np.ndarray:
    """Wan et al. 2023, as in their PC-I-FGSM.py and PC-MI-FGSM.py: a predicted picture, and two gradients."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        path = image.at(step)
        noise = unit(image.gradient(points, path))
        predicted = image.step(points, noise)
        noise_all = noise + unit(image.gradient(predicted, path.at("correction")))
        accumulated = decay * accumulated + unit(noise_all)
        points = image.step(points, accumulated)
    return points


class Keyed:
    """An image's random numbers by name, as double-precision arrays."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def uniform(self, shape: tuple[int, ...], name: str) -> np.ndarray:
        return self.draws.uniform(shape, name)[0].double().numpy()

    def normal(self, shape: tuple[int, ...], name: str) -> np.ndarray:
        return self.draws.normal(shape, name)[0].double().numpy()

    def integers(self, below: int, count: int, name: str) -> list[int]:
        return self.draws.integers(below, (count,), name)[0].tolist()

    def permutation(self, size: int, name: str) -> list[int]:
        return self.draws.permutation(size, name)[0].tolist()

    def at(self, *path: object) -> "Keyed":
        return Keyed(self.draws.at(*path))

    def copy(self, count: int) -> int:
        return int(self.draws.integers(count, (), "copy")[0])


def another(image: Naive, draws: Draws) -> np.ndarray:
    order = draws.permutation(len(POOL), "mix")[0].tolist()
    return POOL[next(each for each in order if POOL_LABELS[each] != image.label)].double().numpy() / 255


def l2t(image: Naive, num_scale: int = 3, ops_num: int = 2, learning_rate: float = 0.01) -> np.ndarray:
    """Zhu et al. 2024, as in their l2t.py but for one copy of each operation; autograd gives the policy's gradient."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    parameters = torch.zeros(98, dtype=torch.float64, requires_grad=True)
    for step in range(STEPS):
        gradients, rewards = [], []
        for number in range(num_scale):
            path, shares = image.at(step).at("copy", number), parameters.softmax(dim=0)
            ends, seen, backs = shares.detach().numpy().cumsum(), points, []
            chosen = [int((ends <= each).sum()) for each in Keyed(path).uniform((ops_num,), "operations")]
            for place, which in enumerate(chosen):
                numbers = Keyed(path.at("eot", 0, "transformation", 0, 0, "operation", place))
                seen, back = of_l2t(which, seen, another(image, numbers.draws), numbers, numbers.copy)
                backs.append(back)
            pulled = image.gradient(seen, path)
            for back in reversed(backs):
                pulled = back(pulled)
            gradients.append(pulled)
            logits = np.mean([twin.logits(seen) for twin in image.twins], axis=0)
            wanted = image.label if image.target is None else image.target
            loss = -np.log(softmax(logits)[wanted]) * (1 if image.target is None else -1)
            rewards.append(shares[chosen].prod() * loss)
        (slope,) = torch.autograd.grad(sum(rewards) / num_scale, parameters)
        parameters = (parameters + learning_rate * slope).detach().requires_grad_()
        accumulated = accumulated + unit(np.mean(gradients, axis=0))
        points = image.step(points, accumulated)
    return points


def rap(image: Naive, inner_steps: int = 3, late_start: int = 1) -> np.ndarray:
    """Qin et al. 2022: from a random point around the picture downhill, and there the gradient."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        path, reverse = image.at(step), np.zeros(SHAPE)
        if step >= late_start:
            drawn = image.eps * (2 * path.at("reverse").uniform(SHAPE, "start")[0].double().numpy() - 1)
            reverse = np.clip(drawn, -points, 1 - points)
        for number in range(inner_steps if step >= late_start else 0):
            gradient = image.gradient(points + reverse, path.at("reverse", number))
            reverse = np.clip(reverse - image.eps / inner_steps * np.sign(gradient), -image.eps, image.eps)
            reverse = np.clip(reverse, -points, 1 - points)
        accumulated = accumulated + unit(image.gradient(points + reverse, path))
        points = image.step(points, accumulated)
    return points


def operated(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    """Guo et al. 2025: two to four operators, one after the other."""
    matrix = np.eye(SIDE**2)
    for number in range(2 + int(draws.integers(3, (), "length")[0])):
        path = draws.at("operator", number)
        which, numbers = int(path.integers(31, (), "operator")[0]), path.uniform((3,), "numbers")[0].tolist()
        matrix = operator_matrix(which, numbers) @ matrix
    return by_matrix(matrix, points), lambda pulled: by_matrix(matrix.T, pulled)


def ops(image: Naive, neighbors: int = 2, operators: int = 3, beta: float = 2.0) -> np.ndarray:
    """Guo et al. 2025: the gradient, and those of operators on neighbours in cubes of six sizes."""
    points, accumulated, changed = image.clean, np.zeros(SHAPE), replace(image, looks=[(operated, operators)])
    for step in range(STEPS):
        gradients = [image.gradient(points, image.at(step))]
        for number in range(neighbors):
            noise, path = image.noise(image.at(step), number)
            size = image.small(beta * image.eps) * (int(path.integers(6, (), "radius")[0]) + 1) / 4
            gradients += [changed.gradient(points + size * noise, path)] * operators
        accumulated = accumulated + unit(np.mean(gradients, axis=0))
        points = image.step(points, accumulated)
    return points


def auxiliary_matrix(draws: Draws) -> np.ndarray:
    """Half of the time a diverse input of 245 / 224, else a shift, a flip, or a turn by up to 45 degrees."""
    which, numbers = int(draws.integers(10, (), "operator")[0]), draws.uniform((3,), "numbers")[0].tolist()
    if which < 4:
        return operator_matrix(which + 1, numbers)
    if which == 4:
        return turning(SIDE, SIDE, math.radians(90 * numbers[0] - 45))
    return np.kron(*enlarging(SIDE, 245 / 224, numbers))


def mumodig(image: Naive, auxiliary: int = 2, baselines: int = 2, interpolations: int = 2) -> np.ndarray:
    """Ren et al. 2025, with three regions: each value's lower end is where its way begins."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        total = np.zeros(SHAPE)
        for number, baseline in itertools.product(range(auxiliary + 1), range(baselines)):
            path = image.at(step).at("auxiliary", number)
            matrix = auxiliary_matrix(path) if number else np.eye(SIDE**2)
            seen, path = by_matrix(matrix, points), path.at("baseline", baseline)
            drawn = path.uniform((3, 1, 2), "regions")[0].double().numpy()
            coarse = np.zeros(SHAPE)
            for channel in range(3):
                low, high = seen[channel].min(), seen[channel].max()
                ends = np.sort([low, *(low + (high - low) * drawn[channel, 0])])
                coarse[channel] = ends[np.searchsorted(ends, seen[channel], side="right") - 1]
            for place in range(interpolations):
                share = (place + 0.65) / interpolations
                gradient = image.gradient(coarse + share * (seen - coarse), path.at("interpolation", place))
                total += share * by_matrix(matrix.T, gradient) * (seen - coarse)
        accumulated = accumulated + unit(total)
        points = image.step(points, accumulated)
    return points


def decowa(image: Naive, warpings: int = 3, noise_scale: float = 2.0, rho: float = 0.01) -> np.ndarray:
    """Lin et al. 2024: the middle moves at random, then against the slope, and there the gradient is taken."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        total = np.zeros(SHAPE)
        for number in range(warpings):
            path = image.at(step).at("warping", number)
            move = noise_scale * (path.uniform((1, 1, 2), "moves")[0, 0, 0].double().numpy() - 0.5)
            warp = Warp(move)
            matrix, down, across = warp.matrices()
            gradient = image.gradient(by_matrix(matrix, points), path.at("constraint"))
            slope = [
                (gradient * by_matrix(each, points)).sum(axis=0).ravel() @ warp.share * SIDE / 2
                for each in (across, down)
            ]
            matrix, *_ = Warp(move - rho * np.array(slope)).matrices()
            total += by_matrix(matrix.T, image.gradient(by_matrix(matrix, points), path))
        accumulated = accumulated + unit(total)
        points = image.step(points, accumulated)
    return points


def adam_pgd(image: Naive, beta1: float = 0.9, beta2: float = 0.999) -> np.ndarray:
    """PyTorch's own Adam, told to ascend."""
    points = torch.from_numpy(image.clean).clone().requires_grad_()
    optimizer = torch.optim.Adam([points], image.small(image.alpha), (beta1, beta2), eps=1e-8, maximize=True)
    for step in range(STEPS):
        points.grad = torch.from_numpy(image.gradient(points.detach().numpy(), image.at(step)))
        optimizer.step()
        with torch.no_grad():
            points.copy_(torch.from_numpy(image.inside(points.numpy())))
    return points.detach().numpy()


def kernel_of(size: int, sigma: float, kind: str = "gaussian") -> np.ndarray:
    """Dong et al. 2019: a normal density at evenly spaced points, sigma standard deviations to either side; of size
    2 k + 1, (1 - |i| / (k + 1)) (1 - |j| / (k + 1)); or the same everywhere. Normalized."""
    places = np.arange(size) - size // 2
    line = {
        "gaussian": np.exp(-(np.linspace(-sigma, sigma, size) ** 2) / 2),
        "linear": 1 - abs(places) / (size // 2 + 1),
        "uniform": np.ones(size),
    }[kind]
    return np.outer(line, line) / np.outer(line, line).sum()


def convolved(gradient: np.ndarray, size: int = 15, kind: str = "gaussian") -> np.ndarray:
    return np.stack([ndimage.convolve(each, kernel_of(size, 3.0, kind), mode="constant") for each in gradient])


def ti(image: Naive, kind: str = "gaussian") -> np.ndarray:
    return mi(image, filtered=lambda gradient: convolved(gradient, kind=kind))


def long_and_targeted(image: Naive, weighed: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Diverse inputs, a kernel of 5; Zhao et al. 2021 add gradients as they are, Weng et al. 2023 of equal weight."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        accumulated = accumulated + weighed(convolved(image.gradient(points, image.at(step)), 5))
        points = image.step(points, accumulated)
    return points


def low(image: Naive) -> np.ndarray:
    """Guo et al. 2019: MI-FGSM whose perturbation has the lower half of the cosine frequencies per axis, brought into
    band and budget in turn, three times."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        accumulated = accumulated + unit(image.gradient(points, image.at(step)))
        points = points + image.alpha * image.direction(accumulated)
        for _ in range(3):
            spectrum = fft.dctn(points - image.clean, axes=(-2, -1), norm="ortho")
            spectrum[:, SIDE // 2 :], spectrum[:, :, SIDE // 2 :] = 0, 0
            points = image.inside(image.clean + fft.idctn(spectrum, axes=(-2, -1), norm="ortho"))
    return points


def svre(image: Naive, inner_decay: float = 1.0) -> np.ndarray:
    """Xiong et al. 2022, algorithm 1, both momenta over gradients of mean magnitude 1 as in their code."""
    points, outer = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        ensemble = image.gradient(points, image.at(step))
        inner, moving = np.zeros(SHAPE), points
        for number in image.at(step).shared.integers(2, (8,), "member")[0].tolist():
            corrected = image.gradient(moving, image.at(step), number)
            corrected = corrected - (image.gradient(points, image.at(step), number) - ensemble)
            inner = inner_decay * inner + unit(corrected)
            moving = image.step(moving, inner)
        outer = outer + unit(inner)
        points = image.step(points, outer)
    return points


def adaea(image: Naive, beta: float = 10.0, threshold: float = -0.3) -> np.ndarray:
    """Chen et al. 2023: weights by how much a model's own step raises the others' losses, over what their own steps
    do; the gradient of the weighed logits; no pixel where the models' gradients disagree."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    count = len(image.twins)
    for step in range(STEPS):
        gradients = [image.gradient(points, image.at(step), member) for member in range(count)]
        moved = [image.step(points, each) for each in gradients]
        own = [image.loss(moved[member], member) for member in range(count)]
        score = [sum(beta * image.loss(moved[j], i) / own[i] for i in range(count) if i != j) for j in range(count)]
        weights = softmax(np.array(score))
        logits = sum(weight * twin.logits(points) for weight, twin in zip(weights, image.twins, strict=True))
        outer = softmax(logits)
        outer[image.label] -= 1
        pulled = sum(weight * twin.pulled(points, outer) for weight, twin in zip(weights, image.twins, strict=True))
        alike = [
            (one * other).sum(0) / np.linalg.norm(one, axis=0) / np.linalg.norm(other, axis=0)
            for one, other in itertools.combinations(gradients, 2)
        ]
        accumulated = accumulated + unit(pulled * (np.mean(alike, axis=0) >= threshold))
        points = image.step(points, accumulated)
    return points


def smer(image: Naive, rounds: int = 4, rate: float = 0.02, shrinkage: float = 0.002) -> np.ndarray:
    """Tang et al. 2024: models in a random order, each four times, by weights that go down -log of the loss."""
    points, outer, count = image.clean, np.zeros(SHAPE), len(image.twins)
    weights, truth = np.ones(count), onehot(image.label, image.twins[0].logits(image.clean))
    for step in range(STEPS):
        inner, moving = np.zeros(SHAPE), points
        paths = [image.at(step).at("round", each).shared for each in range(rounds)]
        for member in [each for path in paths for each in path.permutation(count, "members")[0].tolist()]:
            logits = [twin.logits(moving) for twin in image.twins]
            weight = weights[member]
            pulled = image.twins[member].pulled(moving, weight * (softmax(weight * logits[member]) - truth))
            shares = softmax(np.mean([each * own for each, own in zip(weights, logits, strict=True)], axis=0))
            loss = -np.log(shares[image.label])
            rising = np.array([(shares - truth) @ each / count for each in logits])
            weights = weights - rate * (-rising / loss + shrinkage * weights)
            inner = inner + unit(pulled)
            moving = image.step(moving, inner)
        outer = outer + unit(inner)
        points = image.step(points, outer)
    return points


def cwa(image: Naive) -> np.ndarray:
    """Chen et al. 2024, MI-CWA: reverse step eps / 15, inner steps of 250 on gradients of unit length."""
    points, outer, inner = image.clean, np.zeros(SHAPE), np.zeros(SHAPE)
    for step in range(STEPS):
        gradient = image.gradient(points, image.at(step))
        moving = image.inside(points - image.eps / 15 * image.direction(gradient))
        for member in range(len(image.twins)):
            pulled = image.gradient(moving, image.at(step), member)
            inner = inner + pulled / np.linalg.norm(pulled)
            moving = image.inside(moving + 250 * inner)
        outer = outer + unit(moving - points)
        points = image.step(points, outer)
    return points


# What models are shown -----------------------------------------------------------------------------------------------


def scaled(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    return points / 2**copy, lambda pulled: pulled / 2**copy


def mixed(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    order = draws.permutation(len(POOL), "mix")[0].tolist()
    other = next(each for each in order if POOL_LABELS[each] != image.label)
    return points + 0.2 * POOL[other].double().numpy() / 255, lambda pulled: pulled


def masked(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    """Wang et al. 2023: uniform scales, and masks between 1/2 and 3/2; the gradient is that at the copy."""
    order = draws.permutation(len(POOL), "mix")[0].tolist()
    other = next(each for each in order if POOL_LABELS[each] != image.label)
    mask = 0.5 + POOL[other].double().numpy() / 255
    return np.clip(points * np.linspace(0.1, 0.75, 3)[copy % 3] * mask, 0, 1), lambda pulled: pulled


def spectral(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    noisy = points + image.eps * draws.normal(SHAPE, "noise")[0].double().numpy()
    factors = 1 + 0.5 * (2 * draws.uniform(SHAPE, "spectrum")[0].double().numpy() - 1)
    spectrum = fft.dctn(noisy, axes=(-2, -1), norm="ortho") * factors
    return fft.idctn(spectrum, axes=(-2, -1), norm="ortho"), lambda pulled: pulled


def other_frequencies(image: Naive, points: np.ndarray, copy: int, draws: Draws, hard: bool = False) -> Seen:
    """TransferAttack's MFI: low frequencies of the picture, and high ones of another, or between both."""
    places = np.arange(SIDE) - SIDE // 2
    distances = np.hypot(places[:, None], places)
    low = distances <= 3 if hard else 1 / (1 + np.exp((distances - 3) / 10))
    alpha = 0.0 if hard else float(draws.uniform((), "share")[0])
    own = low + alpha * (1 - low)

    def filtered(picture: np.ndarray, kept: np.ndarray = own) -> np.ndarray:
        spectrum = np.fft.fftshift(np.fft.fft2(picture), axes=(-2, -1))
        return np.fft.ifft2(np.fft.ifftshift(spectrum * kept, axes=(-2, -1))).real

    noise = 32 / 255 * draws.normal(SHAPE, "noise")[0].double().numpy()
    return filtered(points) + filtered(another(image, draws), (1 - alpha) * (1 - low)) + noise, filtered


def enlarged(draws: Draws, rate: float) -> tuple[np.ndarray, np.ndarray]:
    return enlarging(SIDE, rate, draws.uniform((3,), "resize")[0].tolist())


def diverse(image: Naive, points: np.ndarray, copy: int, draws: Draws, probability: float = 0.5) -> Seen:
    if float(draws.uniform((), "diversity")[0]) >= probability:
        return points, lambda pulled: pulled
    rows, columns = enlarged(draws, 1.4)
    return rows @ points @ columns.T, lambda pulled: rows.T @ pulled @ columns


def shuffled(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    """Wang et al. 2024, two by two: a grid whose rows and columns change places, blocks turned by up to 24 degrees."""
    lengths = [in_proportion(1 - draws.uniform((2,), axis)[0].double().numpy(), SIDE) for axis in ("heights", "widths")]
    orders = [draws.permutation(2, axis)[0].tolist() for axis in ("rows", "columns")]
    unit = draws.uniform((2, 2), "angle")[0].double().numpy()
    matrix = grid_shuffle(lengths, orders, stats.truncnorm(-2, 2, scale=math.radians(12)).ppf(unit))
    return by_matrix(matrix, points), lambda pulled: by_matrix(matrix.T, pulled)


def on_a_solid(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    """Byun et al. 2022: on one of three solids, seen by a random camera in random light, before noise."""
    name = ("pack", "pillow", "book")[int(draws.integers(3, (), "object")[0])]
    elev, azim, angle, dist = draws.uniform((4,), "camera")[0].tolist()
    x, y, z, ambient, diffuse = draws.uniform((5,), "light")[0].tolist()
    naive = traced(name, SIDE, (70 * elev - 35, 70 * azim - 35, 70 * angle - 35, 0.8 + 0.4 * dist))
    light = naive.light((4 * x - 2, 4 * y - 2, 4 * z + 2), 0.6 + 0.3 * ambient, 0.5 * diffuse)
    colour = (0.1 + 0.6 * draws.uniform((3,), "texture")[0].double().numpy())[:, None]
    lit = light * np.where(naive.covered, points.reshape(3, -1) @ naive.matrix.T, colour)
    behind = draws.uniform(SHAPE, "background")[0].double().numpy().reshape(3, -1)
    follows = naive.covered & (lit < 1)
    return np.where(naive.hit, lit.clip(0, 1), behind).reshape(SHAPE), lambda pulled: (
        light * np.where(follows, pulled.reshape(3, -1), 0) @ naive.matrix
    ).reshape(SHAPE)


def translated(image: Naive, points: np.ndarray, copy: int, draws: Draws) -> Seen:
    """Fang et al. 2024, a grid of three by three: pixels come from 0.3 half sides away, bilinear, black outside."""
    sides = []
    for place in (copy % 3, copy // 3):
        matrix = np.zeros((SIDE, SIDE))
        for row in range(SIDE):
            at = row + 0.3 * (place - 1) * SIDE / 2
            for near in (math.floor(at), math.floor(at) + 1):
                if 0 <= near < SIDE:
                    matrix[row, near] = 1 - abs(at - near)
        sides.append(matrix)
    rows, columns = sides
    return rows @ points @ columns.T, lambda pulled: rows.T @ pulled @ columns


MOSTLY_DIVERSE: Look = partial(diverse, probability=0.7)


def dem(image: Naive, rates: tuple[float, ...] = (1.3, 1.6, 2.0)) -> np.ndarray:
    """Zou et al. 2020: mean logits over resize rates, always resized; steps of the whole budget."""
    points, accumulated = image.clean, np.zeros(SHAPE)
    for step in range(STEPS):
        paths = [image.at(step).at("eot", 0, "transformation", 0, copy) for copy in range(len(rates))]
        sides = [enlarged(path, rate) for path, rate in zip(paths, rates, strict=True)]
        seen = [rows @ points @ columns.T for rows, columns in sides]
        outer = softmax(np.mean([image.twins[0].logits(each) for each in seen], axis=0))
        outer[image.label if image.target is None else image.target] -= 1
        pulled = [
            rows.T @ image.twins[0].pulled(each, outer) @ columns
            for each, (rows, columns) in zip(seen, sides, strict=True)
        ]
        accumulated = accumulated + unit(np.mean(pulled, axis=0)) * (1 if image.target is None else -1)
        points = image.step(points, accumulated)
    return points


@dataclass(frozen=True)
class Case:
    run: Run
    parameters: dict[str, Any] = field(default_factory=dict)
    looks: tuple[tuple[Look, int], ...] = ()
    models: int = 1
    reach: float = 1.0
    """steps * alpha in units of eps."""
    climbed: Callable[[np.ndarray, int, int | None], np.ndarray] = of_cross_entropy


THREE = {"neighbors": 3}
DI = {"resize_rate": 1.4}
LONG = {**DI, "alpha": EPS["linf"] / STEPS}
CASES: dict[str, Case] = {
    "fgsm": Case(fgsm),
    "bim": Case(bim),
    "pgd": Case(pgd, reach=2.5),
    "mi-fgsm": Case(mi),
    "mi-fgsm, decay 0.5": Case(lambda image: mi(image, 0.5), {"decay": 0.5}),
    "mi-fgsm, decay 1.7": Case(lambda image: mi(image, 1.7), {"decay": 1.7}),
    "mi-fgsm, gradients as they are": Case(unnormalized, {"normalized": False}),
    "ni-fgsm": Case(ni),
    "gi-fgsm": Case(gi, {"pre_steps": 3}),
    "pi-fgsm": Case(pi),
    "vmi-fgsm": Case(lambda image: variance_tuned(image, nesterov=False), THREE),
    "vni-fgsm": Case(lambda image: variance_tuned(image, nesterov=True), THREE),
    "emi-fgsm": Case(emi, {"samples": 5}),
    "emi-fgsm, uniform": Case(lambda image: emi(image, uniformly), {"samples": 5, "sampling": "uniform"}),
    "emi-fgsm, normal": Case(lambda image: emi(image, normally), {"samples": 5, "sampling": "gaussian"}),
    "gra": Case(gra, THREE),
    "pgn": Case(pgn, THREE),
    "fgsra": Case(fgsra, THREE),
    "dta": Case(dta, {"inner_steps": 3}),
    "dta, inner decay 0.8": Case(lambda image: dta(image, 3, 0.8), {"inner_steps": 3, "inner_decay": 0.8}),
    "mef": Case(mef, THREE, reach=2.0),
    "rap": Case(rap, {"inner_steps": 3, "late_start": 1, "alpha": EPS["linf"] / STEPS}),
    "ops": Case(ops, {"neighbors": 2, "operators": 3}),
    "mumodig": Case(mumodig, {"auxiliary": 2, "baselines": 2, "interpolations": 2, "regions": 3}),
    "decowa": Case(decowa, {"warpings": 3}),
    "pc-i-fgsm": Case(pc),
    "pc-mi-fgsm": Case(lambda image: pc(image, 1.0)),
    "l2t": Case(l2t),
    "l2t, learning": Case(lambda image: l2t(image, 2, 3, 1e6), {"num_scale": 2, "ops_num": 3, "learning_rate": 1e6}),
    "adam-pgd": Case(adam_pgd, reach=2.5),
    "ti-fgsm": Case(ti),
    "ti-fgsm, linear": Case(lambda image: ti(image, "linear"), {"kernel_type": "linear"}),
    "ti-fgsm, uniform": Case(lambda image: ti(image, "uniform"), {"kernel_type": "uniform"}),
    "si-fgsm": Case(mi, looks=((scaled, 5),)),
    "admix": Case(mi, looks=((mixed, 3), (scaled, 5))),
    "usmm": Case(mi, {"uniform_scales": 3, "mix_masks": 2}, looks=((masked, 6),)),
    "mfi": Case(mi, {"mask_radius": 3.0}, looks=((other_frequencies, 3), (scaled, 5))),
    "mfi, hard": Case(
        mi,
        {"mask_radius": 3.0, "mask_type": "hard", "mixed_spectra": 2},
        looks=((partial(other_frequencies, hard=True), 2), (scaled, 5)),
    ),
    "ssa": Case(mi, {"spectra": 3}, looks=((spectral, 3),)),
    "bsr": Case(mi, {"shuffles": 3}, looks=((shuffled, 3),)),
    "anda": Case(unnormalized, {"shifts": 3}, looks=((translated, 9),)),
    "di-fgsm": Case(mi, DI, looks=((diverse, 1),)),
    "dem": Case(dem, {"resize_rates": (1.3, 1.6, 2.0)}, reach=STEPS),
    "svre": Case(svre, models=2),
    "svre, inner decay 0.5": Case(lambda image: svre(image, 0.5), {"inner_decay": 0.5}, models=2),
    "adaea": Case(adaea, models=2),
    "adaea, three models": Case(adaea, models=3),
    "smer": Case(smer, models=2),
    "smer, three models": Case(lambda image: smer(image, 2), {"inner_rounds": 2}, models=3),
    "cwa": Case(cwa, models=2, reach=2.0),
    "mi-di-ti": Case(ti, DI, looks=((diverse, 1),)),
    "vmi-di-si": Case(
        lambda image: variance_tuned(image, nesterov=False),
        {**DI, **THREE, "scales": 2},
        looks=((scaled, 2), (diverse, 1)),
    ),
    "si-ni-fgsm": Case(ni, looks=((scaled, 5),)),
    "lf-fgsm": Case(low),
    "logit": Case(
        lambda image: long_and_targeted(image, lambda gradient: gradient),
        LONG,
        looks=((MOSTLY_DIVERSE, 1),),
        climbed=of_logit,
    ),
    "logit-margin": Case(
        lambda image: long_and_targeted(image, unit), LONG, looks=((MOSTLY_DIVERSE, 1),), climbed=of_logit_margin
    ),
    "odi": Case(
        lambda image: long_and_targeted(image, unit),
        {"alpha": EPS["linf"] / STEPS},
        looks=((on_a_solid, 1),),
        climbed=of_logit,
    ),
}
UNTARGETED = [name for name in CASES if "logit" not in name and name != "odi"]
TARGETED = [name for name in CASES if "adaea" not in name and "smer" not in name]
IN_L2 = (
    "bim",
    "mi-fgsm",
    "ni-fgsm",
    "gi-fgsm",
    "vmi-fgsm",
    "vni-fgsm",
    "emi-fgsm",
    "gra",
    "pgn",
    "fgsra",
    "dta",
    "smer",
    "pc-i-fgsm",
    "pc-mi-fgsm",
    "l2t",
    "ops",
    "mumodig",
    "decowa",
    "mef",
    "adam-pgd",
    "svre",
    "cwa",
)


def compared(name: str, norm: str, targets: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Float canvases with which the recipe and its reference end."""
    case, canvases, labels = CASES[name], some_canvases(COUNT, seed=1), [0, 1, 2, 3]
    networks = [bent(seed + 3) for seed in range(case.models)]
    eps, parameters = EPS[norm], {} if name == "fgsm" else {"steps": STEPS, **case.parameters}
    batch = batch_of(canvases, labels, targets)
    found = iterate(name.split(",", maxsplit=1)[0], BALLS[norm](eps), surrogates(*networks), batch, **parameters)
    expected = []
    for number in range(COUNT):
        image = Naive(
            [Twin.of(each) for each in networks],
            canvases[number].double().numpy() / 255,
            labels[number],
            None if targets is None else targets[number],
            norm,
            eps,
            case.reach * eps / STEPS,
            Draws(0, "attack", [f"image {number}"]),
            list(case.looks),
            case.climbed,
        )
        expected.append(case.run(image))
    return found.double().numpy(), np.stack(expected)


@pytest.mark.parametrize(
    ("name", "targets"),
    [*[(name, None) for name in UNTARGETED], *[(name, [3, 2, 0, 1]) for name in TARGETED]],
)
def test_a_recipe_is_its_papers_algorithm(name: str, targets: list[int] | None) -> None:
    found, expected = compared(name, "linf", targets)
    # A gradient may be so close to zero that single precision decides its sign, but not one in two hundred. What is cut
    # off of eight neighbours in PI-FGSM is a multiple of one number, and so sums up to zero more often.
    assert (abs(found - expected) > 1e-5).mean() < (0.01 if name == "pi-fgsm" else 0.005)
    assert abs(found - some_canvases(COUNT, seed=1).numpy() / 255).max() > 0.99 * EPS["linf"]


@pytest.mark.parametrize("name", IN_L2)
def test_a_recipe_is_its_papers_algorithm_in_l2(name: str) -> None:
    """Where papers speak of signs and eps per value, steps are normalised and lengths spread over all values."""
    found, expected = compared(name, "l2", None)
    assert np.allclose(found, expected, atol=1e-4)


def test_references_differ_from_each_other() -> None:
    """So that a recipe cannot pass for another one."""
    ends = {name: compared(name, "linf", None if name in UNTARGETED else [3, 2, 0, 1])[1] for name in CASES}
    for one, other in itertools.combinations(ends, 2):
        assert (abs(ends[one] - ends[other]) > 1e-3).mean() > 0.01, (one, other)


# Parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "linear", "uniform"])
@pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (15, 3.0), (7, 3.0), (5, 0.5)])
def test_blurring_is_scipys_convolution(size: int, sigma: float, kind: Kernel) -> None:
    gradient = np.random.default_rng(0).normal(size=(2, 3, 20, 20))
    kernel = kernel_of(size, sigma, kind)
    expected = [[ndimage.convolve(one, kernel, mode="constant") for one in each] for each in gradient]
    assert np.allclose(blur(kind, size, sigma)(torch.from_numpy(gradient)), expected, atol=1e-6)


def test_gaussian_is_the_mean_gradient_of_shifted_canvases() -> None:
    """What it stands for (Dong et al. 2019, equation 7): on a linear model it is exactly that, away from the border."""
    gradient = torch.zeros(1, 3, 21, 21)
    gradient[:, :, 10, 10] = 1
    spread = blur("gaussian", 5, 2.0)(gradient)
    assert spread.sum().item() == pytest.approx(3, rel=1e-6)
    assert np.allclose(spread[0, 0, 8:13, 8:13], kernel_of(5, 2.0), atol=1e-7)
    assert torch.allclose(spread, spread.flip(2)) and torch.allclose(spread, spread.transpose(2, 3))


def test_momentum_by_hand() -> None:
    gradients = [torch.from_numpy(np.random.default_rng(each).normal(size=(2, *SHAPE))) for each in range(3)]
    for decay, normalized in ((0.5, True), (1.0, False)):
        memory, expected = momentum(decay, normalized=normalized)(), np.zeros((2, *SHAPE))
        for gradient in gradients:
            weighed = np.stack([unit(each) for each in gradient.numpy()]) if normalized else gradient.numpy()
            expected = decay * expected + weighed
            assert np.allclose(memory(gradient), expected)


def test_adam_is_pytorchs() -> None:
    values = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    optimizer, ours = torch.optim.Adam([values], 1.0, (0.7, 0.95), eps=1e-6, maximize=True), adam(0.7, 0.95, 1e-6)()
    for step in range(5):
        gradient = torch.from_numpy(np.random.default_rng(step).normal(size=(2, 3, 4, 4)))
        values.grad, before = gradient, values.detach().clone()
        optimizer.step()
        assert torch.allclose(ours(gradient), values.detach() - before)


def test_a_zero_gradient_stays_zero() -> None:
    assert mean_normalized(torch.zeros(2, *SHAPE)).abs().max() == 0
    assert adam(0.9, 0.999, 1e-8)()(torch.zeros(2, *SHAPE)).abs().max() == 0


@pytest.mark.parametrize("scale", [1e-6, 1e-16])
@pytest.mark.parametrize(
    "name",
    [
        "mi-fgsm",
        "ni-fgsm",
        "vmi-fgsm",
        "emi-fgsm",
        "gra",
        "pgn",
        "mef",
        "fgsra",
        "dta",
        "pc-i-fgsm",
        "pc-mi-fgsm",
        "mfi",
        "ops",
        "mumodig",
        "svre",
        "adaea",
        "cwa",
        "ti-fgsm",
        "dem",
    ],
)
def test_tiny_gradients_weigh_as_much(name: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are normalized, so an objective scaled down (to gradients of 1e-33) changes nothing."""

    def scaled_down(logits: Tensor, goal: Goal) -> Tensor:
        return cross_entropy(logits, goal) * scale * scale

    batch, networks = batch_of(some_canvases(4), [0, 1, 2, 3]), [bent(seed) for seed in range(recipe(name).models)]
    plain = found_by(quick(name), surrogates(*networks), batch)
    monkeypatch.setitem(OBJECTIVES, "cross-entropy", scaled_down)
    found = found_by(quick(name), surrogates(*networks), batch)
    assert (found != plain).float().mean() < 0.01


def test_where_gradients_are_random_emi_averages_all_samples_from_the_first_step_on() -> None:
    """As many draws as points, though the points of the first step are one."""
    batch, models, samples = batch_of(some_canvases(2), [0, 1]), surrogates(bent()), 5
    gradients = Gradients(models, cross_entropy, batch, (DiverseInput(1.4, 1.0),))
    estimate = EnhancedMomentum(LinfBall(0.1), samples, 0.07, "linear").begin()
    found = estimate(gradients, batch.clean, batch.clean, batch.draws)
    draws = [batch.draws.at("sample", number) for number in range(samples)]
    expected = torch.stack([gradients.at(batch.clean, each) for each in draws]).mean(dim=0)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)
    attack = quick("emi-di", steps=2, samples=samples)
    attack(models := surrogates(bent()), batch)
    assert models.tally.forwards.tolist() == [2 * samples] * 2 and attack.cost(1) == (2 * samples, 2 * samples)


@pytest.mark.parametrize(("sampling", "spread"), [("uniform", 1 / math.sqrt(3)), ("gaussian", 1 / 3)])
def test_emi_looks_no_farther_than_its_reach(sampling: Sampling, spread: float) -> None:
    """Not even where a normal draw is beyond three standard deviations, as some of these are."""
    shown: list[torch.Tensor] = []

    def gradient(points: torch.Tensor, _: Draws) -> torch.Tensor:
        shown.append(points)
        return torch.ones_like(points)

    gradients: Any = SimpleNamespace(redraws=False, at=gradient)
    batch, reach = batch_of(some_canvases(2), [0, 1]), 0.07
    estimate = EnhancedMomentum(LinfBall(0.1), 2000, reach, sampling).begin()
    for _ in range(2):
        estimate(gradients, batch.clean, batch.clean, batch.draws)
    places = torch.stack([(each - batch.clean)[:, 0, 0, 0] for each in shown[1:]])
    assert places.abs().max() <= reach + 1e-6
    assert places.mean(dim=0).tolist() == pytest.approx([0, 0], abs=0.005)
    assert places.std(dim=0).tolist() == pytest.approx([reach * spread] * 2, rel=0.05)
    assert not torch.equal(places[:, 0], places[:, 1])


@pytest.mark.parametrize("which", range(98))
def test_each_operation_of_l2t_is_one_of_its_authors_copies(which: int) -> None:
    """Forwards and backwards; there are no others."""
    assert len(OPERATIONS) == len(L2T) == 98
    image, other = (some_canvases(1, seed=seed).float() / 255 for seed in (1, 2))
    for name in ("one", "two", "three"):
        draws, points = Draws(0, "l2t", [name]), image.clone().requires_grad_()
        numbers = Keyed(draws)
        found = OPERATIONS[which](points, other, draws)
        expected, back = of_l2t(which, image[0].double().numpy(), other[0].double().numpy(), numbers, numbers.copy)
        assert np.allclose(found[0].detach().numpy(), expected, atol=1e-5)
        pulled = torch.from_numpy(np.random.default_rng(0).normal(size=SHAPE)).float()
        (gradient,) = torch.autograd.grad((found[0] * pulled).sum(), points)
        assert np.allclose(gradient[0].numpy(), back(pulled.double().numpy()), atol=1e-4)


def test_turns_crops_and_moves_of_l2t_are_torchvisions() -> None:
    """The authors' functions, bilinear: which way a turn goes, which middle a crop keeps, where a move leads."""
    image, bilinearly = some_canvases(1, seed=1, side=40).float() / 255, InterpolationMode.BILINEAR
    draws = next(each for name in range(99) if (each := Draws(0, "l2t", [f"{name}"])).integers(5, (), "copy")[0] == 2)
    turned, cropped, moved = (OPERATIONS[each](image, image, draws) for each in (4, 83, 97))
    assert torch.allclose(turned, functional.rotate(image, 120 / 4, bilinearly), atol=1e-4)
    assert torch.allclose(cropped, functional.resized_crop(image, 5, 5, 30, 30, [40, 40]), atol=1e-4)
    away = [0.9 * 3 / 5] * 2
    assert torch.allclose(moved, functional.affine(image, 0.0, away, 1.0, [0.0, 0.0], bilinearly), atol=1e-4)


def test_a_policy_forgets_with_the_run_and_hardly_learns_at_the_published_rate() -> None:
    """A gain of 10, that is, a probability of 0.00005, for one operation only, in each of ten steps."""
    batch, made = batch_of(some_canvases(3), [0, 1, 2]), LearntOperations(2, 2, 1e6)
    gradients = Gradients(surrogates(bent()), cross_entropy, batch)
    runs = []
    for _ in range(2):
        estimate = made.begin()
        runs.append([estimate(gradients, batch.clean, batch.clean, batch.draws.at(step)) for step in range(3)])
    assert all(torch.equal(*each) for each in zip(*runs, strict=True))
    policy, chosen = Policy(1, 0.01), [torch.tensor([[7, 7]])] * 3
    for _ in range(10):
        policy.learn(chosen, [torch.tensor([10.0])] * 3)
    gain = policy.probabilities[0, 7] * 98 - 1
    assert 1e-4 < gain < 3e-4


def test_a_policy_draws_by_its_probabilities_and_learns_from_no_infinite_loss() -> None:
    policy, count = Policy(1, 1500.0), 4000
    policy.learn([torch.tensor([[3]]), torch.tensor([[5]])], [torch.tensor([0.5]), torch.tensor([torch.inf])])
    shares = policy.probabilities[0]
    assert 0.05 < shares[3] < 0.95 and shares.sum().item() == pytest.approx(1)
    drawn = policy.drawn(count, Draws(0, "l2t", ["one"]))[0]
    counts = torch.bincount(drawn, minlength=98).double()
    assert stats.chisquare(counts.numpy(), shares.numpy() * count).pvalue > 1e-4


def test_without_decay_momentum_is_bim() -> None:
    batch = batch_of(some_canvases(4), [0, 1, 2, 3])
    without, with_it = (found_by(make("mi-fgsm", decay=decay), surrogates(bent()), batch) for decay in (0.0, 1.0))
    plain = found_by(make("bim"), surrogates(bent()), batch)
    assert torch.equal(without, plain) and not torch.equal(with_it, plain)


def test_memories_are_fresh_in_each_restart() -> None:
    """The second of two restarts is what it would be alone: estimators, momenta and steps forget."""
    for name in ("gi-fgsm", "vmi-fgsm", "emi-fgsm", "mef", "rap", "smer", "fgsra", "gra", "pi-fgsm", "cwa", "adam-pgd"):
        networks = [bent(seed) for seed in range(recipe(name).models)]
        batch = batch_of(some_canvases(3), [0, 1, 2])
        attack = quick(name, random_start=True, restarts=2)
        ends: list[Tensor] = []

        class Noting(LinfBall):
            def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
                ends.append(adversarial.clone())  # noqa: B023 - of this round
                return super().to_grid(canvases, adversarial)

        known = {key: getattr(attack, key) for key in ("steps",)}
        parameters = {"random_start": True, **known}
        for key in ("neighbors", "samples"):
            if key in recipe(name).parameters:
                parameters[key] = 2
        recipe(name).make(Noting(EPS["linf"]), restarts=2, **parameters)(surrogates(*networks), batch)
        second = ends[1]
        shifted = batch_of(some_canvases(3), [0, 1, 2])
        attempt = recipe(name).make(Noting(EPS["linf"]), **parameters)

        class Later(Draws):
            def at(self, *path: object) -> Draws:
                return Draws.at(self, *(1 if path[:1] == ("restart",) and each == 0 else each for each in path))

        later = Later(0, "attack", [f"image {number}" for number in range(3)])
        attempt(surrogates(*networks), replace(shifted, draws=later))
        assert torch.equal(ends[2], second), name


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("mi-fgsm", {"decay": -0.1}, "decay"),
        ("gi-fgsm", {"decay": 0.0}, "decay"),
        ("gi-fgsm", {"pre_steps": 0}, "pre_steps"),
        ("gi-fgsm", {"search_factor": 0.0}, "search_factor"),
        ("vmi-fgsm", {"neighbors": 0}, "neighbors"),
        ("vmi-fgsm", {"beta": 0.0}, "beta"),
        ("vni-fgsm", {"beta": -1.0}, "beta"),
        ("emi-fgsm", {"samples": 1}, "samples"),
        ("emi-fgsm", {"radius": 0.0}, "radius"),
        ("gra", {"attenuation": 0.0}, "attenuation"),
        ("gra", {"attenuation": 1.1}, "attenuation"),
        ("gra", {"neighbors": 0}, "neighbors"),
        ("pgn", {"balance": 0.0}, "balance"),
        ("pgn", {"balance": 1.5}, "balance"),
        ("mef", {"neighbors": 0}, "neighbors"),
        ("mef", {"gamma": 0.0}, "gamma"),
        ("mef", {"xi": 0.0}, "xi"),
        ("mef", {"inner_decay": 1.0}, "inner_decay"),
        ("rap", {"late_start": 400}, "late_start"),
        ("rap", {"late_start": -1}, "late_start"),
        ("rap", {"inner_steps": 0}, "inner_steps"),
        ("rap", {"reverse_eps": 0.0}, "reverse_eps"),
        ("rap", {"reverse_alpha": 0.0}, "reverse_alpha"),
        ("ops", {"neighbors": 0}, "neighbors"),
        ("ops", {"operators": 0}, "operators"),
        ("ops", {"beta": 0.0}, "beta"),
        ("mumodig", {"auxiliary": -1}, "auxiliary"),
        ("mumodig", {"baselines": 0}, "baselines"),
        ("mumodig", {"interpolations": 0}, "interpolations"),
        ("mumodig", {"regions": 1}, "regions"),
        ("mumodig", {"position": 0.0}, "position"),
        ("decowa", {"warpings": 0}, "warpings"),
        ("decowa", {"mesh": 2}, "mesh"),
        ("decowa", {"noise_scale": 0.0}, "noise_scale"),
        ("decowa", {"rho": 0.0}, "rho"),
        ("l2t", {"num_scale": 0}, "num_scale"),
        ("l2t", {"ops_num": 0}, "ops_num"),
        ("l2t", {"learning_rate": -0.1}, "learning_rate"),
        ("mfi", {"mixed_spectra": 0}, "mixed_spectra"),
        ("mfi", {"mask_radius": 0.0}, "mask_radius"),
        ("mfi", {"gaussian_sigma": -0.1}, "gaussian_sigma"),
        ("adam-pgd", {"beta1": 1.0}, "beta1"),
        ("adam-pgd", {"beta2": -0.1}, "beta2"),
        ("adam-pgd", {"stabilizer": 0.0}, "stabilizer"),
        ("pi-fgsm", {"amplification": 0.0}, "amplification"),
        ("pi-fgsm", {"project_factor": -1.0}, "project_factor"),
        ("pi-fgsm", {"project_kernel": 4}, "project_kernel"),
        ("pi-fgsm", {"project_kernel": 1}, "project_kernel"),
        ("ti-fgsm", {"kernel_size": 4}, "kernel_size"),
        ("ti-fgsm", {"kernel_size": 1}, "kernel_size"),
        ("ti-fgsm", {"kernel_sigma": 0.0}, "kernel_sigma"),
        ("ti-fgsm", {"kernel_type": "linear", "kernel_sigma": 2.0}, "kernel_sigma"),
        ("svre", {"inner_steps": 1}, "inner_steps"),
        ("svre", {"inner_decay": -0.1}, "inner_decay"),
        ("svre", {"inner_alpha": 0.0}, "inner_alpha"),
        ("fia", {"ensemble_number": 0}, "ensemble_number"),
        ("fia", {"drop_probability": 0.0}, "drop_probability"),
        ("rpa", {"drop_probability": 1.0}, "drop_probability"),
        ("naa", {"integrated_steps": 0}, "integrated_steps"),
        ("naa", {"gamma": -1.0}, "gamma"),
        ("bfa", {"eta": 0.0}, "eta"),
        ("p2fa", {"inner_steps": 0}, "inner_steps"),
        ("p2fa", {"feature_decay": -1.0}, "feature_decay"),
        ("ila", {"reference_steps": 0}, "reference_steps"),
        ("ilpd", {"gamma": 1.0}, "gamma"),
        ("ilpd", {"sigma": 0.0}, "sigma"),
        ("cfm", {"mix_probability": 0.0}, "mix_probability"),
        ("cfm", {"mix_limit": 1.5}, "mix_limit"),
        ("everywhere", {"partitions": 1}, "partitions"),
        ("everywhere", {"local_samples": 0}, "local_samples"),
        ("ftm", {"mix_probability": 0.0}, "mix_probability"),
        ("ftm", {"tuning_beta": 0.0}, "tuning_beta"),
        ("su", {"scale_start": 0.0}, "scale_start"),
        ("su", {"scale_interval": -0.1}, "scale_interval"),
        ("su", {"scale_interval": 0.95}, "scale_interval"),
        ("su", {"similarity_weight": -1.0}, "similarity_weight"),
        ("fgsra", {"beta": 0.0}, "beta"),
        ("fgsra", {"rho": 1.1}, "rho"),
        ("fgsra", {"attenuation": 1.0}, "attenuation"),
        ("fgsra", {"neighbors": 0}, "neighbors"),
        ("smer", {"inner_rounds": 0}, "inner_rounds"),
        ("smer", {"inner_decay": -0.1}, "inner_decay"),
        ("smer", {"weight_rate": 0.0}, "weight_rate"),
        ("smer", {"weight_decay": -0.1}, "weight_decay"),
        ("smer", {"objective": "margin"}, "objective"),
        ("dta", {"inner_steps": 0}, "inner_steps"),
        ("dta", {"inner_decay": -0.1}, "inner_decay"),
        ("dta", {"decay": 0.0}, "decay"),
        ("cwa", {"reverse_step": 0.0}, "reverse_step"),
        ("cwa", {"inner_step": -1.0}, "inner_step"),
        ("adaea", {"ensemble_beta": 0.0}, "ensemble_beta"),
        ("adaea", {"threshold": 1.5}, "threshold"),
        ("adaea", {"objective": "logit"}, "objective"),
        ("adaea", {"objective": "margin"}, "objective"),
        ("adaea", {"objective": "dlr"}, "objective"),
    ],
)
def test_senseless_parameters_are_refused_in_one_line(name: str, parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: .+\Z"):
        make(name, **parameters)
