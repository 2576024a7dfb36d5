"""Input transformations: geometry by hand, each against its definition, and how gradients of copies combine."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage, stats
from torch import Tensor

from tests.support.attacks import (
    POOL,
    POOL_LABELS,
    SHAPE,
    SIDE,
    batch_of,
    bent,
    bilinear,
    draws_for,
    in_proportion,
    make,
    some_canvases,
    surrogates,
)
from transforms.attacks.gradients import Gradients
from transforms.attacks.loop import AttackLoop
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.parts import transformations
from transforms.attacks.parts.rendering import Lights, ObjectInput, Views
from transforms.attacks.parts.transformations import (
    Angles,
    BlockShuffle,
    DiverseInput,
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
from transforms.attacks.parts.warping import warped
from transforms.attacks.protocol import Batch, Transformation
from transforms.errors import InputError
from transforms.randomness import Draws


def white(count: int, side: int) -> Tensor:
    return torch.ones(count, 3, side, side)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 0.9, (count, 3, side, side))).float()


def shown(transformation: Transformation, points: Tensor, copy: int = 0, draws: Draws | None = None) -> Tensor:
    """One copy, of images without a pool."""
    batch = batch_of(torch.zeros(len(points), 3, 4, 4, dtype=torch.uint8), [0] * len(points))
    return transformation(points, copy, draws_for(len(points)) if draws is None else draws, batch)


# Diverse inputs ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([12, 17, 30]), st.sampled_from([1.1, 1.3, 1.66, 2.5]))
def test_diverse_inputs_are_resized_padded_and_resized_back(seed: int, side: int, rate: float) -> None:
    """By matrices: enlarged to a whole size below rate * side, set somewhere on black, resized back."""
    picture = noise(1, side, seed)
    draws = Draws(seed, "di", ["one"])
    found = shown(DiverseInput(rate, 1.0), picture, draws=draws)[0].numpy()
    largest = int(side * rate)
    size, top, left = draws.uniform((3,), "resize")[0].tolist()
    enlarged = side + math.floor(size * (largest - side))
    room = largest - enlarged
    assert side <= enlarged < largest
    rows, columns = (math.floor(each * room) for each in (top, left))
    canvas = np.zeros((3, largest, largest))
    resize = bilinear(side, enlarged)
    placed = resize @ picture[0].double().numpy() @ resize.T
    canvas[:, rows : rows + enlarged, columns : columns + enlarged] = placed
    back = bilinear(largest, side)
    assert np.allclose(found, back @ canvas @ back.T, atol=1e-5)


def test_sizes_and_places_of_diverse_inputs() -> None:
    """A white picture of 40 pixels on black of 60: every size from 40 to 59 and every place that leaves a black line
    at the far side; a third side's padding never changes sides."""
    sizes: Counter[int] = Counter()
    tops: Counter[int] = Counter()
    for number in range(400):
        found = shown(DiverseInput(1.5, 1.0), white(1, 40), draws=Draws(0, "di", [f"{number}"]))[0, 0]
        # Each side of the picture keeps its share of the square: the sum along a line through it measures it.
        size = found.amax(dim=0).sum().item() * 60 / 40
        assert size == pytest.approx(found.amax(dim=1).sum().item() * 60 / 40, abs=0.75)
        assert 39.2 < size < 59.8
        sizes[round(size)] += 1
        rows = found.amax(dim=1)
        tops[round((rows > 0.5).nonzero().min().item() * 1.5)] += 1
    assert len(sizes) > 15 and max(tops) <= 20 and len(tops) > 8


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.7, 1.0])
def test_how_often_inputs_are_diverse(probability: float) -> None:
    """Per image, and as often over the steps of one image as over images."""
    for draws in (draws_for(1500), Draws(0, "di", ["a"] * 1)):
        if len(draws.uniform((), "any")) > 1:
            changed = (shown(DiverseInput(1.5, probability), white(1500, 4), draws=draws) < 1).flatten(1).any(dim=1)
        else:
            steps = [shown(DiverseInput(1.5, probability), white(1, 4), draws=draws.at(step)) for step in range(1500)]
            changed = torch.stack([(each < 1).any() for each in steps])
        assert abs(changed.double().mean() - probability) < 5 * math.sqrt(probability * (1 - probability) / 1500) + 1e-9


def test_inputs_that_stay_are_left_alone() -> None:
    points = noise(64, SIDE)
    found = shown(DiverseInput(1.5, 0.5), points)
    same = torch.tensor([torch.equal(one, other) for one, other in zip(found, points, strict=True)])
    assert 10 < same.sum() < 54


def test_resized_diversity_is_one_diverse_input_per_rate() -> None:
    points, draws = noise(3, SIDE), draws_for(3)
    dem = ResizedDiversity((1.2, 1.5, 2.0))
    assert dem.copies == 3 and dem.fused
    for copy, rate in enumerate(dem.resize_rates):
        assert torch.equal(shown(dem, points, copy, draws), shown(DiverseInput(rate, 1.0), points, 0, draws))
        assert not torch.equal(shown(dem, points, copy, draws), points)


# Scales and mixing ---------------------------------------------------------------------------------------------------


def test_scales_are_powers_of_two() -> None:
    points = noise(2, SIDE)
    for copy in range(5):
        assert torch.equal(shown(Scales(5), points, copy), points / 2**copy)


def test_admix_adds_a_share_of_a_picture_of_another_class() -> None:
    """Always one of the pool's, never of the image's own class, all of them in the end, and equally often."""
    labels = [0, 1, 2, 3]
    points, batch = noise(4, SIDE), batch_of(some_canvases(4), labels)
    mixed: list[Counter[int]] = [Counter() for _ in labels]
    for step in range(300):
        added = (Mixing(1, 0.2)(points, 0, batch.draws.at("step", step), batch) - points) / 0.2
        for image, each in enumerate(added):
            (which,) = (torch.isclose(POOL / 255, each, atol=1e-5).flatten(1).all(dim=1)).nonzero()
            mixed[image][int(which)] += 1
    for label, counts in zip(labels, mixed, strict=True):
        others = [number for number, of_pool in enumerate(POOL_LABELS.tolist()) if of_pool != label]
        assert sorted(counts) == others
        assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_admix_takes_the_first_of_another_class_in_a_random_order() -> None:
    points, batch = noise(4, SIDE), batch_of(some_canvases(4), [0, 1, 2, 3])
    order = batch.draws.permutation(len(POOL), "mix")
    found = Mixing(1, 0.3)(points, 0, batch.draws, batch)
    for image, label in enumerate([0, 1, 2, 3]):
        chosen = next(each for each in order[image].tolist() if POOL_LABELS[each] != label)
        assert torch.allclose(found[image], points[image] + 0.3 * POOL[chosen] / 255, atol=1e-6)


def test_admix_without_another_class_takes_the_image_itself() -> None:
    canvases = some_canvases(3)
    alone = Batch(canvases, batch_of(canvases, [1, 1, 2]).goal, draws_for(3), POOL[:0], POOL_LABELS[:0])
    assert torch.allclose(Mixing(1, 0.2)(alone.clean, 0, alone.draws, alone), 1.2 * alone.clean)
    batch = Batch(canvases, batch_of(canvases, [1, 1, 2]).goal, draws_for(3), POOL[[1, 4]], POOL_LABELS[[1, 4]])
    points = batch.clean.requires_grad_()
    found = Mixing(1, 0.2)(points, 0, batch.draws, batch)
    assert torch.allclose(found[:2], 1.2 * points[:2])
    assert not torch.allclose(found[2], 1.2 * points[2])
    (gradient,) = torch.autograd.grad(found.sum(), points)
    assert torch.equal(gradient, torch.ones_like(points))  # what is added is a constant


def test_masks_multiply_scaled_pictures() -> None:
    """Scales in turn, a mask for each; what would be brighter than white is white, and the gradient is the copy's."""
    points, batch, usmm = (
        noise(2, SIDE).requires_grad_(),
        batch_of(some_canvases(2), [0, 1]),
        MixMask(0.5, 2.0, 2, 2, 0.5),
    )
    pulled = noise(2, SIDE, seed=1)
    for copy, factor in enumerate([0.5, 2.0, 0.5, 2.0]):
        draws = batch.draws.at("copy", copy)
        added = Mixing(1, 1.0)(points, 0, draws, batch) - points
        found = usmm(points, copy, draws, batch)
        assert torch.allclose(found, (factor * points * (0.5 + added)).clamp(max=1), atol=1e-6)
        assert torch.equal(torch.autograd.grad((found * pulled).sum(), points)[0], pulled)


def frequencies(pictures: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, and how many cycles per picture each is from the mean."""
    places = np.fft.fftfreq(SIDE, 1 / SIDE)
    return np.fft.fft2(pictures.detach().double().numpy()), np.hypot(places[:, None], places)


@pytest.mark.parametrize("radius", [3.0, 5.0])
def test_high_frequencies_are_another_pictures(radius: float) -> None:
    """Hard: up to the radius the canvas's, beyond it those of a picture of another class. Soft: each between both, all
    at one share where the mask is past. The gradient is the canvas's part."""
    batch = batch_of(some_canvases(4), [0, 1, 2, 3])
    added = Mixing(1, 1.0)(batch.clean, 0, batch.draws, batch) - batch.clean
    (own, away), (others, _) = frequencies(batch.clean), frequencies(added)
    found, _ = frequencies(MixedFrequencies(1, radius, 0.0, "hard")(batch.clean, 0, batch.draws, batch))
    assert np.allclose(found, np.where(away <= radius, own, others), atol=1e-3)
    points = batch.clean.requires_grad_()
    soft = MixedFrequencies(1, radius, 0.0, "soft")(points, 0, batch.draws, batch)
    found, _ = frequencies(soft)
    alpha = batch.draws.uniform((), "share").double().numpy()[:, None, None, None]
    kept = 1 - (1 - alpha) / (1 + np.exp((radius - away) / 10))
    assert np.allclose(found, kept * own + (1 - kept) * others, atol=1e-3)
    (gradient,) = torch.autograd.grad(soft.sum(), points)
    assert np.allclose(gradient, kept[:, :, :1, :1], atol=1e-5)  # the mean's own share


def test_noise_of_mixed_frequencies() -> None:
    batch = batch_of(some_canvases(4), [0, 1, 2, 3])
    noisy, plain = (MixedFrequencies(1, 3.0, each, "soft")(batch.clean, 0, batch.draws, batch) for each in (0.2, 0.0))
    assert (noisy - plain).std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.allclose(noisy - plain, 0.2 * batch.draws.normal(SHAPE, "noise"), atol=1e-6)


# PatchOut ------------------------------------------------------------------------------------------------------------


def test_patches_of_the_perturbation_are_left_out() -> None:
    """Of 9 patches, those at the far sides narrower, the nearest whole number to 60 % stay; each image has its own."""
    batch = batch_of(some_canvases(40), [0] * 40)
    points = batch.clean + 0.01
    found = PatchOut(0.6, 5)(points, 0, batch.draws, batch)
    kept = (found - batch.clean)[:, :, ::5, ::5] > 0.005
    assert torch.equal(kept, kept[:, :1].expand_as(kept)) and set(kept[:, 0].flatten(1).sum(dim=1).tolist()) == {5}
    mask = kept.repeat_interleave(5, dim=2).repeat_interleave(5, dim=3)[..., :SIDE, :SIDE]
    assert torch.allclose(found, torch.where(mask, points, batch.clean), atol=1e-6)
    assert kept[:, 0].flatten(1).unique(dim=0).shape[0] > 20
    assert (kept[:, 0].float().mean(dim=0) - 5 / 9).abs().max() < 0.25


def test_patches_that_would_all_stay_are_refused() -> None:
    batch = batch_of(some_canvases(1), [0])
    with pytest.raises(InputError, match="patch_size: 12 cuts 12 pixels into 1 patches, of which 1 would stay"):
        PatchOut(0.6, 12)(batch.clean, 0, batch.draws, batch)


# Spectrum simulation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "spread"), [(0.0, 0.5), (16 / 255, 0.5), (0.1, 0.0), (0.0, 1.0)])
def test_spectrum_simulation(sigma: float, spread: float) -> None:
    """Long et al. 2022, algorithm 1, with SciPy's transform: IDCT((DCT(x + noise)) * factors)."""
    points, draws = noise(3, 16), draws_for(3)
    found = shown(SpectrumSimulation(1, sigma, spread), points, draws=draws).double().numpy()
    noisy = points.double().numpy() + sigma * draws.normal((3, 16, 16), "noise").double().numpy()
    factors = 1 + spread * (2 * draws.uniform((3, 16, 16), "spectrum").double().numpy() - 1)
    expected = fft.idctn(fft.dctn(noisy, axes=(-2, -1), norm="ortho") * factors, axes=(-2, -1), norm="ortho")
    assert np.allclose(found, expected, atol=1e-5)
    if sigma == 0:
        ratio = fft.dctn(found, axes=(-2, -1), norm="ortho") / fft.dctn(noisy, axes=(-2, -1), norm="ortho")
        sure = abs(fft.dctn(noisy, axes=(-2, -1), norm="ortho")) > 0.05
        assert ratio[sure].min() >= 1 - spread - 1e-3 and ratio[sure].max() <= 1 + spread + 1e-3
        assert ratio[sure].std() == pytest.approx(spread / math.sqrt(3), rel=0.1)
    else:
        assert (noisy - points.numpy()).std() == pytest.approx(sigma, rel=0.1)


def test_the_spectrums_gradient_is_that_at_the_copy() -> None:
    """Straight through: what flows back to the copy arrives at the canvas as it is."""
    points = noise(2, SIDE).requires_grad_()
    pulled = noise(2, SIDE, seed=1)
    (gradient,) = torch.autograd.grad((shown(SpectrumSimulation(1, 0.1, 0.5), points) * pulled).sum(), points)
    assert torch.equal(gradient, pulled)
    batch = batch_of(some_canvases(2), [0, 1])
    gradients = Gradients(surrogates(bent()), cross_entropy, batch, (SpectrumSimulation(1, 0.1, 0.5),))
    path = batch.draws.at("eot", 0).at("transformation", 0, 0)
    seen = SpectrumSimulation(1, 0.1, 0.5)(batch.clean, 0, path, batch)
    expected = surrogates(bent()).slope(seen, cross_entropy, batch.goal).gradient
    assert torch.equal(gradients.at(batch.clean, batch.draws), expected)


# Structure invariance ------------------------------------------------------------------------------------------------

NAMES = [each.__name__ for each in transformations._CHANGES]
BLOCK, FIELD = noise(1, 20)[:, :, :11, :14], noise(1, 20, seed=5)[0, :, :11, :14]


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return bilinear(picture.shape[-2], height) @ picture @ bilinear(picture.shape[-1], width).T


def smoothed(picture: np.ndarray) -> np.ndarray:
    """Without the highest 40 % of cosine frequencies per axis."""
    spectrum = fft.dctn(picture, axes=(-2, -1), norm="ortho")
    height, width = picture.shape[-2:]
    spectrum[..., height - int(0.4 * height) :, :] = 0
    spectrum[..., :, width - int(0.4 * width) :] = 0
    return fft.idctn(spectrum, axes=(-2, -1), norm="ortho")


CHANGES: dict[str, Callable[[np.ndarray, float, np.ndarray], np.ndarray]] = {
    "_down": lambda x, u, field: np.roll(x, math.floor(u * x.shape[2]), axis=2),
    "_right": lambda x, u, field: np.roll(x, math.floor(u * x.shape[3]), axis=3),
    "_upside_down": lambda x, u, field: x[:, :, ::-1],
    "_mirrored": lambda x, u, field: x[:, :, :, ::-1],
    "_half_turn": lambda x, u, field: np.rot90(x, 2, axes=(2, 3)),
    "_darker": lambda x, u, field: u * x,
    "_noisy": lambda x, u, field: np.clip(x + 16 / 255 * (2 * field - 1), 0, 1),
    "_coarser": lambda x, u, field: np.clip(
        resized(resized(x, int(0.8 * x.shape[2]) + 1, int(0.8 * x.shape[3]) + 1), *x.shape[2:]), 0, 1
    ),
    "_smoother": lambda x, u, field: smoothed(x),
    "_dropped": lambda x, u, field: np.where(field < 0.1, 0, x / 0.9),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [0.0, 0.37, 0.999])
def test_each_of_the_ten_changes(name: str, number: float) -> None:
    """Wang et al. 2023, table 1: shifts, flips, a half turn, scaling, noise, resizing, cosine low-pass, dropout."""
    change = getattr(transformations, name)
    expected = CHANGES[name](BLOCK.double().numpy(), number, FIELD.double().numpy())
    assert np.allclose(change(BLOCK, number, FIELD), expected, atol=1e-5)
    block = BLOCK.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(change(block, 0.5, FIELD).sum(), block)
    assert gradient.abs().sum() > 0


def test_there_are_ten_changes_and_all_are_used() -> None:
    assert sorted(NAMES) == sorted(CHANGES) and len(NAMES) == 10
    chosen = draws_for(300).integers(10, (3, 3), "change").flatten()
    assert stats.chisquare(torch.bincount(chosen, minlength=10).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", [None, "_down", "_right", "_mirrored", "_upside_down", "_half_turn"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 12])
def test_blocks_cover_the_canvas(name: str | None, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pixel is in one block: unchanged blocks are the canvas, moved ones keep each block's pixels."""
    same = (lambda block, number, field: block) if name is None else getattr(transformations, name)
    monkeypatch.setattr(transformations, "_CHANGES", (same,))
    points = noise(4, SIDE)
    found = shown(StructureInvariance(1, blocks), points)
    if name is None:
        assert torch.equal(found, points)
    assert torch.equal(found.flatten(2).sort(dim=2).values, points.flatten(2).sort(dim=2).values)


def test_lines_are_drawn_anywhere_and_never_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block tells its size by its colour; all cuts are in use, no block is empty, lines differ between images."""
    monkeypatch.setattr(transformations, "_CHANGES", (lambda x, u, field: 0 * x + x.shape[2] + x.shape[3] / 100,))
    found = shown(StructureInvariance(1, 3), white(400, SIDE))[:, 0]
    heights, widths = found.floor(), ((found % 1) * 100).round()
    assert heights.min() == 1 and heights.max() == SIDE - 2 and widths.min() == 1
    # Three heights add up to the side: each row's pixels count 1 / height.
    assert torch.allclose((1 / heights[:, :, 0]).sum(dim=1), torch.tensor(3.0), atol=1e-4)
    assert torch.allclose((1 / widths[:, 0]).sum(dim=1), torch.tensor(3.0), atol=1e-4)
    first = Counter(heights[:, 0, 0].int().tolist())
    # The first line of two out of eleven: the smaller one, c with probability (11 - c) / 55.
    expected = np.array([400 * (11 - each) / 55 for each in range(1, 11)])
    assert stats.chisquare([first[each] for each in range(1, 11)], expected).pvalue > 1e-4


# Block shuffle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_blocks_are_shuffled(blocks: int) -> None:
    """Without rotation it moves whole rows and whole columns, of all channels alike."""
    places = torch.arange(SIDE**2).view(1, 1, SIDE, SIDE).expand(50, 3, -1, -1).float()
    moved = shown(BlockShuffle(1, blocks, 0.0), places).round()
    assert torch.equal(moved[:, 0], moved[:, 1]) and torch.equal(moved[:, 0], moved[:, 2])
    rows, columns = moved[:, 0] // SIDE, moved[:, 0] % SIDE
    assert torch.equal(rows, rows[:, :, :1].expand_as(rows))
    assert torch.equal(columns, columns[:, :1].expand_as(columns))
    for lines in (rows[:, :, 0], columns[:, 0]):
        assert torch.equal(lines.sort(dim=1).values, torch.arange(SIDE).expand(50, -1).float())
        assert ((lines[:, 1:] - lines[:, :-1] != 1).sum(dim=1) < blocks).all()
        assert len({tuple(each) for each in lines.tolist()}) > 5


def test_all_orders_are_used_equally_often_and_lines_are_those_of_proportions() -> None:
    """Two blocks: half of the time their rows are as they were, or one of the two is empty. A line between two is where
    a / (a + b) puts it: its middle third is reached by half of the pairs, by area."""
    places = torch.arange(SIDE**2).view(1, 1, SIDE, SIDE).expand(2000, 3, -1, -1).float()
    moved = shown(BlockShuffle(1, 2, 0.0), places)[:, 0].round()
    first_row, first_column = moved[:, 0, 0] // SIDE, moved[:, 0, 0] % SIDE
    rng = np.random.default_rng(0)
    cuts = Counter(in_proportion(rng.uniform(size=2), SIDE)[0] for _ in range(100_000))
    expected = np.array([cuts[each] / 200_000 for each in range(1, SIDE)])
    for first in (first_row, first_column):
        seen = np.array([(first == each).sum().item() for each in range(1, SIDE)])
        rest = 2000 - seen.sum()
        assert stats.chisquare([*seen, rest], 2000 * np.array([*expected, 1 - expected.sum()])).pvalue > 1e-4
    assert abs(np.corrcoef(first_row > 0, first_column > 0)[0, 1]) < 0.1


def test_an_empty_block_does_no_harm() -> None:
    """Of lengths in proportion, some are rounded to 0; together they are the side all the same."""
    assert transformations._shares(torch.tensor([1e-6, 1.0, 0.5]), SIDE) == [0, 8, 4]
    assert transformations._shares(torch.tensor([1.0, 1.0, 1.0]), 11) == [3, 4, 4]  # three times 4 is one too many
    draws = draws_for(400)
    shares = [transformations._shares(each, SIDE) for each in 1 - draws.uniform((4,), "heights")]
    assert min(map(min, shares)) == 0 and {sum(each) for each in shares} == {SIDE}
    found = shown(BlockShuffle(1, 4, 24.0), noise(400, SIDE), draws=draws)
    assert found.shape == (400, *SHAPE) and found.isfinite().all()


@pytest.mark.parametrize("degrees", [-24.0, -7.0, 10.0, 24.0, 90.0, 180.0])
@pytest.mark.parametrize("size", [(15, 15), (16, 12), (9, 20)])
def test_rotation_is_scipys(degrees: float, size: tuple[int, int]) -> None:
    """Bilinear about the centre, black outside. SciPy interpolates nothing in the last half pixel: compared where no
    black is near."""
    block = noise(1, 24)[:, :, : size[0], : size[1]]
    found = transformations.rotated(block, math.radians(degrees))[0].numpy()
    inside = ndimage.binary_erosion(ndimage.rotate(np.ones(size), degrees, reshape=False, order=1) > 0.999)
    matches = []
    for sign in (1, -1):
        expected = [ndimage.rotate(each, sign * degrees, reshape=False, order=1) for each in block[0].double().numpy()]
        matches.append(np.allclose(found[:, inside], np.stack(expected)[:, inside], atol=1e-4))
    assert matches[0] and inside.sum() > 8
    assert abs(degrees) == 180 or not matches[1]
    if abs(degrees) == 24:
        assert (transformations.rotated(torch.ones(1, 3, *size), math.radians(degrees)) == 0).any()


NORMAL = stats.truncnorm(-2, 2, scale=12)


@pytest.mark.parametrize(("kind", "expected"), [("normal", NORMAL), ("uniform", stats.uniform(-24, 48))])
def test_rotations_stay_within_their_angle(kind: Angles, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal ones are drawn from half the largest angle as standard deviation, at whose double they are cut off."""
    angles: list[float] = []

    def note(block: Tensor, angle: float) -> Tensor:
        angles.append(math.degrees(angle))
        return block

    monkeypatch.setattr(transformations, "rotated", note)
    shown(BlockShuffle(1, 3, 24.0, kind), noise(200, SIDE))
    assert len(angles) == 1800 and max(map(abs, angles)) <= 24
    assert stats.kstest(angles, expected.cdf).pvalue > 1e-4


# Warping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", [3, 5])
def test_warping_moves_control_points_exactly(mesh: int) -> None:
    """And nothing, where none moves. Of a picture that grows linearly, a pixel shows where it came from."""
    side, points = 15, noise(2, 15)
    still = torch.zeros(2, mesh - 2, mesh - 2, 2)
    assert torch.allclose(warped(points, still), points, atol=1e-5)
    rising = torch.linspace(0.2, 0.8, side)
    across, down = (rising.expand(side, -1), rising[:, None].expand(-1, side))
    moves = still.clone()
    moves[1, (mesh - 3) // 2, (mesh - 3) // 2] = torch.tensor([2 / side, -4 / side])  # a pixel right, two up
    found = warped(torch.stack([across, down, across]).expand(2, -1, -1, -1), moves)
    middle, pixel = side // 2, 0.6 / (side - 1)
    assert torch.allclose(found[1, :2, middle, middle], torch.tensor([0.5 + pixel, 0.5 - 2 * pixel]), atol=1e-5)
    assert torch.allclose(found[0, :2, middle, middle], torch.tensor([0.5, 0.5]), atol=1e-5)


# Gradients of copies --------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_mean_over_all_copies() -> None:
    """Scales see each mixed picture, with one picture for all of its scales."""
    batch = batch_of(some_canvases(3), [0, 1, 2])
    gradients = Gradients(surrogates(bent()), cross_entropy, batch, (Mixing(3, 0.2), Scales(2)))
    draws = batch.draws.at("step", 4)
    total = torch.zeros_like(batch.clean)
    for mix, scale in itertools.product(range(3), range(2)):
        path = draws.at("eot", 0, "transformation", 0, mix)
        points = batch.clean.clone().requires_grad_()
        seen = Mixing(3, 0.2)(points, mix, path, batch) / 2**scale
        value = cross_entropy(bent()(seen), batch.goal).sum()
        total += torch.autograd.grad(value, points)[0]
    assert torch.allclose(gradients.at(batch.clean, draws), total / 6, rtol=1e-4, atol=1e-7)


def test_fused_copies_share_one_objective() -> None:
    """The logits of all resize rates are averaged before the cross-entropy, for each scale apart."""
    batch = batch_of(some_canvases(3), [0, 1, 2])
    dem = ResizedDiversity((1.2, 1.5, 2.0))
    gradients = Gradients(surrogates(bent()), cross_entropy, batch, (Scales(2), dem))
    total = torch.zeros_like(batch.clean)
    for scale in range(2):
        points = batch.clean.clone().requires_grad_()
        paths = [batch.draws.at("eot", 0, "transformation", 1, scale, copy) for copy in range(3)]
        logits = [bent()(dem(points / 2**scale, copy, path, batch)) for copy, path in enumerate(paths)]
        total += torch.autograd.grad(cross_entropy(sum(logits) / 3, batch.goal).sum(), points)[0]
    assert torch.allclose(gradients.at(batch.clean, batch.draws), total / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["di-fgsm", "dem", "admix", "ssa", "sia", "bsr", "odi"])
def test_every_step_repetition_and_copy_draws_anew(name: str) -> None:
    """No two of what a model is shown are alike."""
    loop = make(name, eot=2)
    assert isinstance(loop, AttackLoop)
    canvases = some_canvases(1, side=60)
    pool = some_canvases(5, seed=1, side=60)
    batch = Batch(canvases, batch_of(canvases, [0]).goal, draws_for(1), pool, POOL_LABELS)
    (transformation, *_) = loop.transformations
    gradients = Gradients(surrogates(bent()), cross_entropy, batch, (transformation,), eot=2)
    seen = []
    for step, repetition, copy in itertools.product(range(2), range(2), range(transformation.copies)):
        draws = batch.draws.at("step", step).at("eot", repetition)
        seen.append(gradients._copy(noise(1, 60), (copy,), draws))
    pairs = [torch.equal(one, other) for one, other in itertools.combinations(seen, 2)]
    if name == "di-fgsm":  # which may be left alone
        assert not all(pairs)
    elif name == "admix":  # from a pool of five
        assert sum(pairs) < len(pairs) / 2
    else:
        assert not any(pairs)


def test_expectation_over_transformation_is_the_mean_over_repetitions() -> None:
    batch = batch_of(some_canvases(3), [0, 1, 2])
    di = DiverseInput(1.5, 0.8)
    whole = Gradients(surrogates(bent()), cross_entropy, batch, (di,), eot=3).at(batch.clean, batch.draws)
    total = torch.zeros_like(batch.clean)
    for repetition in range(3):
        points = batch.clean.clone().requires_grad_()
        seen = di(points, 0, batch.draws.at("eot", repetition, "transformation", 0, 0), batch)
        total += torch.autograd.grad(cross_entropy(bent()(seen), batch.goal).sum(), points)[0]
    assert torch.allclose(whole, total / 3, rtol=1e-4, atol=1e-7)


ALL: dict[str, Transformation] = {
    "di": DiverseInput(1.3, 0.5),
    "dem": ResizedDiversity((1.2, 1.5)),
    "si": Scales(3),
    "admix": Mixing(2, 0.2),
    "usmm": MixMask(0.1, 0.75, 2, 2, 0.5),
    "mfi": MixedFrequencies(2, 3.0, 0.1, "soft"),
    "mfi, hard": MixedFrequencies(2, 3.0, 0.1, "hard"),
    "ssa": SpectrumSimulation(2, 0.05, 0.5),
    "sia": StructureInvariance(2, 3),
    "bsr": BlockShuffle(2, 2, 24.0),
    "anda": Translations(3, 0.3),
    "patchout": PatchOut(0.6, 5),
    "odi": ObjectInput(("pack", "cup"), Views(35.0, 35.0, 35.0, 0.8, 0.4), Lights(0.6, 0.3, 0.5), "blurred_image"),
}


@pytest.mark.parametrize("name", list(ALL))
def test_a_copy_is_a_picture_of_the_same_size_and_differentiable(name: str) -> None:
    canvases = some_canvases(4)
    batch = batch_of(canvases, [0, 1, 2, 3])
    points = batch.clean.requires_grad_()
    for copy in range(ALL[name].copies):
        seen = ALL[name](points, copy, batch.draws, batch)
        assert seen.shape == (4, *SHAPE) and seen.isfinite().all()
        (gradient,) = torch.autograd.grad(seen.sum(), points)
        assert gradient.isfinite().all() and gradient.flatten(1).abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("name", list(ALL))
def test_an_image_does_not_feel_its_batch(name: str) -> None:
    """Bit for bit, forwards and backwards."""
    canvases, labels, pulled = some_canvases(5), [0, 1, 2, 3, 0], noise(5, SIDE, seed=3)

    def passed(items: list[int]) -> tuple[Tensor, Tensor]:
        whole = batch_of(canvases[items], [labels[item] for item in items])
        draws = Draws(0, "attack", [f"image {item}" for item in items])
        batch = Batch(whole.canvases, whole.goal, draws, whole.pool, whole.pool_labels)
        points = batch.clean.requires_grad_()
        seen = ALL[name](points, ALL[name].copies - 1, batch.draws, batch)
        return seen.detach(), torch.autograd.grad((seen * pulled[items]).sum(), points)[0]

    together = passed([0, 1, 2, 3, 4])
    for items in ([0], [3], [4, 1], [2, 0, 3]):
        for alone, all_of_them in zip(passed(items), together, strict=True):
            assert torch.equal(alone, all_of_them[items])


@pytest.mark.parametrize(
    ("make_it", "named"),
    [
        (lambda: DiverseInput(1.0, 0.5), "resize_rate"),
        (lambda: DiverseInput(0.9, 0.5), "resize_rate"),
        (lambda: DiverseInput(1.1, 0.0), "diversity_probability"),
        (lambda: DiverseInput(1.1, 1.5), "diversity_probability"),
        (lambda: shown(DiverseInput(1.01, 1.0), white(1, SIDE)), "resize_rate"),
        (lambda: ResizedDiversity(()), "resize_rates"),
        (lambda: ResizedDiversity((1.2, 0.8)), "resize_rates"),
        (lambda: Scales(1), "scales"),
        (lambda: Mixing(0, 0.2), "mixed_images"),
        (lambda: Mixing(3, 0.0), "admix_strength"),
        (lambda: MixMask(0.1, 0.75, 1, 3, 0.5), "uniform_scales"),
        (lambda: MixMask(0.1, 0.75, 5, 0, 0.5), "mix_masks"),
        (lambda: MixMask(0.0, 0.75, 5, 3, 0.5), "scale_low"),
        (lambda: MixMask(0.5, 0.5, 5, 3, 0.5), "scale_high"),
        (lambda: MixMask(0.1, 0.75, 5, 3, 1.1), "mask_range"),
        (lambda: MixedFrequencies(0, 3.0, 0.1, "soft"), "mixed_spectra"),
        (lambda: MixedFrequencies(2, 0.0, 0.1, "soft"), "mask_radius"),
        (lambda: MixedFrequencies(2, 3.0, -0.1, "soft"), "gaussian_sigma"),
        (lambda: shown(MixedFrequencies(2, 8.5, 0.1, "soft"), white(1, SIDE)), "mask_radius"),
        (lambda: SpectrumSimulation(0, 0.1, 0.5), "spectra"),
        (lambda: SpectrumSimulation(2, -0.1, 0.5), "spectrum_noise"),
        (lambda: SpectrumSimulation(2, 0.1, 1.5), "spectrum_spread"),
        (lambda: SpectrumSimulation(2, 0.0, 0.0), "spectrum_noise"),
        (lambda: StructureInvariance(0, 3), "structures"),
        (lambda: StructureInvariance(2, 0), "structure_blocks"),
        (lambda: shown(StructureInvariance(2, SIDE + 1), white(1, SIDE)), "structure_blocks"),
        (lambda: Translations(1, 0.3), "shifts"),
        (lambda: Translations(5, 0.0), "shift_range"),
        (lambda: Translations(5, 2.0), "shift_range"),
        (lambda: BlockShuffle(0, 2, 24.0), "shuffles"),
        (lambda: BlockShuffle(2, 0, 24.0), "shuffle_blocks"),
        (lambda: BlockShuffle(2, 2, -1.0), "rotation"),
        (lambda: BlockShuffle(2, 2, 181.0), "rotation"),
        (lambda: BlockShuffle(2, 1, 0.0), "shuffle_blocks"),
        (lambda: BlockShuffle(2, 2, 0.0, "uniform"), "rotation_kind"),
        (lambda: shown(BlockShuffle(2, 5, 24.0), white(1, SIDE)), "shuffle_blocks"),
    ],
)
def test_senseless_parameters_are_refused_in_one_line(make_it: Callable[[], object], named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}.*: .+\Z"):
        make_it()
