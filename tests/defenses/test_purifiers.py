"""Purifiers of a user's own package: the page's example with a denoiser trained on the spot, blind and knowing."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch import nn

from tests.attacks.test_surrogates import canvas_batch, spec_for
from tests.support.attacks import as_is, bent
from tests.support.defenses import draws_for, pictures, waves
from tests.support.packages import Package, installing
from tests.support.runs import ROOT
from transforms.attacks.engine import attack_batch
from transforms.data.outcomes import Answered
from transforms.defenses.defense import NO_DEFENSE, Defense
from transforms.defenses.differentiable import differentiable
from transforms.defenses.grid import defenses, parse
from transforms.errors import InputError
from transforms.models.answers import ask, defend_batch
from transforms.models.conditions import Conditions
from transforms.rows.attacks import attack_rows
from transforms.rows.predictions import prediction_rows

PAGE = (ROOT / "docs" / "defenses.md").read_text().partition("\n## A purifier\n")[2]
SIDE = 12


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    with installing("megalith.defenses", tmp_path, monkeypatch) as install:
        yield install


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """The page's network, on smooth pictures with Gaussian noise, for a second or two."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.SiLU(), nn.Conv2d(16, 3, 5, padding=2))
    smooth = waves(SIDE, count=16).float() / 255
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        noise = 0.1 * torch.randn(smooth.shape)
        optimiser.zero_grad()
        F.mse_loss(network(smooth + noise), noise).backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


@pytest.fixture
def denoiser(trained: nn.Module, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Defense:
    """The page's example, with the network that was trained."""
    save_file(trained.state_dict(), tmp_path / "denoiser.safetensors")
    monkeypatch.chdir(tmp_path)
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.S | re.M)
    package("my_purifiers", source, denoiser="my_purifiers:denoiser")
    return parse("denoiser:strength=1.0")


def test_the_example_of_the_page(denoiser: Defense, trained: nn.Module) -> None:
    (section,) = [YAML(typ="safe").load(each) for each in re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.S | re.M)]
    assert [each.name for each in defenses(section["defenses"])] == [
        *("denoiser:strength=0.5", "denoiser:strength=1.0", "denoiser:strength=1.0+jpeg:quality=75")
    ]
    denoiser.check(SIDE)
    clean = waves(SIDE)
    noisy = (clean + 20 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255).byte()
    found = denoiser(noisy)
    expected = (noisy / 255 - trained(noisy / 255)).clamp(0, 1) * 255
    assert found.dtype == torch.uint8 and (found - expected).abs().max() <= 0.5 + 1e-3
    assert (found - clean.float()).abs().mean() < 0.8 * (noisy - clean.float()).abs().mean()


def test_an_attack_that_knows_it_sees_the_canvas_and_follows_the_networks_gradient(
    denoiser: Defense, trained: nn.Module
) -> None:
    canvases = pictures(SIDE)
    pulled = torch.randn(canvases.shape, generator=torch.Generator().manual_seed(0))
    leaf = (canvases / 255).requires_grad_()
    shown = differentiable(denoiser)(leaf)
    assert torch.equal(shown.detach(), denoiser(canvases) / 255)
    (found,) = torch.autograd.grad((pulled * shown).sum(), leaf)
    again = (canvases / 255).requires_grad_()
    (expected,) = torch.autograd.grad((pulled * (again - trained(again))).sum(), again)
    assert torch.allclose(found, expected, atol=1e-6) and not torch.allclose(expected, pulled, atol=0.05)


def test_its_rows_blind_and_knowing(denoiser: Defense) -> None:
    """The attack that knows it turns more images behind it than the one that does not."""
    canvases, conditions, network = waves(SIDE, count=24), Conditions(0, 1.0, 8), as_is(bent())
    labels = network(canvases / 255).argmax(dim=1).tolist()
    clean = canvas_batch(canvases, labels)
    looks = {("m", "center"): network}

    def right(pixels: np.ndarray) -> int:
        batch = canvas_batch(torch.from_numpy(pixels), labels)
        (answered,) = ask(looks, denoiser, batch, conditions).values()
        assert isinstance(answered, Answered)
        return sum(row["correct"] for row in prediction_rows(batch, answered, denoiser, all_probabilities=False))

    standing = {}
    for known in (NO_DEFENSE, denoiser):
        spec = spec_for("pgd", name=known.name, defense=known, eps=4 / 255, parameters=(("steps", 5),))
        attacked = attack_batch(spec, [network], clean, conditions)
        assert {row["through"] for row in attack_rows(spec, 0, clean, attacked)} == {known.name}
        standing[known] = right(attacked.canvases)
    assert standing[denoiser] < standing[NO_DEFENSE] <= right(canvases.numpy())


COUNTING = """
import torch
from torch.utils.checkpoint import checkpoint
from megalith import Purifier

calls, sizes = [], []
weights = torch.linspace(-1, 1, 9)


def step(x, noise):
    calls.append(x.shape[0])
    return torch.sin(x + 0.1 * noise) * 0.9


def steps(x, draws, kept):
    sizes.append(len(x))
    for t in range(6):
        noise = draws.at("step", t).normal(x.shape[1:], "noise").to(x)
        x = step(x, noise) if kept else checkpoint(step, x, noise, use_reentrant=False)
    return x


def whole(canvases, draws, *, scale: float):
    return scale * steps(canvases, draws, True)


def checkpointed(canvases, draws, *, scale: float):
    return scale * steps(canvases, draws, False)


def global_noise(canvases, *, scale: float):
    return canvases + scale * torch.randn_like(canvases)


def blown_up(canvases, *, scale: float):
    return canvases / 0


def levels(canvases, *, scale: float):
    return (canvases * 255).byte()


diffusion, frugal = Purifier(whole), Purifier(checkpointed)
careless, seeded = Purifier(global_noise), Purifier(global_noise, batched=False)
broken, wrong = Purifier(blown_up), Purifier(levels)
"""
POINTS = {name: f"counting:{name}" for name in ("diffusion", "frugal", "careless", "seeded", "broken", "wrong")}


def test_checkpointed_steps_have_the_same_gradient_with_the_same_noise(package: Package) -> None:
    package("counting", COUNTING, **POINTS)
    canvases, draws = pictures(SIDE, count=3) / 255, draws_for(3)
    found, calls = [], []
    for name in ("diffusion", "frugal"):
        calls_so_far = import_module("counting").calls
        calls_so_far.clear()
        leaf = canvases.clone().requires_grad_()
        shown = differentiable(parse(f"{name}:scale=1.0,repeats=2"), draws)(leaf)
        found.append(torch.autograd.grad(shown.square().sum(), leaf)[0])
        calls.append(len(calls_so_far))
    assert torch.equal(*found)
    assert calls == [6, 12]  # once, and of checkpoints once more on the way back


def test_it_is_given_a_micro_batch_at_a_time_and_rows_do_not_depend_on_it(package: Package) -> None:
    package("counting", COUNTING, **POINTS)
    batch, defense = canvas_batch(pictures(SIDE, count=7), [0] * 7), parse("diffusion:scale=1.0,repeats=2")
    sizes = import_module("counting").sizes
    sizes.clear()
    found = defend_batch(defense, batch, 0, Conditions(3, 1.0, 4))
    assert sizes == [4, 4]
    assert torch.equal(found, defend_batch(defense, batch, 0, Conditions(3, 1.0, 3)))
    assert not torch.equal(found, defend_batch(defense, batch, 1, Conditions(3, 1.0, 4)))


def test_what_depends_on_the_batch_is_refused_and_may_be_asked_one_by_one(package: Package) -> None:
    package("counting", COUNTING, **POINTS)
    with pytest.raises(InputError, match=r"defense careless: .* depends on the others of its batch; .*batched=False"):
        parse("careless:scale=0.1").check(SIDE)
    seeded, canvases = parse("seeded:scale=0.1"), pictures(SIDE, count=3)
    seeded.check(SIDE)
    assert torch.equal(seeded(canvases)[1:], seeded(canvases[1:]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "defense broken: returned values that are not finite"),
        ("wrong", "defense wrong: returned torch.uint8 (2, 3, 12, 12), not float (2, 3, 12, 12)"),
    ],
)
def test_a_purifier_that_is_wrong(name: str, said: str, package: Package) -> None:
    package("counting", COUNTING, **POINTS)
    with pytest.raises(InputError) as caught:
        parse(f"{name}:scale=1.0")(pictures(SIDE))
    assert str(caught.value) == said
