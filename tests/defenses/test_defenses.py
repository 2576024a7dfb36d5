"""What holds of every defence, and which values each refuses."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.defenses import draws_for, pictures
from transforms.defenses.defense import Defense
from transforms.defenses.grid import parse
from transforms.defenses.registry import DEFENSES
from transforms.errors import InputError

EVERY = [
    parse(each)
    for each in (
        "lowpass:cutoff=0.5",
        "lowpass:cutoff=0.77",
        "lowpass-gaussian:cutoff=0.5",
        "lowpass-butterworth:cutoff=0.5,order=2",
        "lowpass-dct:cutoff=0.5",
        "blur:sigma=1.3",
        "median:window=3",
        "bilateral:sigma_color=0.3,sigma_space=2",
        "nlm:search=7,patch=3,strength=20",
        "tvm:weight=0.1",
        "jpeg:quality=75",
        "webp:quality=75",
        "bit-depth:bits=3",
        "noise:sigma=0.1,repeats=2",
        "resize-pad:scale=1.2,repeats=2",
        "random-crop:crop=0.7,repeats=2",
        "pixel-deflection:deflections=30,window=5,sigma=0.04,repeats=2",
        "smoothing:sigma=0.25,samples=20,alpha=0.001",
        "random-crop:crop=0.7,repeats=2+jpeg:quality=75+noise:sigma=0.1,repeats=2",
    )
]
every = pytest.mark.parametrize("defense", EVERY, ids=lambda each: each.name)
ELSEWHERE = {"fovea", "fovea-saccades", "retina", "v1"}
"""Those of test_biology.py."""


def test_every_defense_is_tested_below() -> None:
    assert {each.function for defense in EVERY for each in defense.filters} == set(DEFENSES) - ELSEWHERE


@every
@pytest.mark.parametrize("side", [40, 41])
def test_a_batch_is_its_canvases_one_by_one(defense: Defense, side: int) -> None:
    """Whatever else is in it, and wherever they stand in it."""
    canvases, draws = pictures(side, count=5), draws_for(5)
    before = canvases.clone()
    batch = defense(canvases, draws)
    assert batch.dtype == torch.uint8 and batch.shape == canvases.shape and not torch.equal(batch, canvases)
    assert torch.equal(torch.cat([defense(canvases[[item]], draws.of(item)) for item in range(5)]), batch)
    assert torch.equal(canvases, before)
    assert torch.equal(defense(canvases, draws), batch)


@every
def test_of_no_canvases_there_are_none(defense: Defense) -> None:
    defended = defense(pictures(40)[:0], draws_for(0))
    assert defended.dtype == torch.uint8 and defended.shape == (0, 3, 40, 40)
    defense.check(40)


@every
def test_strides_do_not_matter(defense: Defense) -> None:
    canvases = pictures(20)
    strided = canvases.contiguous(memory_format=torch.channels_last)
    assert torch.equal(defense(strided, draws_for(2)), defense(canvases, draws_for(2)))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(EVERY), st.integers(12, 33), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_any_canvas_stays_a_canvas(defense: Defense, side: int, count: int, seed: int) -> None:
    canvases, draws = pictures(side, count, seed), draws_for(count, seed)
    defended = defense(canvases, draws)
    assert defended.dtype == torch.uint8 and defended.shape == canvases.shape
    assert torch.equal(defended, defense(canvases, draws_for(count, seed)))


@pytest.mark.parametrize("defense", [each for each in EVERY if each.random], ids=lambda each: each.name)
def test_draws_decide(defense: Defense) -> None:
    """Two images that are alike are treated differently, and so are two repeats and two seeds."""
    canvas, draws = pictures(24, count=1).expand(2, 3, 24, 24), draws_for(2)
    first = defense(canvas, draws.at("repeat", 0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, defense(canvas, draws.at("repeat", 1)))
    assert not torch.equal(first, defense(canvas, draws_for(2, seed=1).at("repeat", 0)))


KEEP_PLAINS = {
    "lowpass",
    "lowpass-gaussian",
    "lowpass-butterworth",
    "lowpass-dct",
    "blur",
    "median",
    "bilateral",
    "tvm",
    "random-crop",
    "pixel-deflection",
}
"""Others move plain colours (codecs, CIELAB, fewer bits), or put something else in their place."""


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([each for each in EVERY if {part.function for part in each.filters} <= KEEP_PLAINS]),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_a_plain_canvas_stays_as_it_is(defense: Defense, colour: tuple[int, int, int]) -> None:
    plain = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 24, 24)
    assert torch.equal(defense(plain, draws_for(1)), plain)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["jpeg:quality=90", "webp:quality=90", "nlm:search=7,patch=3,strength=4"]), st.data())
def test_a_plain_canvas_stays_nearly_as_it_is(written: str, data: st.DataObject) -> None:
    colour = data.draw(st.tuples(*[st.integers(0, 255)] * 3))
    plain = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    found = parse(written)(plain)
    assert (found.int() - plain.int()).abs().max() <= 6
    assert written.startswith("webp") or found.flatten(2).unique(dim=2).shape[2] == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("lowpass:cutoff=0", "lowpass: cutoff 0.0 is not in (0, 1]"),
        ("lowpass:cutoff=-0.5", "lowpass: cutoff -0.5 is not in (0, 1]"),
        ("lowpass:cutoff=1.001", "lowpass: cutoff 1.001 is not in (0, 1]"),
        ("lowpass-gaussian:cutoff=2", "lowpass-gaussian: cutoff 2.0 is not in (0, 1]"),
        ("lowpass-butterworth:cutoff=0,order=1", "lowpass-butterworth: cutoff 0.0 is not in (0, 1]"),
        ("lowpass-butterworth:cutoff=0.5,order=0", "lowpass-butterworth: order 0 is not at least 1"),
        ("lowpass-dct:cutoff=0", "lowpass-dct: cutoff 0.0 is not in (0, 1]"),
        ("blur:sigma=0", "blur: sigma 0.0 is not in (0, 3.875)"),
        ("blur:sigma=4", "blur: sigma 4.0 is not in (0, 3.875)"),
        ("median:window=4", "median: window 4 is not an odd number in 3–16"),
        ("median:window=1", "median: window 1 is not an odd number in 3–16"),
        ("median:window=17", "median: window 17 is not an odd number in 3–16"),
        ("bilateral:sigma_color=0,sigma_space=1", "bilateral: sigma_color 0.0 is not in (0, 1], the range of a pixel"),
        ("bilateral:sigma_color=0.1,sigma_space=8.5", "bilateral: sigma_space 8.5 is not in (0, 8.0]"),
        ("nlm:search=10,patch=3,strength=1", "nlm: search 10 is not an odd number in 3–16"),
        ("nlm:search=11,patch=19,strength=1", "nlm: patch 19 is not an odd number in 3–16"),
        ("nlm:search=11,patch=3,strength=0", "nlm: strength 0.0 is not positive"),
        ("tvm:weight=0", "tvm: weight 0.0 is not in (0, 1]"),
        ("tvm:weight=5", "tvm: weight 5.0 is not in (0, 1]"),
        ("jpeg:quality=0", "jpeg: quality 0 is not in 1–95"),
        ("jpeg:quality=96", "jpeg: quality 96 is not in 1–95"),
        ("webp:quality=-1", "webp: quality -1 is not in 0–100"),
        ("webp:quality=101", "webp: quality 101 is not in 0–100"),
        ("bit-depth:bits=0", "bit-depth: bits 0 is not in 1–8"),
        ("bit-depth:bits=9", "bit-depth: bits 9 is not in 1–8"),
        ("noise:sigma=0,repeats=1", "noise: sigma 0.0 is not in (0, 1], the range of a pixel"),
        ("noise:sigma=8,repeats=1", "noise: sigma 8.0 is not in (0, 1], the range of a pixel; did you mean 8/255?"),
        ("resize-pad:scale=1,repeats=1", "resize-pad: scale 1.0 is not in (1, 2]"),
        ("resize-pad:scale=2.1,repeats=1", "resize-pad: scale 2.1 is not in (1, 2]"),
        ("resize-pad:scale=1.01,repeats=1", "resize-pad: scale 1.01 enlarges 16 pixels by less than one"),
        ("random-crop:crop=1,repeats=1", "random-crop: crop 1.0 is not in (0, 1)"),
        ("random-crop:crop=0.01,repeats=1", "random-crop: crop 0.01 of 16 pixels is 0 pixels"),
        ("random-crop:crop=0.99,repeats=1", "random-crop: crop 0.99 of 16 pixels is 16 pixels"),
        (
            "pixel-deflection:deflections=0,window=5,sigma=1,repeats=1",
            "pixel-deflection: deflections 0 is not in 1–256, the canvas's pixels",
        ),
        ("pixel-deflection:deflections=9,window=16,sigma=1,repeats=1", "pixel-deflection: window 16 is not in 1–15"),
        (
            "pixel-deflection:deflections=9,window=5,sigma=0,repeats=1",
            "pixel-deflection: sigma 0.0 is not in (0, 1], the range of a pixel",
        ),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(written: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^{re.escape(message)}\Z"):
        parse(written)(pictures(16), draws_for(2))
    with pytest.raises(InputError, match=rf"^{re.escape(message)}\Z"):
        parse(written).check(16)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("lowpass:cutoff={}", "nan"),
        ("blur:sigma={}", "inf"),
        ("bilateral:sigma_color={},sigma_space=1", "inf"),
        ("tvm:weight={}", "nan"),
    ],
)
def test_no_parameter_is_infinite(written: str, value: str) -> None:
    """Not even where a notebook calls the function."""
    (part,) = parse(written.format("1")).filters
    values = {key: float(value) if key in written.partition("{}")[0] else each for key, each in part.parameters}
    with pytest.raises(InputError, match=value):
        DEFENSES[part.function](pictures(16), **values)


def test_the_largest_blur_is_allowed() -> None:
    """A radius of 15 of 16 pixels."""
    assert parse("blur:sigma=3.87")(pictures(16)).shape == (2, 3, 16, 16)


def test_canvases_may_be_anywhere_in_memory() -> None:
    """A view into a larger tensor is not written to."""

    def inner(canvases: Tensor) -> Tensor:
        return canvases[:, :, 4:28, 4:28]

    whole = pictures(32)
    before = whole.clone()
    for defense in EVERY:
        assert torch.equal(defense(inner(whole), draws_for(2)), defense(inner(whole).clone(), draws_for(2)))
    assert torch.equal(whole, before)
