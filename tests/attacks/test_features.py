"""What attacks do inside surrogates: each recipe against a loop written from its paper.

The references work on one image at a time, in NumPy and double precision, with gradients by hand through a network of
three layers; what is random they take from the same keys.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.attacks.test_expectation import COPIES, agreement
from tests.support.attacks import (
    POOL,
    POOL_LABELS,
    SHAPE,
    SIDE,
    Deep,
    Watched,
    batch_of,
    bilinear,
    deep,
    iterate,
    nearest,
    softmax,
    some_canvases,
    surrogates,
)
from transforms.attacks.balls import BALLS
from transforms.attacks.gradients import FeatureUse, Gradients
from transforms.attacks.objectives import OBJECTIVES
from transforms.attacks.parts.features import FeatureImportance, RandomPatches
from transforms.attacks.parts.mixing import CleanFeatureMixup, FeatureTuning, PerturbationDecay
from transforms.attacks.parts.transformations import Everywhere
from transforms.attacks.recipes.names import recipe
from transforms.errors import InputError
from transforms.randomness import Draws

STEPS, COUNT = 4, 4
EPS = {"linf": 12 / 255, "l2": 0.9}


@dataclass(frozen=True)
class Halves:
    """A `Deep` network, cut at its first layer: what is before it is called body, what follows head."""

    first: np.ndarray
    second: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, network: Deep) -> "Halves":
        return cls(*(each.detach().double().numpy() for each in network.weights))

    def features(self, values: np.ndarray) -> np.ndarray:
        return np.sin(self.first @ values.ravel())

    def logits(self, features: np.ndarray) -> np.ndarray:
        return self.last @ np.sin(self.second @ features)

    def by_features(self, features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The gradient of `wanted` @ logits."""
        return ((wanted @ self.last) * np.cos(self.second @ features)) @ self.second

    def by_pixels(self, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The gradient of `wanted` @ features."""
        return ((wanted * np.cos(self.first @ values.ravel())) @ self.first).reshape(values.shape)


@dataclass
class Naive:
    """One image under attack."""

    networks: list[Halves]
    clean: np.ndarray
    label: int
    target: int | None
    norm: str
    eps: float
    alpha: float
    draws: Draws

    def inside(self, step: int) -> Draws:
        return self.draws.at("restart", 0, "inside", step)

    def logit(self, logits: np.ndarray) -> np.ndarray:
        """The gradient by logits of the wanted one, or of the true one, negative."""
        wanted = np.zeros(len(logits))
        wanted[self.label if self.target is None else self.target] = -1 if self.target is None else 1
        return wanted

    def cross_entropy(self, logits: np.ndarray) -> np.ndarray:
        """The gradient by logits of what is climbed."""
        outer = softmax(logits)
        outer[self.label if self.target is None else self.target] -= 1
        return outer if self.target is None else -outer

    def plain(self, points: np.ndarray) -> np.ndarray:
        """The gradient of the cross-entropy of the mean logits."""
        features = [each.features(points) for each in self.networks]
        pairs = list(zip(self.networks, features, strict=True))
        outer = self.cross_entropy(np.mean([each.logits(found) for each, found in pairs], axis=0))
        return np.mean([each.by_pixels(points, each.by_features(found, outer)) for each, found in pairs], axis=0)

    def step(self, points: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        direction = np.sign(gradient) if self.norm == "linf" else gradient / np.linalg.norm(gradient)
        wanted = points + self.alpha * direction - self.clean
        return self.clean + nearest(self.norm, wanted, self.eps, (-self.clean, 1 - self.clean))

    def ascend(self, gradient: Callable[[np.ndarray, int], np.ndarray], decay: float = 1.0) -> np.ndarray:
        """MI-FGSM along a gradient (points, step)."""
        points, accumulated = self.clean, np.zeros(SHAPE)
        for step in range(STEPS):
            found = gradient(points, step)
            accumulated = decay * accumulated + found / abs(found).mean()
            points = self.step(points, accumulated)
        return points

    def along(self, weights: list[np.ndarray]) -> np.ndarray:
        """MI-FGSM along features times weights, of unit length, of each network; of several the mean."""

        def gradient(points: np.ndarray, _step: int) -> np.ndarray:
            pairs = zip(self.networks, weights, strict=True)
            return np.mean([each.by_pixels(points, w / np.linalg.norm(w)) for each, w in pairs], axis=0)

        return self.ascend(gradient)


def fia(image: Naive) -> np.ndarray:
    """Wang et al. 2021: the mean gradient of the true logit over pictures with holes, and down along it."""
    weights = []
    for network in image.networks:
        total = np.zeros(16)
        for number in range(3):
            mask = image.inside(0).at("mask", number).uniform(SHAPE, "kept")[0].numpy() >= 0.3
            features = network.features(image.clean * mask)
            total += network.by_features(features, image.logit(network.logits(features)))
        weights.append(total)
    return image.along(weights)


def rpa(image: Naive) -> np.ndarray:
    """Zhang et al. 2022: random factors in random patches of a channel, 1, 3, 5 and 7 pixels wide."""
    weights = []
    for network in image.networks:
        total = np.zeros(16)
        for number in range(5):
            size, draws = (1, 3, 5, 7)[number % 4], image.inside(0).at("mask", number)
            patches = math.ceil(SIDE / size)
            chosen = draws.uniform((3, patches, patches), "patches")[0].numpy() < 0.3
            factors, mask = draws.uniform(SHAPE, "factors")[0].double().numpy(), np.ones(SHAPE)
            for channel, row, column in np.ndindex(SHAPE):
                if chosen[channel, row // size, column // size]:
                    mask[channel, row, column] = factors[channel, row, column]
            features = network.features(image.clean * mask)
            total += network.by_features(features, image.logit(network.logits(features)))
        weights.append(total)
    return image.along(weights)


def naa(image: Naive, gamma: float = 1.0) -> np.ndarray:
    """Zhang et al. 2022: attributions of the class's probability, from black (eqs. 8 to 11)."""
    chosen, sign = (image.label, -1) if image.target is None else (image.target, 1)
    units, bases = [], []
    for network in image.networks:
        total = np.zeros(16)
        for number in range(1, 5):
            features = network.features(image.clean * number / 4)
            probabilities = softmax(network.logits(features))
            by_logits = probabilities[chosen] * (np.eye(4)[chosen] - probabilities)
            total += network.by_features(features, by_logits)
        units.append(total / np.linalg.norm(total))
        bases.append(network.features(np.zeros(SHAPE)))

    def gradient(points: np.ndarray, _step: int) -> np.ndarray:
        found = []
        for network, unit, base in zip(image.networks, units, bases, strict=True):
            attribution = (network.features(points) - base) * unit
            found.append(network.by_pixels(points, sign * np.where(attribution >= 0, 1, gamma) * unit))
        return np.mean(found, axis=0)

    return image.ascend(gradient)


def fitted(image: Naive, network: Halves, points: np.ndarray) -> np.ndarray:
    """Wang et al. 2024: features' gradients at canvases far uphill, summed up; a direction."""
    seen, total = points, np.zeros(16)
    for _ in range(3):
        features = network.features(seen)
        uphill = network.by_pixels(seen, network.by_features(features, image.cross_entropy(network.logits(features))))
        seen = points + 2.0 * uphill / np.linalg.norm(uphill)
        features = network.features(seen)
        total += network.by_features(features, image.logit(network.logits(features)))
    return total / np.linalg.norm(total)


def bfa(image: Naive) -> np.ndarray:
    return image.along([fitted(image, each, image.clean) for each in image.networks])


def p2fa(image: Naive) -> np.ndarray:
    """Liu et al. 2025, as in TransferAttack: features are moved far along what was found, and followed."""
    memory = [np.zeros(16) for _ in image.networks]
    aims = list(memory)

    def gradient(points: np.ndarray, step: int) -> np.ndarray:
        if step % 2 == 0:
            for number, network in enumerate(image.networks):
                memory[number] = memory[number] + fitted(image, network, points)
                move = memory[number] / np.linalg.norm(memory[number])
                aims[number] = network.features(points) + 1e5 * move
        pairs = zip(image.networks, aims, strict=True)
        return np.mean([each.by_pixels(points, 2 * (aim - each.features(points))) for each, aim in pairs], axis=0)

    return image.ascend(gradient, decay=0)


def ila(image: Naive) -> np.ndarray:
    """Huang et al. 2019: I-FGSM, and then as far as its features go."""
    reference = image.clean
    for _ in range(3):
        reference = image.step(reference, image.plain(reference))
    ways = [each.features(reference) - each.features(image.clean) for each in image.networks]

    def gradient(points: np.ndarray, _step: int) -> np.ndarray:
        pairs = zip(image.networks, ways, strict=True)
        return np.mean([each.by_pixels(points, way / np.linalg.norm(way)) for each, way in pairs], axis=0)

    return image.ascend(gradient, decay=0)


def ilpd(image: Naive) -> np.ndarray:
    """Li et al. 2023: a third of the features, and two thirds of the clean ones under noise."""

    def gradient(points: np.ndarray, step: int) -> np.ndarray:
        path = image.draws.at("restart", 0, "step", step, "inside", 0)
        noisy = image.clean + 0.1 * path.normal(SHAPE, "noise")[0].double().numpy()
        mixed = [each.features(points) / 3 + 2 * each.features(noisy) / 3 for each in image.networks]
        pairs = list(zip(image.networks, mixed, strict=True))
        outer = image.cross_entropy(np.mean([each.logits(features) for each, features in pairs], axis=0))
        pulled = [each.by_pixels(points, each.by_features(features, outer)) / 3 for each, features in pairs]
        return np.mean(pulled, axis=0)

    return image.ascend(gradient, decay=0)


def su(image: Naive, climbed: str = "logit") -> np.ndarray:
    """Wei et al. 2023: the logits of the canvas and of a part of the clean one under the same perturbation, and how
    alike their features are."""

    def gradient(points: np.ndarray, step: int) -> np.ndarray:
        path = image.draws.at("restart", 0, "step", step, "eot", 0, "transformation", 0, 1)
        size, shape, top, left = path.uniform((4,), "part")[0].tolist()
        area, ratio = (0.3 + 0.2 * size) * SIDE**2, (3 / 4) * (16 / 9) ** shape
        height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        y, x = int(top * (SIDE - height + 1)), int(left * (SIDE - width + 1))
        part = bilinear(height, SIDE) @ image.clean[:, y : y + height, x : x + width] @ bilinear(width, SIDE).T
        seen = points, part + points - image.clean
        found = []
        for network in image.networks:
            whole, local = (network.features(each) for each in seen)
            lengths = np.linalg.norm(whole), np.linalg.norm(local)
            alike = whole @ local / np.prod(lengths)
            for values, one, other, length in zip(seen, (whole, local), (local, whole), lengths, strict=True):
                by_likeness = other / np.prod(lengths) - alike * one / length**2
                outer = getattr(image, climbed)(network.logits(one))
                found.append(network.by_pixels(values, network.by_features(one, outer) / 2 + 3 * by_likeness))
        return np.sum(found, axis=0) / len(image.networks)

    return image.ascend(gradient)


@dataclass(frozen=True)
class Case:
    run: Callable[[Naive], np.ndarray]
    parameters: dict[str, Any]


PART = {"scale_start": 0.3, "scale_interval": 0.2}
CASES = {
    "fia": Case(fia, {"ensemble_number": 3}),
    "rpa": Case(rpa, {"ensemble_number": 5}),
    "naa": Case(naa, {"integrated_steps": 4}),
    "naa, less against": Case(partial(naa, gamma=0.2), {"integrated_steps": 4, "gamma": 0.2}),
    "bfa": Case(bfa, {"ensemble_number": 3, "eta": 2.0}),
    "p2fa": Case(p2fa, {"ensemble_number": 3, "eta": 2.0, "inner_steps": 2}),
    "ila": Case(ila, {"reference_steps": 3}),
    "ilpd": Case(ilpd, {"gamma": 1 / 3, "sigma": 0.1}),
    "mi-su": Case(su, {"objective": "logit", **PART, "similarity_weight": 3.0}),
    "mi-su, cross-entropy": Case(partial(su, climbed="cross_entropy"), {**PART, "similarity_weight": 3.0}),
}


def compared(name: str, norm: str, targets: list[int] | None, models: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Float canvases with which the recipe and its reference end."""
    case, canvases, labels = CASES[name], some_canvases(COUNT, seed=1), [0, 1, 2, 3]
    networks, eps = [deep(seed + 3) for seed in range(models)], EPS[norm]
    parameters = {"steps": STEPS, "alpha": eps / STEPS, **case.parameters}
    batch = batch_of(canvases, labels, targets)
    found = iterate(name.partition(",")[0], BALLS[norm](eps), surrogates(*networks), batch, **parameters)
    expected = [
        case.run(
            Naive(
                [Halves.of(each) for each in networks],
                canvases[number].double().numpy() / 255,
                labels[number],
                None if targets is None else targets[number],
                norm,
                eps,
                eps / STEPS,
                Draws(0, "attack", [f"image {number}"]),
            )
        )
        for number in range(COUNT)
    ]
    return found.double().numpy(), np.stack(expected)


@pytest.mark.parametrize(("targets", "models"), [(None, 1), ([3, 2, 0, 1], 1), (None, 2)])
@pytest.mark.parametrize("name", list(CASES))
def test_a_recipe_is_its_papers_algorithm(name: str, targets: list[int] | None, models: int) -> None:
    """In single precision a gradient next to zero may have the other sign, but not one in two hundred."""
    found, expected = compared(name, "linf", targets, models)
    assert (abs(found - expected) > 1e-5).mean() < 0.005
    assert abs(found - some_canvases(COUNT, seed=1).numpy() / 255).max() > 0.99 * EPS["linf"]
    if "l2" in recipe(name.partition(",")[0]).norms:
        assert np.allclose(*compared(name, "l2", targets, models), atol=1e-4)


def test_references_differ_from_each_other() -> None:
    """So that a recipe cannot pass for another one."""
    ends = {name: compared(name, "linf", None)[1] for name in CASES}
    for one, other in itertools.combinations(ends, 2):
        assert (abs(ends[one] - ends[other]) > 1e-3).mean() > 0.01, (one, other)


def test_parts_of_su_are_changed_further_as_the_canvas_is() -> None:
    """Of one colour all parts of a canvas look alike, so that what the two are shown through is the same."""
    network = Watched(deep(3))
    batch = batch_of(torch.full((3, *SHAPE), 77, dtype=torch.uint8), [0, 1, 2], [1, 2, 3])
    recipe("mi-su-di").make(BALLS["linf"](0.1), steps=2, diversity_probability=1.0, resize_rate=1.5)(
        surrogates(network), batch
    )
    pairs = network.shown[-4:]
    assert torch.allclose(pairs[0], pairs[1], atol=1e-6) and torch.allclose(pairs[2], pairs[3], atol=1e-6)
    assert not torch.allclose(pairs[0], pairs[2], atol=1e-2) and not torch.allclose(pairs[0][0], pairs[0][1], atol=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_likeness_counts_in_reduced_precision(precision: str) -> None:
    """Sums are in single precision all the same: what differs is how gradients are scaled."""
    ends = [
        iterate(
            "mi-su",
            BALLS["linf"](0.1),
            surrogates(deep(3), precision=each),
            batch_of(some_canvases(3), [0, 1, 2], [1, 2, 3]),
            **{"steps": 2, "objective": "logit", "similarity_weight": 100.0},
        )
        for each in ("fp32", precision)
    ]
    assert (abs(ends[0] - ends[1]) > 1e-5).float().mean() < 0.005


# Mixed with other pictures -------------------------------------------------------------------------------------------


def other_picture(draws: Draws, label: int) -> np.ndarray:
    """The first of the pool, in random order, that is of another class."""
    order = draws.permutation(len(POOL), "mix")[0].tolist()
    return POOL[next(each for each in order if POOL_LABELS[each] != label)].double().numpy() / 255


def test_cfm_mixes_what_random_layers_answer_to_another_picture() -> None:
    """Byun et al. 2023: each layer with a probability, each of its channels by a share of its own."""
    network, canvases, labels = deep(5), some_canvases(COUNT, seed=1), [0, 1, 2, 3]
    batch = batch_of(canvases, labels, [3, 2, 0, 1])
    use = CleanFeatureMixup(0.5, 0.75)
    gradients = Gradients(surrogates(network), OBJECTIVES["logit"], batch)
    way = use.begin()(gradients, batch.clean, batch.draws)
    found = replace(gradients, way=way).at(batch.clean, batch.draws.at("step", 0)).double().numpy()
    one, other, last = Halves.of(network).first, Halves.of(network).second, Halves.of(network).last
    mixed = 0
    for number, label in enumerate(labels):
        draws = batch.draws.of(number).at("step", 0, "inside", 0)
        values, clean = (each.ravel() for each in (batch.clean[number].double().numpy(), other_picture(draws, label)))
        chosen = draws.at("model", 0).uniform((3,), "layers")[0].numpy() < 0.5
        mixed += chosen.sum()
        path = draws.at("model", 0)
        shares = [0.75 * path.at("share", layer).uniform((size,), "share")[0].numpy() for layer, size in sizes(network)]
        one_share, other_share, last_share = np.where(chosen, 1, 0) * np.array(shares, dtype=object)
        clean_one = one @ clean
        clean_other = other @ np.sin(clean_one)
        sums = (1 - one_share) * (one @ values) + one_share * clean_one
        more = (1 - other_share) * (other @ np.sin(sums)) + other_share * clean_other
        back = (1 - last_share)[[3, 2, 0, 1][number]] * last[[3, 2, 0, 1][number]] * np.cos(more)
        back = ((back * (1 - other_share)) @ other) * np.cos(sums)
        expected = ((back * (1 - one_share)) @ one).reshape(SHAPE)
        assert np.allclose(found[number], expected, atol=1e-6 + 1e-4 * abs(expected).max())
    assert 3 <= mixed <= 9


def sizes(network: Deep) -> list[tuple[int, int]]:
    return [(number, len(weight)) for number, weight in enumerate(network.weights)]


def tuned(
    network: Halves,
    values: np.ndarray,
    clean: np.ndarray,
    wanted: np.ndarray,
    draws: Draws,
    moves: list[Any],
    learn: bool = True,
) -> np.ndarray:
    """Liang et al. 2025: the gradient through layers, each of which answers, is moved and mixed; moves go down."""
    weights, answers, other = (network.first, network.second, network.last), [], clean.ravel()
    shown, chosen = values.ravel(), draws.uniform((3,), "layers")[0].numpy() < 0.5
    for layer, weight in enumerate(weights):
        share = chosen[layer] * 0.75 * draws.at("share", layer).uniform((len(weight),), "share")[0].double().numpy()
        answer, theirs = weight @ shown, weight @ other
        scale = 0.3 * np.linalg.norm(answer) / (np.linalg.norm(moves[layer]) + 1e-7)
        mixed = (1 - share) * (answer + scale * moves[layer]) + share * theirs
        answers.append((mixed, share, scale))
        shown, other = np.sin(mixed), np.sin(theirs)
    back = wanted
    for layer in (2, 1, 0):
        mixed, share, scale = answers[layer]
        back = (back if layer == 2 else back * np.cos(mixed)) * (1 - share)
        if chosen[layer] and learn:
            moves[layer] = moves[layer] - scale * back
        back = back @ weights[layer]
    return back.reshape(SHAPE)


@pytest.mark.parametrize(("targets", "models"), [(None, 1), ([3, 2, 0, 1], 1), ([3, 2, 0, 1], 2)])
def test_ftm_moves_what_layers_answer_to_hinder_the_attack(targets: list[int] | None, models: int) -> None:
    """Four gradients of one run at other points, and four of another run, which begins anew. What a layer learns first,
    at length 0, is so long that it keeps the direction."""
    networks, labels = [deep(5 + seed) for seed in range(models)], [0, 1, 2, 3]
    batch = batch_of(some_canvases(COUNT, seed=1), labels, targets)
    points = [some_canvases(COUNT, seed=seed).float() / 255 for seed in (1, 2, 3, 4)]
    gradients, use = Gradients(surrogates(*networks), OBJECTIVES["logit"], batch), FeatureTuning(0.5, 0.75, 0.3)
    for run in range(2):
        renew, draws = use.begin(), batch.draws.at(run)
        moves: list[list[list[Any]]] = [[[0.0, 0.0, 0.0] for _ in networks] for _ in labels]
        unmoved, first = 0.0, dict[tuple[int, int, int], np.ndarray]()
        for step, point in enumerate(points):
            way = renew(gradients, point, draws)
            found = replace(gradients, way=way).at(point, draws.at("step", step)).double().numpy()
            for number, label in enumerate(labels):
                path, wanted = draws.of(number).at("step", step, "inside", 0), np.zeros(4)
                wanted[label if targets is None else targets[number]] = (-1 if targets is None else 1) / models
                clean, values = other_picture(path, label), point[number].double().numpy()
                cases = [
                    (Halves.of(each), values, clean, wanted, path.at("model", n)) for n, each in enumerate(networks)
                ]
                still = np.sum([tuned(*case, [0, 0, 0], learn=False) for case in cases], axis=0)
                unmoved = max(unmoved, abs(still - found[number]).max())
                pairs = zip(cases, moves[number], strict=True)
                expected = np.sum([tuned(*case, each) for case, each in pairs], axis=0)
                assert np.allclose(found[number], expected, atol=1e-6 + 1e-4 * abs(expected).max())
                for model, layer in itertools.product(range(models), range(3)):
                    if np.ndim(move := moves[number][model][layer]):
                        learned = first.setdefault((number, model, layer), move)
                        assert learned @ move > 0.999999 * np.linalg.norm(learned) * np.linalg.norm(move)
        assert unmoved > 0.01
        assert 9 * models <= len(first) <= 12 * models


class Convolutions(nn.Module):
    """Of a half, a quarter and an eighth of the input's side, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.quarter, self.eighth = (
            nn.Conv2d(*channels, 3, stride=2, padding=1) for channels in ((3, 4), (4, 5), (5, 6))
        )
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, windows: Tensor) -> Tensor:
        values: Tensor = self.norm(self.eighth(torch.relu(self.quarter(torch.relu(self.fine(windows))))))
        return self.head(values.mean(dim=(2, 3)))


def test_cfm_counts_convolutions_from_a_quarter_of_the_side_on() -> None:
    """As the authors' code does, the last layer of sums included."""
    attacked, batch = surrogates(Convolutions(), side=16), batch_of(some_canvases(3, side=16), [0, 1, 2])
    gradients = Gradients(attacked, OBJECTIVES["logit"], batch)
    (mixed,) = CleanFeatureMixup(1.0, 0.75).begin()(gradients, batch.clean, batch.draws)(attacked, batch.draws)
    changes = mixed._inside[mixed.only.network].changes
    assert list(changes) == ["quarter", "eighth", "head"]
    shares = [change.args[1] for change in changes.values() if isinstance(change, partial)]
    assert [tuple(each.shape) for each in shares] == [(3, 5, 1, 1), (3, 6, 1, 1), (3, 4)]
    assert all(each.min() >= 0 and each.max() <= 0.75 and len(each.unique()) == each.numel() for each in shares)


@pytest.mark.parametrize("use", [CleanFeatureMixup(0.5, 0.75), FeatureTuning(0.5, 0.75, 0.3)])
def test_what_is_not_mixed_goes_on_as_it_was_whoever_is_beside_it(use: CleanFeatureMixup) -> None:
    """Also in reduced precision: a number that became more precise would be rounded otherwise by what follows."""
    attacked, batch = surrogates(Convolutions(), side=16), batch_of(some_canvases(8, side=16), [0, 1, 2, 3] * 2)
    gradients = Gradients(attacked, OBJECTIVES["logit"], batch)
    (mixed,) = use.begin()(gradients, batch.clean, batch.draws)(attacked, batch.draws)
    chosen = batch.draws.at("model", 0).uniform((3,), "layers") < 0.5
    shapes = {"quarter": (5, 4, 4), "eighth": (6, 2, 2), "head": (4,)}
    for number, (name, change) in enumerate(mixed._inside[mixed.only.network].changes.items()):
        features = torch.randn(8, *shapes[name]).bfloat16()
        found = change(features)
        assert found.dtype == torch.bfloat16
        assert torch.equal((found == features).flatten(1).all(dim=1), ~chosen[:, number])


def test_everywhere_shows_the_canvas_and_single_blocks_of_it() -> None:
    """Zeng et al. 2025: the rest has ImageNet's mean colour. Twelve pixels are four blocks of three."""
    canvases = some_canvases(3)
    batch, part = batch_of(canvases, [0, 1, 2], [1, 2, 0]), Everywhere(4, 9)
    assert part.copies == 10 and torch.equal(part(batch.clean, 0, batch.draws, batch), batch.clean)
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
    seen = set()
    for copy in range(1, 10):
        draws = batch.draws.at("copy", copy)
        for number, shown in enumerate(part(batch.clean, copy, draws, batch).numpy()):
            row, column = draws.of(number).integers(4, (2,), "block")[0].tolist()
            expected = np.broadcast_to(mean, SHAPE).copy()
            block = (slice(None), slice(3 * row, 3 * row + 3), slice(3 * column, 3 * column + 3))
            expected[block] = batch.clean[number].numpy()[block]
            assert np.array_equal(shown, expected)
            seen.add((row, column))
    assert len(seen) > 8


# In expectation ------------------------------------------------------------------------------------------------------

Sampled = Callable[[np.random.Generator, Halves, np.ndarray, np.ndarray], np.ndarray]
"""The gradient of one draw: (random numbers, network, canvas, the logits' weights) -> like the canvas."""


def holes(rng: np.random.Generator, network: Halves, canvas: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    features = network.features(canvas * (rng.random(SHAPE) >= 0.3))
    return network.by_pixels(canvas, network.by_features(features, wanted))


def patches(rng: np.random.Generator, network: Halves, canvas: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    size = int(rng.choice([1, 3, 5, 7]))
    count = math.ceil(SIDE / size)
    chosen = np.kron(rng.random((3, count, count)) < 0.3, np.ones((1, size, size)))[:, :SIDE, :SIDE]
    features = network.features(np.where(chosen, rng.random(SHAPE), 1) * canvas)
    return network.by_pixels(canvas, network.by_features(features, wanted))


def decay(rng: np.random.Generator, network: Halves, canvas: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    mixed = 0.3 * network.features(canvas) + 0.7 * network.features(canvas + rng.normal(0, 0.3, SHAPE))
    return network.by_pixels(canvas, network.by_features(mixed, wanted))


def mixup(rng: np.random.Generator, network: Halves, canvas: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    others = [each for each in range(len(POOL)) if POOL_LABELS[each] != np.argmin(wanted)]
    clean = POOL[rng.choice(others)].double().numpy() / 255
    shares = [0.75 * rng.random(size) * (rng.random() < 0.5) for size in (16, 12, 4)]
    one, other = network.first @ clean.ravel(), network.second @ np.sin(network.first @ clean.ravel())
    sums = (1 - shares[0]) * (network.first @ canvas.ravel()) + shares[0] * one
    more = (1 - shares[1]) * (network.second @ np.sin(sums)) + shares[1] * other
    back = ((wanted * (1 - shares[2])) @ network.last) * np.cos(more) * (1 - shares[1])
    return (((back @ network.second) * np.cos(sums) * (1 - shares[0])) @ network.first).reshape(SHAPE)


DRAWN: dict[str, tuple[FeatureUse, Sampled]] = {
    "fia": (FeatureImportance(None, COPIES, 0.3), holes),
    "rpa": (RandomPatches(None, COPIES, 0.3), patches),
    "ilpd": (PerturbationDecay(None, 0.3, 0.3), decay),
    "cfm": (CleanFeatureMixup(0.5, 0.75), mixup),
}


@pytest.mark.parametrize("name", list(DRAWN))
def test_the_mean_gradient_of_draws_is_that_of_the_paper(name: str) -> None:
    """Each draws its own numbers; see `test_expectation.py`."""
    use, sampled = DRAWN[name]
    network, canvases, labels = deep(7), some_canvases(2, seed=5), [0, 1]
    batch, rng = batch_of(canvases, labels), np.random.default_rng(0)
    gradients = Gradients(surrogates(network), OBJECTIVES["logit"], batch, eot=COPIES if use.redraws else 1)
    ours = []
    for half in range(2):
        draws = batch.draws.at(half)
        way = use.begin()(gradients, batch.clean, draws)
        ours.append(replace(gradients, way=way).at(batch.clean, draws).double().numpy())
    for image, label in enumerate(labels):
        canvas, wanted = canvases[image].double().numpy() / 255, -np.eye(4)[label]
        halves = Halves.of(network)
        theirs = [np.mean([sampled(rng, halves, canvas, wanted) for _ in range(COPIES)], axis=0) for _ in range(2)]
        assert agreement([each[image] for each in ours], theirs) == pytest.approx(1, abs=0.015)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_two_ways_inside_are_refused() -> None:
    with pytest.raises(InputError, match=r"^recipe: two of its parts look inside the surrogates; name one\Z"):
        recipe("mi-fia-cfm").make(BALLS["linf"](0.1))


def test_models_that_are_weighed_by_their_answers_have_no_features_to_follow() -> None:
    for base in ("adaea", "smer"):
        recipe(f"{base}-cfm").make(BALLS["linf"](0.1))
        with pytest.raises(InputError, match=r"^recipe: it weighs models by what they answer"):
            recipe(f"{base}-fia").make(BALLS["linf"](0.1))
