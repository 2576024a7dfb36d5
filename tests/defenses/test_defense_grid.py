"""Defences by name: written and read, compositions, grids, and what an experiment may say."""

import pickle
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.defenses import draws_for, pictures
from transforms.defenses.codecs import jpeg
from transforms.defenses.defense import NO_DEFENSE, Defense, Filter
from transforms.defenses.filters import blur
from transforms.defenses.fourier import lowpass
from transforms.defenses.grid import defenses, grid, parse
from transforms.defenses.randomized import noise
from transforms.defenses.registry import DEFENSES, defense_names, is_random, parameter_types
from transforms.errors import InputError

JPEG = Filter("jpeg", (("quality", 75),))
BLUR = Filter("blur", (("sigma", 1.0),))


def names(section: Any) -> list[str]:
    return [each.name for each in defenses(section)]


# One defence ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    assert parse("jpeg:quality=75") == Defense((JPEG,))
    assert parse("jpeg:quality=75+blur:sigma=1") == Defense((JPEG, BLUR))
    assert parse("lowpass:cutoff=1/2").name == "lowpass:cutoff=0.5"
    assert parse("noise:repeats=3,sigma=8/255").name == f"noise:sigma={8 / 255!r},repeats=3"
    assert Defense((JPEG, BLUR)).name == "jpeg:quality=75+blur:sigma=1.0"
    assert parse("none") == NO_DEFENSE == Defense() and NO_DEFENSE.name == "none"


@given(st.floats(1e-30, 1e30), st.integers(1, 1000))
def test_every_number_comes_back(sigma: float, repeats: int) -> None:
    """Also those whose exponents are written with a plus."""
    defense = Defense((Filter("noise", (("sigma", sigma), ("repeats", repeats))), BLUR))
    assert parse(defense.name) == defense


def test_defenses_are_values() -> None:
    defense = parse("noise:sigma=0.1,repeats=2+blur:sigma=1")
    assert pickle.loads(pickle.dumps(defense)) == defense and len({defense, parse(defense.name)}) == 1  # noqa: S301


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("lowpas:cutoff=0.5", "unknown defense 'lowpas'; did you mean 'lowpass'?"),
        ("", "unknown defense ''; known: .*"),
        ("jpeg:quality=75+none", "unknown defense 'none'; .*"),
        ("jpeg", "'jpeg' needs quality, as in jpeg:quality=..."),
        ("noise:sigma=0.1", "'noise:sigma=0.1' needs repeats, as in .noise:sigma=...,repeats=...., in quotes where .*"),
        ("jpeg:qualty=75", "jpeg: unknown parameter 'qualty'; did you mean 'quality'?"),
        ("jpeg", "'jpeg' needs quality, as in jpeg:quality=..."),
        ("jpeg:quality=75,qualty=75", "jpeg: unknown parameter 'qualty'; did you mean 'quality'?"),
        ("blur:sigma=1,repeats=2", "blur: unknown parameter 'repeats'; .*"),
        ("jpeg:quality=75,quality=80", "'jpeg:quality=75,quality=80' gives a parameter twice"),
        ("jpeg:quality", "jpeg.quality: '' is not a number such as 0.03 or 8/255"),
        ("jpeg:quality=good", "jpeg.quality: 'good' is not a number such as 0.03 or 8/255"),
        ("jpeg:quality=75.5", "jpeg.quality: '75.5' is not a whole number"),
        ("noise:sigma=0.1,repeats=0", "noise:sigma=0.1,repeats=0: repeats must be at least 1, not 0"),
        (
            "noise:sigma=0.1,repeats=2+resize-pad:scale=1.1,repeats=3",
            "noise:.*: its parts are drawn together, not 2 and 3 times",
        ),
        (
            "blur:sigma=1+smoothing:sigma=0.1,samples=50,alpha=0.01",
            "blur:.*: smoothing comes first; what follows belongs to the classifier that votes",
        ),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(written: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message.replace('?', '[?]')}\Z"):
        parse(written)


# What it does --------------------------------------------------------------------------------------------------------


def test_filters_are_applied_from_left_to_right() -> None:
    canvases = pictures(16)
    expected = blur(jpeg(canvases, quality=75), sigma=1.0)
    assert torch.equal(parse("jpeg:quality=75+blur:sigma=1")(canvases), expected)
    assert not torch.equal(parse("blur:sigma=1+jpeg:quality=75")(canvases), expected)
    assert torch.equal(NO_DEFENSE(canvases), canvases)


def test_each_filter_has_draws_of_its_own() -> None:
    canvases, drawn = pictures(16), draws_for(2)
    twice = parse("noise:sigma=0.1,repeats=4+lowpass:cutoff=0.5+noise:sigma=0.2,repeats=4")
    first = lowpass(noise(canvases, drawn.at("filter", 0), sigma=0.1), cutoff=0.5)
    assert torch.equal(twice(canvases, drawn), noise(first, drawn.at("filter", 2), sigma=0.2))
    assert twice.random and twice.repeats == 4


def test_a_random_defense_without_draws_is_a_mistake_of_the_programmer() -> None:
    with pytest.raises(TypeError, match=r"noise:sigma=0.1,repeats=1 is random: it needs draws"):
        parse("blur:sigma=1+noise:sigma=0.1,repeats=1")(pictures(16))


def test_what_is_random() -> None:
    randoms = {"noise", "resize-pad", "random-crop", "pixel-deflection", "smoothing"}
    assert {name for name in DEFENSES if is_random(name)} >= randoms
    assert {name for name in DEFENSES if "repeats" in parameter_types(name)} >= randoms - {"smoothing"}
    assert not parse("blur:sigma=1").random and parse("blur:sigma=1").repeats == 1 and NO_DEFENSE.repeats == 1


def test_parameter_types() -> None:
    assert parameter_types("lowpass") == {"cutoff": float}
    assert parameter_types("jpeg") == {"quality": int}
    assert parameter_types("nlm") == {"search": int, "patch": int, "strength": float}
    assert parameter_types("noise") == {"sigma": float, "repeats": int}
    assert list(parameter_types("smoothing").items()) == [("sigma", float), ("samples", int), ("alpha", float)]
    for name in defense_names():
        assert set(parameter_types(name).values()) <= {int, float}


# Grids ---------------------------------------------------------------------------------------------------------------


def test_a_section_is_a_grid_in_the_order_written() -> None:
    section = {"jpeg": {"quality": [90, "75"]}, "lowpass": {"cutoff": [1.0, 0.9, "7/10"]}, "blur": {"sigma": 2}}
    assert names(section) == [
        "jpeg:quality=90",
        "jpeg:quality=75",
        "lowpass:cutoff=1.0",
        "lowpass:cutoff=0.9",
        "lowpass:cutoff=0.7",
        "blur:sigma=2.0",
    ]
    assert names({}) == names([]) == []


def test_every_combination_of_values() -> None:
    section = {"lowpass-butterworth": {"order": [1, 2], "cutoff": [0.5, 0.25]}}
    assert names(section) == [
        f"lowpass-butterworth:cutoff={cutoff},order={order}" for cutoff in (0.5, 0.25) for order in (1, 2)
    ]


def test_a_list_of_entries_of_any_kind() -> None:
    section = [
        "jpeg:quality=75",
        {"blur": {"sigma": [1, 2]}, "median": {"window": 3}},
        ["jpeg:quality=75", "blur:sigma=1"],
        [{"jpeg": {"quality": [50, 60]}}, "median:window=3", {"lowpass": {"cutoff": [0.5, 0.7]}}],
    ]
    assert names(section) == [
        "jpeg:quality=75",
        "blur:sigma=1.0",
        "blur:sigma=2.0",
        "median:window=3",
        "jpeg:quality=75+blur:sigma=1.0",
        *(
            f"jpeg:quality={quality}+median:window=3+lowpass:cutoff={cutoff}"
            for quality in (50, 60)
            for cutoff in (0.5, 0.7)
        ),
    ]


def test_one_entry() -> None:
    assert grid(["jpeg:quality=75", "none"], "here") == (Defense((JPEG,)),)
    assert grid("jpeg:quality=75+blur:sigma=1", "here") == grid(["jpeg:quality=75", "blur:sigma=1"], "here")


def test_a_defense_without_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def negative(canvases: Tensor) -> Tensor:
        return 255 - canvases

    monkeypatch.setitem(DEFENSES, "negative", negative)
    assert names({"negative": {}}) == names({"negative": None}) == names(["negative"]) == ["negative"]
    assert torch.equal(parse("negative+negative")(pictures(4)), pictures(4))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, r"defenses: should be a section such as {lowpass: {cutoff: \[0.7\]}}, or a list of such"),
        ("jpeg:quality=75", "defenses: should be a section .*"),
        ({"lowpas": {"cutoff": [0.5]}}, "defenses.lowpas: unknown defense 'lowpas'; did you mean 'lowpass'?"),
        ({"none": {}}, "defenses.none: unknown defense 'none'; .*"),
        ({"lowpass": {"cutof": [0.5]}}, "defenses.lowpass: unknown parameter 'cutof'; did you mean 'cutoff'?"),
        ({"lowpass": {"cutoff": 0.5, "canvases": 1}}, "defenses.lowpass: unknown parameter 'canvases'; .*"),
        ({"lowpass": {}}, "defenses.lowpass: needs 'cutoff', a value or a list of values"),
        ({"lowpass": {"cutoff": []}}, r"defenses.lowpass.cutoff: must list different values, not \[\]"),
        ({"lowpass": {"cutoff": [0.5, "1/2"]}}, "defenses.lowpass.cutoff: must list different values, not .*"),
        ({"jpeg": 75}, r"defenses.jpeg: list the values of each parameter, as in {quality: \[...\]}"),
        ({"jpeg": {"quality": [75.5]}}, "defenses.jpeg.quality: 75.5 is not a whole number"),
        ({"jpeg": {"quality": [True]}}, "defenses.jpeg.quality: True is not a number such as 0.03 or 8/255"),
        ({"noise": {"sigma": 0.1, "repeats": 0}}, "defenses: noise:.*: repeats must be at least 1, not 0"),
        (["jpeg"], "defenses.0: 'jpeg' needs quality, as in jpeg:quality=..."),
        (["jpeg:quality=75", ["blur:sigma=1", {"jpeg": {"qualty": 1}}]], "defenses.1.1.jpeg: unknown parameter .*"),
        ([["noise:sigma=0.1,repeats=1", "noise:sigma=0.1,repeats=2"]], "defenses.0: .* drawn together, .*"),
        ([75], "defenses.0: 75 is not a defence such as lowpass:cutoff=0.5"),
        (["none"], "defenses: every experiment looks at undefended canvases anyway; leave 'none' out"),
        ([[]], "defenses: every experiment looks at undefended canvases anyway; leave 'none' out"),
        (["jpeg:quality=75", {"jpeg": {"quality": "75"}}], "defenses: jpeg:quality=75 is listed twice"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(section: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        defenses(section)
    assert re.fullmatch(message.replace("?", "[?]"), str(caught.value)), str(caught.value)
