"""Defences of a user's own package, and the page about defences."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from scipy import stats

from tests.support.defenses import draws_for, pictures
from tests.support.packages import Package, installing
from transforms.defenses.differentiable import SMOOTH, differentiable
from transforms.defenses.grid import defenses, parse
from transforms.defenses.registry import DEFENSES, defense_function, defense_names, is_random, parameter_types
from transforms.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs" / "defenses.md").read_text().partition("\n## A purifier\n")[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Installs a user's package: (module, source, **entry points)."""
    with installing("megalith.defenses", tmp_path, monkeypatch) as install:
        yield install


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.S | re.M)


# The page ------------------------------------------------------------------------------------------------------------


def test_the_table_has_every_defence_with_its_parameters_and_gradient() -> None:
    rows = {
        name: (re.findall(r"`(\w+)`", parameters), gradient)
        for name, parameters, gradient in re.findall(r"^\| `([\w-]+)` \| (.*?) \|.*\| (.*?) \|$", PAGE, flags=re.M)
    }
    assert rows.keys() == set(DEFENSES)
    for name, (parameters, gradient) in rows.items():
        assert parameters == list(parameter_types(name)), name
        assert (gradient == "identity") == (name not in SMOOTH), name


def test_the_sections_of_the_page() -> None:
    sections = [YAML(typ="safe", pure=True).load(text) for text in blocks("yaml")]
    first, compositions = (defenses(each["defenses"]) for each in sections if "defenses" in each)
    assert {"lowpass:cutoff=0.7", "nlm:search=13,patch=3,strength=4.0"} <= {each.name for each in first}
    assert len(first) == 5 + 2 + 1
    assert [each.name for each in compositions][3:] == [
        "jpeg:quality=50+blur:sigma=1.0",
        "jpeg:quality=75+blur:sigma=1.0",
        "noise:sigma=0.05,repeats=10+tvm:weight=0.05",
    ]


def test_the_page_tells_what_samples_can_certify() -> None:
    assert stats.norm.ppf(0.0005 ** (1 / 100)) == pytest.approx(1.45, abs=0.005)


def test_the_defence_of_the_page(package: Package) -> None:
    (source,) = blocks("python")
    (project,) = blocks("toml")
    points = tomllib.loads(project)["project"]["entry-points"]["megalith.defenses"]
    assert len(source.strip().splitlines()) <= 10
    package("my_defenses", source, **points)
    assert defense_names() == [*DEFENSES, "salt"]
    assert (parameter_types("salt"), is_random("salt")) == ({"share": float, "repeats": int}, True)
    assert defense_function("salt").__doc__ == "Random pixels turned black or white."
    (written,) = re.findall(r"it is `(salt:.*?)`", PAGE)
    defense, plain = parse(written), torch.full((3, 3, 64, 64), 100, dtype=torch.uint8)
    assert defense == defenses({"salt": {"share": 0.1, "repeats": 5}})[0] and defense.repeats == 5
    salted = defense(plain, draws_for(3))
    assert salted.unique().tolist() == [0, 100, 255]
    assert (salted != 100).double().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(defense(plain[1:2], draws_for(3).of(1)), salted[1:2])
    assert torch.equal(differentiable(defense, draws_for(3))(plain / 255), salted / 255)
    assert len(defenses([["salt:share=0.1,repeats=5", "jpeg:quality=75"]])) == 1


# What it is given, and what it cannot do -----------------------------------------------------------------------------

CARELESS = '''
import random
import numpy as np
import torch


def drawing(canvases, *, sigma: float):
    """Draws from whatever generators there are, and works in place."""
    assert len(canvases) == 1
    canvases += torch.randint(9, canvases.shape, dtype=torch.uint8)
    canvases += np.random.randint(int(sigma)) + random.randrange(9)
    return canvases


def keyed(canvases, draws, *, sigma: float):
    return drawing(canvases.clone(), sigma=sigma)
'''


def test_a_careless_defence_is_keyed_all_the_same(package: Package) -> None:
    package("careless", CARELESS, drawing="careless:drawing", keyed="careless:keyed")
    canvases = pictures(8, count=1).expand(3, 3, 8, 8) // 2
    before = canvases.clone(), torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    drawing, keyed = parse("drawing:sigma=7"), parse("keyed:sigma=7,repeats=2")
    assert not drawing.random and keyed.random
    plain = drawing(canvases)
    assert torch.equal(drawing(canvases), plain) and torch.equal(plain[0], plain[1])
    assert not torch.equal(plain, canvases)
    random = keyed(canvases, draws_for(3))
    assert torch.equal(random[1:2], keyed(canvases[1:2], draws_for(3).of(1)))
    assert not torch.equal(random[0], random[1])
    assert not torch.equal(random, keyed(canvases, draws_for(3).at("repeat", 1)))
    assert torch.equal(canvases, before[0]) and torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before[2])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("def f(canvases, *, by: int): return canvases.float()", "defense f: returned torch.float32 (1, 3, 4, 4), not"),
        ("def f(canvases, *, by: int): return canvases[..., 1:]", "defense f: returned torch.uint8 (1, 3, 4, 3), not"),
        ("def f(canvases, *, by: int): return None", "defense f: returned NoneType, not uint8 (1, 3, 4, 4)"),
        ("def f(canvases, *, by: int): return canvases[7]", "defense f: IndexError: index 7 is out of bounds"),
        ("def f(canvases, *, by): return canvases", "defense f: parameter by must be an int or a float, without a d"),
        ("def f(canvases, *, by: int = 1): return canvases", "defense f: parameter by must be an int or a float, wi"),
        ("def f(canvases, *, by: str): return canvases", "defense f: parameter by must be an int or a float, without"),
        ("def f(canvases, *, by: 'no'): return canvases", "defense f: NameError: name 'no' is not defined"),
        ("def f(canvases, by: int): return canvases", "defense f: f(canvases, by: int) is not of the form (canvases"),
        ("def f(canvases, draws, by): return canvases", "defense f: f(canvases, draws, by) is not of the form (canv"),
        ("def f(*canvases, by: int): return canvases", "defense f: f(*canvases, by: int) is not of the form (canvases"),
        ("def f(canvases, *, repeats: int): return canvases", "defense f: a parameter 'repeats' is what every random"),
        ("f = 3", "defense f: is not a function (canvases"),
        ("import nosuchmodule", "defense f (own:f): needs: pip install nosuchmodule"),
        ("raise ValueError('two\\nlines')", "defense f (own:f): ValueError: two lines"),
    ],
)
def test_an_own_defence_that_is_wrong(package: Package, function: str, message: str) -> None:
    package("own", f"{function}\n", f="own:f")
    with pytest.raises(InputError) as caught:
        parse("f:by=1")(pictures(4))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_names_of_own_defences(package: Package, tmp_path: Path) -> None:
    same = "def f(canvases): return 255 - canvases\n"
    package("one", same, negative="one:f", jpeg="one:f")
    assert torch.equal(parse("negative")(pictures(4)), 255 - pictures(4))
    assert parameter_types("jpeg") == {"quality": int}  # the house's own keep their names
    assert defense_names() == [*DEFENSES, "negative"]
    with pytest.raises(InputError, match=r"unknown defense 'negativ'; did you mean 'negative'[?]"):
        parse("negativ")
    package("two", same, negative="two:f")
    with pytest.raises(InputError, match=r"defense 'negative' is offered twice, by .*:f and by .*:f"):
        parse("negative")
