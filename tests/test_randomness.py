"""Draws: the same key gives the same numbers, another key others, and neighbours play no part."""

import hashlib
import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from transforms.randomness import Draws

IMAGES = ("a", "b", "n01440764/one", "ü")
SHAPE = (3, 5, 7)
Draw = Callable[..., Tensor]


def uniform(seed: int, attack: str, images: tuple[str, ...], step: int, draw: str) -> Tensor:
    return Draws(seed, attack, images).at("step", step).uniform(SHAPE, draw)


def normal(seed: int, attack: str, images: tuple[str, ...], step: int, draw: str) -> Tensor:
    return Draws(seed, attack, images).at("step", step).normal(SHAPE, draw)


def integers(seed: int, attack: str, images: tuple[str, ...], step: int, draw: str) -> Tensor:
    return Draws(seed, attack, images).at("step", step).integers(2**40, SHAPE, draw)


def permutation(seed: int, attack: str, images: tuple[str, ...], step: int, draw: str) -> Tensor:
    return Draws(seed, attack, images).at("step", step).permutation(10_000, draw)


kinds = pytest.mark.parametrize("kind", [uniform, normal, integers, permutation])


@kinds
def test_the_same_key_draws_the_same(kind: Draw) -> None:
    torch.manual_seed(1)
    first = kind(3, "pgd", IMAGES, 2, "start")
    torch.manual_seed(2)  # torch's own state plays no part …
    before = torch.get_rng_state()
    assert torch.equal(first, kind(3, "pgd", IMAGES, 2, "start"))
    assert torch.equal(before, torch.get_rng_state())  # … and is left alone
    assert len(first) == len(IMAGES)
    assert first.dtype == (torch.float32 if kind in {uniform, normal} else torch.int64)


@pytest.mark.parametrize("method", ["uniform", "normal"])
def test_asking_for_other_draws_in_between_changes_nothing(method: str) -> None:
    draws = Draws(0, "pgd", IMAGES)
    first = getattr(draws, method)(SHAPE, "start")
    draws.uniform((100,), "radius")
    draws.at("step", 5).normal((9, 9), "start")
    assert torch.equal(first, getattr(draws, method)(SHAPE, "start"))


@kinds
@pytest.mark.parametrize(
    "other",
    [
        (4, "pgd", ("a",), 2, "start"),
        (-3, "pgd", ("a",), 2, "start"),
        (3, "pgd2", ("a",), 2, "start"),
        (3, "pgd", ("b",), 2, "start"),
        (3, "pgd", ("a",), 3, "start"),
        (3, "pgd", ("a",), 2, "radius"),
        # Parts must not run into each other: "pgd" + "a" is not "pg" + "da", nor step 2, 3 seed 32.
        (3, "pg", ("da",), 2, "start"),
        (3, "a", ("pgd",), 2, "start"),
        (32, "pgd", ("a",), 3, "start"),
    ],
)
def test_any_part_of_the_key_changes_all_draws(kind: Draw, other: tuple[int, str, tuple[str], int, str]) -> None:
    one, another = kind(3, "pgd", ("a",), 2, "start"), kind(*other)
    # Float32 draws coincide by chance once in some 2**24; a permutation has one fixed point on average.
    assert (one == another).sum() <= (8 if kind is permutation else 1)


def test_a_path_is_its_words_in_order() -> None:
    draws = Draws(0, "pgd", IMAGES)
    here = draws.at("step", 3).at("copy", 1)
    assert torch.equal(here.uniform(SHAPE, "x"), draws.at("step", 3, "copy", 1).uniform(SHAPE, "x"))
    for other in (draws.at("copy", 1).at("step", 3), draws.at("step", 31, "copy"), draws.at("step", 3), draws):
        assert (here.uniform(SHAPE, "x") == other.uniform(SHAPE, "x")).sum() <= 1


@kinds
def test_images_of_a_batch_draw_differently(kind: Draw) -> None:
    drawn = kind(0, "pgd", IMAGES, 0, "start")
    for one in range(len(IMAGES)):
        for another in range(one):
            assert (drawn[one] == drawn[another]).sum() <= (8 if kind is permutation else 1)


@kinds
def test_a_batch_is_its_images_one_by_one(kind: Draw) -> None:
    batch = kind(7, "pgd", IMAGES, 1, "start")
    for place, image in enumerate(IMAGES):
        assert torch.equal(batch[place], kind(7, "pgd", (image,), 1, "start")[0])
    order = (2, 0, 3, 0)
    assert torch.equal(batch[list(order)], kind(7, "pgd", tuple(IMAGES[place] for place in order), 1, "start"))


def test_of_is_one_image_of_the_batch() -> None:
    draws = Draws(7, "pgd", IMAGES).at("step", 1)
    for place in range(len(IMAGES)):
        assert torch.equal(draws.of(place).uniform(SHAPE, "x")[0], draws.uniform(SHAPE, "x")[place])


def test_shared_draws_do_not_depend_on_the_batch() -> None:
    one, other = (Draws(7, "pgd", images).at("step", 1).shared for images in (IMAGES, ("c",)))
    assert torch.equal(one.uniform(SHAPE, "x"), other.uniform(SHAPE, "x")) and len(one.uniform(SHAPE, "x")) == 1
    assert (one.uniform(SHAPE, "x") == Draws(7, "pgd", IMAGES).at("step", 1).uniform(SHAPE, "x")).sum() <= 1
    assert (one.uniform(SHAPE, "x") == one.at("deeper").uniform(SHAPE, "x")).sum() <= 1


@pytest.mark.parametrize(("method", "law"), [("uniform", stats.uniform), ("normal", stats.norm)])
def test_distribution(method: str, law: stats.rv_continuous) -> None:
    """Pooled over images, each with its own generator: a poor derivation of seeds would show between them."""
    images = [f"image {number}" for number in range(200)]
    drawn = getattr(Draws(0, "pgd", images), method)((3, 20, 20), "start").double()
    count = drawn.numel()
    five_sigma = 5 / math.sqrt(count)
    assert abs(drawn.mean() - law.mean()) < five_sigma * law.std()
    fourth = law.expect(lambda x: (x - law.mean()) ** 4)
    assert abs(drawn.var() - law.var()) < five_sigma * math.sqrt(fourth - law.var() ** 2)
    assert stats.kstest(drawn.flatten().numpy(), law.cdf).pvalue > 1e-4
    # Independent images: correlations between neighbours' draws are standard normal / sqrt(n).
    flat = (drawn - drawn.mean()).flatten(1)
    correlations = (flat[1:] * flat[:-1]).mean(1) / drawn.var() * math.sqrt(flat.shape[1])
    assert stats.kstest(correlations.numpy(), stats.norm.cdf).pvalue > 1e-4


def test_whole_numbers_are_equally_likely() -> None:
    """First draws of many images: what a small choice (a block's change, a surrogate) really uses."""
    images = [f"image {number}" for number in range(4000)]
    drawn = Draws(0, "sia", images).integers(10, (1,), "change").flatten()
    assert stats.chisquare(torch.bincount(drawn, minlength=10).numpy()).pvalue > 1e-4
    orders = Draws(0, "bsr", images).permutation(3, "order")
    assert torch.equal(orders.sort(dim=1).values, torch.arange(3).expand(4000, 3))
    kinds_of_order = torch.bincount(orders[:, 0] * 3 + orders[:, 1], minlength=9)
    assert stats.chisquare(kinds_of_order[kinds_of_order > 0].numpy()).pvalue > 1e-4
    assert (kinds_of_order > 0).sum() == 6


def test_uniform_stays_below_one() -> None:
    drawn = Draws(0, "pgd", ["a"]).uniform((1_000_000,), "start")
    assert drawn.min() >= 0 and drawn.max() < 1


def test_the_key_is_pinned() -> None:
    """Tables of finished runs are extended for years: the derivation of draws from keys is part of the contract."""
    key = b"\0".join([b"11", "ü".encode(), b"pgd", b"step", b"4", b"start"])
    seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") // 2
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(uniform(11, "pgd", ("ü",), 4, "start")[0], torch.rand(SHAPE, generator=generator))
    generator.manual_seed(seed)
    assert torch.equal(permutation(11, "pgd", ("ü",), 4, "start")[0], torch.randperm(10_000, generator=generator))
