"""Attacks that others keep: equal to their libraries, counted truly, keyed by image, inside the budget."""

import math
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from ruamel.yaml import YAML
from torch import Tensor, nn

from pipeline.config.experiment import load_experiment
from tests.conftest import Samples
from tests.support.packages import Package, installing
from tests.support.runs import invoke, rows, run, tiny, written
from transforms.attacks.adapters import from_adv_lib
from transforms.attacks.adapters.registry import adapted, plugin_names
from transforms.attacks.balls import BALLS, Ball, L2Ball, LinfBall
from transforms.attacks.objectives import Goal, cross_entropy
from transforms.attacks.parts.bands import DctBand, leaked
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.recipes.names import RECIPES, combined, recipe
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE
from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.device import Precision
from transforms.models.views import center, look
from transforms.randomness import Draws

SIDE = 8
SIZE = 3 * SIDE**2
PAGE = (Path(__file__).parents[3] / "docs" / "plugin-attack.md").read_text()
adv_lib = from_adv_lib.library()


class Bent(nn.Module):
    """A small network with curvature, which notes what it is asked."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(16, SIZE, generator=generator) / 4)
        self.last = nn.Parameter(torch.randn(classes, 16, generator=generator))
        self.forwards = self.backwards = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.forwards += len(windows)
        logits = torch.sin(windows.flatten(1) @ self.first.T) @ self.last.T
        if logits.requires_grad:
            logits.register_hook(self._note)
        return logits

    def _note(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Linear(nn.Module):
    """Two classes: its nearest boundary is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([weight, -weight]))

    def forward(self, windows: Tensor) -> Tensor:
        return (windows - 0.5).flatten(1) @ self.weight.T


class Broken(Bent):
    """Gradients that are not numbers, for dark images."""

    def forward(self, windows: Tensor) -> Tensor:
        dark = (windows.mean(dim=(1, 2, 3)) < 0.2)[:, None]
        return super().forward(windows) + torch.where(dark, (windows - windows.detach()).flatten(1), 1)[:, :1].sqrt()


def surrogates(*networks: nn.Module, precision: Precision = "fp32") -> Surrogates:
    as_is = Preprocessing(SIDE, SIDE, "bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    return Surrogates([Classifier(each, as_is) for each in networks], center, 1.0, precision=precision)


def some_batch(images: range, *, targeted: bool = False, seed: int = 0) -> Batch:
    """The images of these numbers, each the same in any batch, with what Bent takes them for as their classes."""
    generators = [torch.Generator().manual_seed(100 + each) for each in images]
    canvases = torch.stack([torch.randint(256, (3, SIDE, SIDE), generator=each) for each in generators]).byte()
    labels = surrogates(Bent()).logits(canvases.float() / WHITE).argmax(dim=1)
    targets = (labels + 1) % 12 if targeted else None
    draws = Draws(seed, "attack", [f"image {each}" for each in images])
    return Batch(canvases, Goal(labels, targets), draws, canvases[:1], labels[:1])


def real_batch(samples: Samples, images: list[int], target: int | None = None) -> Batch:
    labels = samples.labels[images]
    targets = None if target is None else torch.full_like(labels, target)
    draws = Draws(0, "attack", [str(each) for each in images])
    return Batch(samples.canvases[images], Goal(labels, targets), draws, samples.canvases[:1], samples.labels[:1])


def seed_of(batch: Batch, image: int) -> int:
    return int(batch.draws.of(image).integers(2**31, (1,), "global generators"))


class Direct(nn.Module):
    """A classifier as a library would be given it without us."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.eval()

    def forward(self, canvases: Tensor) -> Tensor:
        return look(self.classifier, center, canvases, 0.875)


def direct(classifier: Classifier, batch: Batch, attack: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Tensor:
    """One image after the other, with the seed of each: float (B, 3, S, S)."""
    found = []
    for image in range(len(batch.canvases)):
        torch.manual_seed(seed_of(batch, image))
        canvas, label = batch.clean[image : image + 1], batch.goal.labels[image : image + 1]
        found.append(attack(Direct(classifier), canvas, label).detach())
    return torch.cat(found)


@pytest.mark.system
def test_nothing_is_imported_before_it_is_named() -> None:
    code = (
        "import sys, transforms.attacks.adapters.registry as registry; registry.plugin_names();"
        "assert not {'torchattacks', 'foolbox', 'adv_lib', 'visdom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchattacks_is_what_it_is(samples: Samples, lite0: Classifier) -> None:
    batch = real_batch(samples, [0, 3])
    plain = Surrogates([lite0], center, 0.875)
    found = adapted("torchattacks/PGD").make(LinfBall(4 / 255), steps=3)(plain, batch)

    def attack(network: nn.Module, canvas: Tensor, label: Tensor) -> Tensor:
        wrapped = torchattacks.PGD(network, eps=4 / 255, steps=3)
        wrapped.set_device(torch.device("cpu"))
        return wrapped(canvas, label)

    assert torch.equal(found.canvases, (direct(lite0, batch, attack) * 255).round().byte())
    assert found.norms is None
    assert plain.tally.forwards.tolist() == plain.tally.backwards.tolist() == [3, 3]


def test_foolbox_is_what_it_is(samples: Samples, lite0: Classifier) -> None:
    batch = real_batch(samples, [0, 3])
    found = adapted("foolbox/LinfPGD").make(LinfBall(4 / 255), steps=3)(Surrogates([lite0], center, 0.875), batch)

    def attack(network: nn.Module, canvas: Tensor, label: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        return foolbox.attacks.LinfPGD(steps=3)(model, canvas, label, epsilons=4 / 255)[1]

    assert torch.equal(found.canvases, (direct(lite0, batch, attack) * 255).round().byte())


@pytest.mark.system
def test_adv_lib_is_what_it_is(samples: Samples, lite0: Classifier) -> None:
    """A smallest perturbation is what the library found; what is stored still fools the model."""
    batch = real_batch(samples, [0, 3])
    plain = Surrogates([lite0], center, 0.875)
    found = adapted("adv-lib/fmn").make(L2Ball(2.0), steps=6)(plain, batch)
    floats = direct(lite0, batch, lambda network, canvas, label: adv_lib.fmn(network, canvas, label, norm=2, steps=6))
    assert found.norms is not None
    assert torch.equal(found.norms, torch.linalg.vector_norm(floats - batch.clean, dim=(1, 2, 3)))
    assert batch.goal.reached(plain.logits(found.canvases.float() / 255)).all()


def test_targets_are_reached_on_real_weights(samples: Samples, lite0: Classifier) -> None:
    batch = real_batch(samples, [0], target=649)
    plain = Surrogates([lite0], center, 0.875)
    found = adapted("torchattacks/MIFGSM").make(LinfBall(8 / 255), steps=6, alpha=2 / 255)(plain, batch)
    assert plain.logits(found.canvases.float() / 255).argmax(dim=1).tolist() == [649]


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("torchattacks/DeepFool", "l2"),
        ("foolbox/L2DeepFoolAttack", "l2"),
        ("foolbox/LinfDeepFoolAttack", "linf"),
        ("adv-lib/df", "l2"),
        ("adv-lib/df", "linf"),
        ("adv-lib/fab", "l1"),
        ("torchattacks/FAB", "linf"),
    ],
)
def test_the_nearest_boundary_of_a_linear_model(name: str, norm: str) -> None:
    """It is |margin| / (dual norm of its gradient) away; the algorithms overshoot by 2 % (FAB by 5 %)."""
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    canvases = torch.randint(100, 156, (3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    plain = surrogates(Linear(weight))
    logits = plain.logits(canvases.float() / WHITE)
    batch = Batch(canvases, Goal(logits.argmax(dim=1)), Draws(0, "attack", list("abc")), canvases, canvases[:, 0, 0, 0])
    dual = {"linf": 1, "l2": 2, "l1": math.inf}[norm]
    distances = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(2 * weight, ord=dual)
    found = adapted(name).make(BALLS[norm](2 * float(distances.max())))(plain, batch)
    assert found.norms is not None
    assert (found.norms >= 0.999 * distances).all()
    assert (found.norms <= 1.06 * distances + 1e-4).all()
    assert batch.goal.reached(plain.logits(found.canvases.float() / WHITE)).all()
    near = adapted(name).make(BALLS[norm](float(distances.min()) / 2))(plain, batch)
    assert not batch.goal.reached(plain.logits(near.canvases.float() / WHITE)).any()
    assert near.norms is not None and found.norms is not None
    assert near.norms.isinf().all() if name == "torchattacks/FAB" else torch.allclose(near.norms, found.norms)


@pytest.mark.parametrize("name", ["torchattacks/FAB", "torchattacks/Square", "foolbox/PGD", "adv-lib/apgd"])
def test_targets_of_a_linear_model(name: str) -> None:
    """Of four classes, the wanted one is not the nearest wrong one."""
    weights = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(0))

    class Four(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return (windows - 0.5).flatten(1) @ weights.T

    plain, canvases = surrogates(Four()), torch.full((2, 3, SIDE, SIDE), 128).byte()
    canvases[:, 0] += torch.randint(30, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(3)).byte()
    ordered = plain.logits(canvases.float() / WHITE).argsort(dim=1, descending=True)
    goal = Goal(ordered[:, 0], ordered[:, 2])
    batch = Batch(canvases, goal, Draws(0, "attack", list("ab")), canvases, goal.labels)
    found = adapted(name).make(LinfBall(0.3))(plain, batch)
    assert goal.reached(plain.logits(found.canvases.float() / WHITE)).all()


MANY: list[tuple[str, str, dict[str, Any]]] = [
    ("torchattacks/PGD", "linf", {}),
    ("torchattacks/PGDRS", "linf", {"steps": 3, "noise_batch_size": 4}),
    ("torchattacks/SPSA", "linf", {"nb_sample": 8}),
    ("torchattacks/VMIFGSM", "linf", {"steps": 3}),
    ("torchattacks/APGD", "l2", {}),
    ("torchattacks/FAB", "linf", {"n_restarts": 2, "steps": 4}),
    ("torchattacks/Square", "l2", {"n_queries": 30}),
    ("torchattacks/EADL1", "l1", {"binary_search_steps": 2, "max_iterations": 10}),
    ("foolbox/L1PGD", "l1", {"steps": 5}),
    ("foolbox/L2RepeatedAdditiveGaussianNoiseAttack", "l2", {"repeats": 5}),
    ("foolbox/HopSkipJumpAttack", "linf", {"steps": 3, "max_gradient_eval_steps": 100}),
    ("foolbox/L2FMNAttack", "l2", {"steps": 10}),
    ("adv-lib/apgd", "l1", {"n_iter": 10}),
    ("adv-lib/pgd_linf", "linf", {"steps": 5, "restarts": 2}),
    ("adv-lib/alma", "l2", {"num_steps": 20}),
    ("adv-lib/fmn", "linf", {}),
    ("adv-lib/sdf", "l2", {"steps": 5}),
]
EPS = {"linf": 20 / 255, "l2": 1.0, "l1": 10.0}
many = pytest.mark.parametrize(("name", "norm", "parameters"), MANY, ids=[f"{name} {norm}" for name, norm, _ in MANY])


@pytest.mark.system
@many
def test_rows_depend_on_the_image_alone(name: str, norm: str, parameters: dict[str, Any]) -> None:
    """Not on batch mates, nor on who drew random numbers before; and what was drawn there goes on undisturbed."""
    attack = adapted(name).make(BALLS[norm](EPS[norm]), **parameters)
    plain = surrogates(Bent())
    found = attack(plain, some_batch(range(8)))
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    pieces, tallies = [], []
    for images in (range(1), range(1, 4), range(4, 8)):
        other = surrogates(Bent())
        pieces.append(attack(other, some_batch(images)))
        tallies.append(other.tally)
    after = torch.rand(1), np.random.random(), random.random()  # noqa: S311
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert after == (torch.rand(1), np.random.random(), random.random())  # noqa: S311
    assert torch.equal(found.canvases, torch.cat([each.canvases for each in pieces]))
    if found.norms is not None:
        assert torch.equal(found.norms, torch.cat([each.norms for each in pieces if each.norms is not None]))
    for counted in ("forwards", "backwards"):
        whole = getattr(plain.tally, counted).tolist()
        assert whole == torch.cat([getattr(each, counted) for each in tallies]).tolist()


@many
def test_budget_and_counts(name: str, norm: str, parameters: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    network = Bent()
    plain, batch = surrogates(network), some_batch(range(3))
    attack = adapted(name).make(BALLS[norm](EPS[norm]), **parameters)
    found = attack(plain, batch)
    assert found.canvases.dtype == torch.uint8
    change = (found.canvases.long() - batch.canvases.long()).flatten(1)
    size = {"linf": change.abs().amax(1), "l2": (change**2).sum(1).sqrt(), "l1": change.abs().sum(1)}[norm]
    assert (size <= EPS[norm] * WHITE + 1e-6).all()
    assert (found.norms is not None) == (adapted(name).kind == "minimal-norm")
    assert (int(plain.tally.forwards.sum()), int(plain.tally.backwards.sum())) == (network.forwards, network.backwards)
    assert plain.tally.forwards.min() > 0
    assert plain.tally.finite is not None and plain.tally.finite.all()
    assert capfd.readouterr().out == ""


@many
def test_who_follows_gradients(name: str, norm: str, parameters: dict[str, Any]) -> None:
    plain = surrogates(Bent())
    adapted(name).make(BALLS[norm](EPS[norm]), **parameters)(plain, some_batch(range(2)))
    assert adapted(name).gradients == bool((torch.as_tensor(plain.tally.backwards) > 0).any())


@pytest.mark.parametrize("name", ["torchattacks/CW", "torchattacks/DeepFool", "foolbox/L2FMNAttack", "adv-lib/ddn"])
def test_the_smallest_perturbation_of_an_image_that_is_wrong_is_none(name: str) -> None:
    """As the house's own drivers say it, after one look."""
    plain, batch = surrogates(Bent()), some_batch(range(2))
    wrong = Batch(batch.canvases, Goal((batch.goal.labels + 1) % 12), batch.draws, batch.pool, batch.pool_labels)
    found = adapted(name).make(L2Ball(1.0))(plain, wrong)
    assert found.norms is not None and found.norms.tolist() == [0, 0]
    assert torch.equal(found.canvases, batch.canvases)
    assert torch.as_tensor(plain.tally.forwards).tolist() == [1, 1]


def test_passes_of_every_surrogate_count() -> None:
    both = surrogates(Bent(), Bent())
    adapted("torchattacks/PGD").make(LinfBall(0.1), steps=10)(both, some_batch(range(2)))
    assert both.tally.forwards.tolist() == both.tally.backwards.tolist() == [20, 20]


def test_randomness_is_keyed() -> None:
    """By image and by the experiment's seed, though some libraries seed torch with a number of their own."""
    batch = some_batch(range(1))
    twice = Batch(
        batch.canvases.repeat(2, 1, 1, 1),
        Goal(batch.goal.labels.repeat(2)),
        Draws(0, "attack", ["image 0", "image 1"]),
        batch.pool,
        batch.pool_labels,
    )
    for name, parameters in {"torchattacks/Square": {"n_queries": 30}, "foolbox/LinfPGD": {"steps": 1}}.items():
        attack = adapted(name).make(LinfBall(0.2), **parameters)
        first, second = attack(surrogates(Bent()), twice).canvases
        assert not torch.equal(first, second)
        assert not torch.equal(first, attack(surrogates(Bent()), some_batch(range(1), seed=1)).canvases[0])
        assert torch.equal(first, attack(surrogates(Bent()), batch).canvases[0])


def test_threads_do_not_share_randomness() -> None:
    """A runner may attack two chunks at once in one process, and torch has one generator."""
    attack = adapted("foolbox/LinfPGD").make(LinfBall(0.02), steps=20)
    batches = [some_batch(range(start, start + 4)) for start in (0, 4, 8)]
    alone = [attack(surrogates(Bent()), each).canvases for each in batches]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda each: attack(surrogates(Bent()), each).canvases, batches))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_an_image_that_fills_up_a_batch_is_attacked_once() -> None:
    three, network = some_batch(range(3)), Bent()
    filled = Batch(
        three.canvases[[0, 1, 2, 2, 2]],
        Goal(three.goal.labels[[0, 1, 2, 2, 2]]),
        Draws(0, "attack", [f"image {each}" for each in (0, 1, 2, 2, 2)]),
        three.pool,
        three.pool_labels,
    )
    attack, plain = adapted("foolbox/L2FMNAttack").make(L2Ball(1.0), steps=5), surrogates(network)
    found, expected = attack(plain, filled), attack(surrogates(Bent()), three)
    assert torch.equal(found.canvases, expected.canvases[[0, 1, 2, 2, 2]])
    assert found.norms is not None
    assert expected.norms is not None
    assert torch.equal(found.norms, expected.norms[[0, 1, 2, 2, 2]])
    counted = plain.tally.forwards.tolist()
    assert counted[2] == counted[3] == counted[4] > 0
    assert network.forwards == sum(counted[:3])


def test_only_active_images_are_attacked() -> None:
    plain, batch = surrogates(Bent()), some_batch(range(3))
    found = adapted("torchattacks/PGD").make(LinfBall(0.1))(plain.counting(torch.tensor([True, False, True])), batch)
    assert plain.tally.forwards.tolist() == [10, 0, 10]
    assert torch.equal(found.canvases[1], batch.canvases[1])


def test_gradients_that_are_not_finite_are_told() -> None:
    plain, batch = surrogates(Broken()), some_batch(range(3))
    batch.canvases[1] = 3
    adapted("torchattacks/PGD").make(LinfBall(0.02))(plain, batch)
    assert plain.tally.finite is not None
    assert plain.tally.finite.tolist() == [True, False, True]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_library_sees_the_gradient_of_the_house(precision: Precision) -> None:
    """Also where it is so small that fp16 would lose it."""
    plain, batch = surrogates(Bent(), precision=precision), some_batch(range(3))
    canvases = batch.clean.requires_grad_()
    loss = 1e-3 * cross_entropy(plain.differentiable_logits(canvases), batch.goal)
    (gradient,) = torch.autograd.grad(loss.sum(), canvases)
    slope = plain.slope(batch.clean, lambda logits, goal: 1e-3 * cross_entropy(logits, goal), batch.goal)
    assert gradient.abs().max() > 0
    assert torch.allclose(gradient, slope.gradient, rtol=2e-2, atol=1e-8)
    assert plain.tally.forwards.tolist() == plain.tally.backwards.tolist() == [2, 2, 2]
    with torch.no_grad():
        assert torch.equal(plain.differentiable_logits(canvases), surrogates(Bent()).logits(batch.clean))


def test_parameters_follow_from_the_library() -> None:
    pgd = adapted("torchattacks/PGD").parameters
    assert pgd == {"alpha": (float, 2 / 255), "steps": (int, 10), "random_start": (bool, True)}
    assert adapted("torchattacks/CW").parameters["c"] == (float, 1.0)
    assert adapted("foolbox/L2DeepFoolAttack").parameters["loss"] == (str, "logits")
    assert adapted("adv-lib/fmn").parameters["alpha_init"] == (float, 1.0)
    for name, _, parameters in MANY:
        recipe = adapted(name)
        assert parameters.keys() <= recipe.parameters.keys()
        assert not {"eps", "epsilon", "epsilons", "norm", "seed", "verbose", "targeted"} & recipe.parameters.keys()
        assert all(type(default) is kind for kind, default in recipe.parameters.values())
        assert set(get_type_hints(recipe.chain[0])) >= set(recipe.parameters)


@pytest.mark.parametrize(
    ("name", "kind", "norms", "goals"),
    [
        ("torchattacks/FGSM", "other", ("linf",), "any"),
        ("torchattacks/DeepFool", "minimal-norm", ("l2",), "untargeted"),
        ("torchattacks/AutoAttack", "other", ("linf", "l2"), "untargeted"),
        ("foolbox/LinfFastGradientAttack", "other", ("linf",), "untargeted"),
        ("foolbox/L2FMNAttack", "minimal-norm", ("l2",), "any"),
        ("foolbox/GenAttack", "other", ("linf",), "targeted"),
        ("foolbox/HopSkipJumpAttack", "minimal-norm", ("linf", "l2"), "any"),
        ("foolbox/LinfDeepFoolAttack", "minimal-norm", ("linf",), "untargeted"),
        ("adv-lib/alma", "minimal-norm", ("l2", "l1"), "any"),
        ("adv-lib/df", "minimal-norm", ("linf", "l2"), "untargeted"),
        ("adv-lib/apgd", "other", ("linf", "l2", "l1"), "any"),
    ],
)
def test_what_is_known_of_an_attack(name: str, kind: str, norms: tuple[str, ...], goals: str) -> None:
    recipe = adapted(name)
    assert (recipe.kind, set(recipe.norms), recipe.goals) == (kind, set(norms), goals)


def test_cost_is_estimated_from_the_parameters() -> None:
    """One gradient per step, restart and constant; a smallest perturbation is judged and stored besides."""
    assert adapted("adv-lib/pgd_linf").make(LinfBall(0.1), steps=5, restarts=2).cost(3) == (30, 30)
    assert adapted("torchattacks/EADL1").make(BALLS["l1"](1.0), max_iterations=10).cost(1)[1] == 90
    assert adapted("adv-lib/fmn").make(L2Ball(1.0), steps=7).cost(1)[1] == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchattacks/FABT", "unknown attack of torchattacks 'FABT'; did you mean 'FAB'?"),
        ("torchattack/FAB", "unknown library of attacks 'torchattack'; did you mean 'torchattacks'?"),
        ("foolbox/LinfFastGradient", "unknown attack of foolbox .*; did you mean 'LinfFastGradientAttack'"),
        ("adv-lib/almma", "unknown attack of adv-lib 'almma'; did you mean 'alma'?"),
        ("adv-lib/perc_al", "attack adv-lib/perc_al: bounds no norm; an attack here bounds one of linf, l2, l1"),
        ("no-such-attack", "unknown attack of an installed package 'no-such-attack'"),
    ],
)
def test_names_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        adapted(name)
    assert "\n" not in str(caught.value)


def test_recipes_of_the_house_and_of_the_user_are_suggested(package: Package) -> None:
    with pytest.raises(InputError, match="did you mean 'mi-fgsm'"):
        recipe("mi-fgms")
    package("my_attacks", _blocks("python")[0], scattered="my_attacks:scattered")
    with pytest.raises(InputError, match="did you mean 'scattered'"):
        recipe("scatered")


@pytest.mark.system
def test_the_experiments_of_the_page(package: Package, tmp_path: Path) -> None:
    """An own attack goes through the whole pipeline; attacks of libraries are at least accepted."""
    package("my_attacks", _blocks("python")[0], scattered="my_attacks:scattered")
    own, libraries = (YAML(typ="safe", pure=True).load(text)["attacks"] for text in _blocks("yaml"))
    assert len(load_experiment(str(written(tmp_path, tiny(attacks=libraries)))).specs) == 3
    changed = tiny(attacks={"mine": {**own["mine"], "steps": 2}}, defenses={})
    run(written(tmp_path, changed), tmp_path / "run")
    made = rows(tmp_path / "run", "attacks")
    assert [(row["recipe"], row["forwards"], row["backwards"], row["objective"]) for row in made] == [
        ("scattered", 2, 2, None)
    ] * 3
    assert all(0 < row["linf"] <= 4 / 255 for row in made)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (
            {"recipe": "foolbox/LinfPGD", "surrogates": ["lite0", "lite1"], "fuse": "losses"},
            "foolbox/LinfPGD fuses by logits or probabilities, not by losses",
        ),
        ({"recipe": "foolbox/L2PGD", "surrogates": ["lite0"]}, "norm: foolbox/L2PGD bounds l2, not linf"),
        ({"recipe": "clashing", "surrogates": ["lite0"]}, "clashing calls a parameter 'norm', which is a key of every"),
    ],
)
def test_what_an_experiment_refuses_of_other_peoples_attacks(
    attack: dict[str, Any], said: str, package: Package, tmp_path: Path
) -> None:
    clashing = "def attack(surrogates, batch, ball, *, norm: str = 'l2'):\n    return batch.clean\n"
    package("clashing", clashing, clashing="clashing:attack")
    with pytest.raises(InputError, match=said):
        load_experiment(str(written(tmp_path, tiny(attacks={"theirs": {**attack, "eps": "4/255"}}))))


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("torchattacks", "torchattacks/TIFGSM", "attacks of torchattacks need: pip install torchattacks"),
        ("foolbox", "foolbox/EADAttack", "attacks of foolbox need: pip install foolbox"),
        ("adv_lib.attacks", "adv-lib/vfga", "attacks of adv-lib need: pip install --no-deps adv-lib"),
    ],
)
def test_a_library_that_is_missing(module: str, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=message):
        adapted(name)


def test_errors_of_a_library_are_one_line() -> None:
    attack = adapted("torchattacks/APGD").make(LinfBall(0.1), loss="no such loss")
    with pytest.raises(InputError, match=r"^attack torchattacks/APGD: \w+") as caught:
        attack(surrogates(Bent()), some_batch(range(1)))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="norm: l2 is not bounded by torchattacks/PGD; it bounds linf"):
        adapted("torchattacks/PGD").make(L2Ball(1.0))
    with pytest.raises(InputError, match="attack foolbox/EADAttack: ValueError: invalid decision rule"):
        adapted("foolbox/EADAttack").make(BALLS["l1"](1.0), decision_rule="L7")


def test_a_full_accelerator_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever called tries again with fewer images."""
    plain = surrogates(Bent())

    def full(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(plain, "differentiable_logits", full)
    with pytest.raises(torch.OutOfMemoryError):
        adapted("torchattacks/PGD").make(LinfBall(0.1))(plain, some_batch(range(1)))
    assert int(plain.tally.forwards) == int(plain.tally.backwards) == 0


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Installs a user's package: (module, source, **entry points)."""
    with installing("megalith.attacks", tmp_path, monkeypatch) as install:
        yield install


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.S | re.M)


@pytest.mark.system
def test_the_page_about_own_attacks(package: Package) -> None:
    source, tested = _blocks("python")
    (project,) = _blocks("toml")
    points = tomllib.loads(project)["project"]["entry-points"]["megalith.attacks"]
    body = source.partition("\n\n\n")[2]
    assert len(body.strip().splitlines()) <= 10
    package("my_attacks", source, **points)
    package("broken", "import no_such_module", broken="broken:attack")
    assert {"scattered", "broken"} <= set(plugin_names())
    listed = invoke("list", "attacks").stdout
    assert "scattered" in listed and "no_such_module" in listed
    recipe = adapted("scattered")
    assert recipe.parameters == {"steps": (int, 10), "share": (float, 0.5)}
    torch.manual_seed(0)
    exec(compile(tested, "plugin-attack.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("norm", BALLS)
def test_an_own_attack_depends_on_the_image_alone(package: Package, norm: str) -> None:
    package("my_attacks", _blocks("python")[0], scattered="my_attacks:scattered")
    attack = adapted("scattered").make(BALLS[norm](EPS[norm]), steps=4)
    plain = surrogates(Bent())
    found = attack(plain, some_batch(range(8))).canvases
    single = torch.cat([attack(surrogates(Bent()), some_batch(range(each, each + 1))).canvases for each in range(8)])
    assert torch.equal(found, single)
    assert plain.tally.forwards.tolist() == plain.tally.backwards.tolist() == [4] * 8
    assert attack.steps == 4
    assert attack.cost(2) == (8, 8)


WILD = """
import random
import numpy as np
import torch
def far(surrogates, batch, ball, *, scale: float = 100.0):
    return batch.clean + scale * torch.randn_like(batch.clean)
def noise(surrogates, batch, ball):
    drawn = np.random.normal(size=batch.clean.shape) + random.random() + torch.randn(batch.clean.shape).numpy()
    return batch.clean + torch.from_numpy(drawn)
def copies(surrogates, batch, ball):
    surrogates.logits(batch.clean.repeat(5, 1, 1, 1))
    return batch.clean
def nothing(surrogates, batch, ball):
    return batch.clean * torch.nan
def integers(surrogates, batch, ball):
    return batch.canvases
def small(surrogates, batch, ball):
    return batch.clean[..., 1:]
def crash(surrogates, batch, ball):
    return batch.clean @ torch.ones(5)
def bare(surrogates, batch, ball, *, steps):
    return batch.clean
def short(surrogates):
    return None
"""


def test_any_generator_is_keyed(package: Package) -> None:
    package("wild", WILD, noise="wild:noise")
    attack = adapted("noise").make(LinfBall(0.5))
    found = attack(surrogates(Bent()), some_batch(range(2))).canvases
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert torch.equal(found[1:], attack(surrogates(Bent()), some_batch(range(1, 2))).canvases)
    assert not torch.equal(found[1:], attack(surrogates(Bent()), some_batch(range(1, 2), seed=1)).canvases)


def test_an_own_attack_cannot_leave_the_budget(package: Package) -> None:
    package("wild", WILD, far="wild:far", copies="wild:copies", nothing="wild:nothing")
    batch = some_batch(range(3))
    for norm, ball in BALLS.items():
        change = adapted("far").make(ball(EPS[norm]))(surrogates(Bent()), batch).canvases.long() - batch.canvases.long()
        size = {"linf": change.abs().amax((1, 2, 3)), "l1": change.abs().sum((1, 2, 3))}
        size["l2"] = (change**2).sum((1, 2, 3)).sqrt()
        assert (size[norm] <= EPS[norm] * WHITE + 1e-6).all()
        assert (size[norm] > 0.9 * EPS[norm] * WHITE).all()
    plain = surrogates(Bent())
    adapted("copies").make(LinfBall(0.1))(plain, batch)
    assert plain.tally.forwards.tolist() == [5, 5, 5]
    found = adapted("nothing").make(LinfBall(0.1))(plain, batch)
    assert torch.equal(found.canvases, batch.canvases)
    assert plain.tally.finite is not None and not plain.tally.finite.any()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("integers", "attack mine: returned torch.uint8, not floats"),
        ("small", r"attack mine: returned \(1, 3, 8, 7\), not canvases \(1, 3, 8, 8\)"),
        ("crash", "attack mine: RuntimeError: "),
        ("bare", "attack mine: parameter steps needs a type and a default"),
        ("short", r"attack mine: short\(surrogates\) is not of the form \(surrogates, batch, ball"),
        ("no_such", r"attack mine \(wild:no_such\): AttributeError"),
        ("__name__", "attack mine: wild:__name__ is neither a function nor a Recipe"),
    ],
)
def test_an_own_attack_that_is_wrong(package: Package, function: str, message: str) -> None:
    package("wild", WILD, mine=f"wild:{function}")
    with pytest.raises(InputError, match=message) as caught:
        adapted("mine").make(LinfBall(0.1))(surrogates(Bent()), some_batch(range(2)))
    assert "\n" not in str(caught.value)


def test_an_own_package_that_needs_another(package: Package) -> None:
    package("needy", "import no_such_package", mine="needy:attack")
    with pytest.raises(InputError, match=r"attack mine \(needy:attack\): needs: pip install no_such_package"):
        adapted("mine")


def test_a_name_offered_twice(package: Package) -> None:
    package("one", WILD, mine="one:far")
    package("two", WILD, mine="two:far")
    with pytest.raises(InputError, match=r"attack 'mine' is offered twice, by (one|two):far and by (one|two):far"):
        adapted("mine")


class _Everything(BaseAttack):
    """Changes all that there is."""

    steps = 7

    def cost(self, models: int) -> tuple[int, int]:
        return models, 0

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        return Found(255 - batch.canvases)


def _everything(ball: Ball, *, depth: int = 2) -> _Everything:
    return _Everything()


def test_an_own_recipe_keeps_what_it_says_and_not_more_than_the_budget(package: Package) -> None:
    package("whole", "", mine="whole:recipe")
    module = import_module("whole")
    module.recipe = Recipe("mine", [_everything], norms=("linf",), goals="targeted", defaults={"depth": 3})  # type: ignore[attr-defined]
    recipe, batch = adapted("mine"), some_batch(range(3), targeted=True)
    assert (recipe.parameters, recipe.norms, recipe.goals) == ({"depth": (int, 3)}, ("linf",), "targeted")
    attack = recipe.make(LinfBall(2 / 255), depth=4)
    assert (attack.steps, attack.cost(2)) == (7, (2, 0))
    changed = (attack(surrogates(Bent()), batch).canvases.int() - batch.canvases.int()).abs()
    assert changed.max() == 2


def test_an_own_recipe_that_makes_no_attack(package: Package) -> None:
    package("whole", "", mine="whole:recipe")
    import_module("whole").recipe = Recipe("mine", [lambda ball: "nothing"])  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"\Aattack mine: a str is no Attack; derive it from protocol.BaseAttack\Z"):
        adapted("mine").make(LinfBall(0.1))


MINGLING = """
def mingled(surrogates, batch, ball):
    return batch.clean + ball.eps * (2 * batch.pool.float().mean(dim=0) / 255 - 1)
"""


@pytest.mark.system
def test_the_pool_of_an_own_attack_is_the_experiments(package: Package, tmp_path: Path) -> None:
    """Whatever the chunk, of a function and of a recipe."""
    package("mingling", MINGLING, mingled="mingling:mingled", mixed="mingling:recipe")
    import_module("mingling").recipe = combined("mi", "admix")  # type: ignore[attr-defined]
    lite0 = {"surrogates": ["lite0"], "eps": "4/255"}
    few = {"steps": 1, "scales": 2, "mixed_images": 1}
    attacks = {"function": {**lite0, "recipe": "mingled"}, "recipe": {**lite0, "recipe": "mixed", **few}}
    found = []
    for size in (1, 3):
        experiment, output = (
            written(tmp_path, tiny(attacks=attacks, defenses={}, chunk_size=size)),
            tmp_path / str(size),
        )
        run(experiment, output)
        made = [(row["attack"], row["image_id"], row["l2"]) for row in rows(output, "attacks")]
        # Behind another size of micro-batches the last bits of a gradient differ, and with them a few values.
        found.append(
            {each[:2]: each[2] if each[0] == "function" else pytest.approx(each[2], rel=0.01) for each in made}
        )
    assert found[0] == found[1] and len(found[0]) == 6
    assert [spec.mixes for spec in load_experiment(str(experiment)).specs] == [False, True]


def test_an_own_recipe_that_draws_is_drawn_as_often_as_it_says(package: Package, tmp_path: Path) -> None:
    package("whole", "", averaging="whole:recipe")
    import_module("whole").recipe = combined("mi", "di")  # type: ignore[attr-defined]
    attack = {"recipe": "averaging", "surrogates": ["lite0"], "eps": "4/255", "eot": 4, "adaptive": True}
    experiment = load_experiment(str(written(tmp_path, tiny(attacks={"a": attack}))))
    assert [dict(spec.parameters)["eot"] for spec in experiment.specs] == [4, 4]
    with pytest.raises(InputError, match=r"attacks.a@?\S*: resize_rate: 1.001 does not enlarge a canvas of 224 pixels"):
        load_experiment(str(written(tmp_path, tiny(attacks={"a": {**attack, "resize_rate": 1.001}}))))


def test_an_own_recipe_may_be_a_cascade_or_band_limited(package: Package) -> None:
    package("whole", "", cascade="whole:cascade", limited="whole:limited")
    module = import_module("whole")
    module.cascade, module.limited = RECIPES["autoattack"], combined("mi", "lf")  # type: ignore[attr-defined]
    theirs = adapted("cascade").make(LinfBall(0.1), steps=3, queries=5)
    stages = theirs.stages
    assert [each.steps for each in stages] == [3, 3, 3, 5]
    assert all(each.stages == (each,) for each in stages)
    limited = adapted("limited").make(LinfBall(0.1), cutoff=0.25)
    assert limited.stages == (limited,)
    clean, adversarial = some_batch(range(2)).canvases
    share = leaked(DctBand(0.25), (adversarial.double() - clean)[None]).item()
    assert theirs.columns(clean.numpy(), adversarial.numpy()) == {}
    assert limited.columns(clean.numpy(), adversarial.numpy()) == {"out_of_band": share} and 0.1 < share < 1
    with pytest.raises(InputError, match=r"cutoff: 0\.996 keeps every frequency of a canvas of 224 pixels"):
        adapted("limited").make(LinfBall(0.1), cutoff=0.996).check(224)
