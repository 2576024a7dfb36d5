"""The attack loop: linear models whose best perturbation is known, and what holds for every recipe of the loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import Samples
from tests.support.attacks import (
    EPS,
    PATHS,
    POOL,
    POOL_LABELS,
    QUICK,
    SHAPE,
    SIDE,
    Counted,
    Sums,
    Table,
    Watched,
    as_is,
    batch_of,
    bent,
    differences,
    for_recipe,
    found_by,
    furthest,
    iterate,
    make,
    quick,
    recording,
    slope_weights,
    some_canvases,
    spent,
    surrogates,
)
from transforms.attacks.balls import BALLS, Ball, LinfBall
from transforms.attacks.engine import attack_batch
from transforms.attacks.loop import AttackLoop
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.protocol import Attack
from transforms.attacks.recipes.names import RECIPES, recipe, with_changing
from transforms.attacks.spec import AttackSpec
from transforms.attacks.surrogates import FUSIONS, Surrogates
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.views import ten_crop
from transforms.randomness import Draws
from transforms.spectrum import cosines


def is_loop(name: str) -> bool:
    return isinstance(make(name, next(iter(recipe(name).norms), "")), AttackLoop)


MADE_HERE = [name for name in [*RECIPES, *PATHS] if recipe(name).kind != "pictures" and not recipe(name).asks]
LOOPS = [name for name in MADE_HERE if is_loop(name)]
IN_NORMS = [(name, norm) for name in LOOPS for norm in recipe(name).norms]
RANDOM = [name for name in LOOPS if make(name)._random]  # type: ignore[attr-defined]
loops = pytest.mark.parametrize("name", LOOPS)
LONG = [name for name in LOOPS if name != "fgsm"]
"""Of more than one step."""
in_norms = pytest.mark.parametrize(("name", "norm"), IN_NORMS)


def targets_for(name: str, count: int) -> list[int] | None:
    return [(each + 1) % 4 for each in range(count)] if recipe(name).goals == "targeted" else None


def labels_for(count: int) -> list[int]:
    return [each % 4 for each in range(count)]


# Linear models -------------------------------------------------------------------------------------------------------

LINEAR: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "bim": {"steps": 7},
    "pgd": {"steps": 7},
    "pgd from the image": {"steps": 7, "random_start": False},
    "pgd restarted": {"steps": 7, "restarts": 3},
    "pgd, the best": {"steps": 7, "keep": "best"},
    "mi-fgsm": {"steps": 7},
    "mi-fgsm, decay 0.5": {"steps": 7, "decay": 0.5},
    "mi-fgsm from anywhere": {"steps": 7, "random_start": True, "alpha": 60 / 255},
    "ni-fgsm": {"steps": 7},
    "gi-fgsm": {"steps": 7},
    "vmi-fgsm": {"steps": 4, "neighbors": 2},
    "vni-fgsm": {"steps": 4, "neighbors": 2},
    "emi-fgsm": {"steps": 4, "samples": 3},
    "pgn": {"steps": 4, "neighbors": 2},
    "mef": {"steps": 4, "neighbors": 2},
    "gra": {"steps": 7, "neighbors": 2},
    "pc-i-fgsm": {"steps": 7},
    "pc-mi-fgsm": {"steps": 7},
    "si-fgsm": {"steps": 7},
    "svre": {"steps": 4},
    "bim-ssa": {"steps": 4, "spectra": 2},
}
goals = pytest.mark.parametrize(
    ("targets", "towards"), [(None, [1, 0, 1, 0]), ([1, 0, 0, 1], [1, 0, 0, 1])], ids=["untargeted", "targeted"]
)


def on_a_linear_model(case: str, ball: Ball, canvases: Tensor, targets: list[int] | None) -> tuple[Tensor, np.ndarray]:
    """What the case's recipe finds between two classes, and the difference of their weights, in favour of class 1."""
    name, weight = case.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0], slope_weights(2)
    models = [Sums(weight)] * recipe(name).models
    attack = recipe(name).make(ball, **LINEAR[case])
    found = found_by(attack, surrogates(*models), batch_of(canvases, [0, 1, 0, 1], targets))
    return found, weight[1] - weight[0]


@pytest.mark.parametrize("case", list(LINEAR))
@goals
@pytest.mark.parametrize("k", [1, 4, 60])
def test_linf_optimum_of_a_linear_model(case: str, targets: list[int] | None, towards: list[int], k: int) -> None:
    """Of two classes, every value goes k levels towards the weight of the wanted one, or as far as there is room."""
    canvases = some_canvases(4)
    found, difference = on_a_linear_model(case, LinfBall(k / 255), canvases, targets)
    uphill = np.stack([np.sign(difference) * (1 if wanted else -1) for wanted in towards])
    clean = canvases.flatten(1).numpy().astype(int)
    assert np.array_equal(differences(found, canvases), np.clip(clean + k * uphill, 0, 255).astype(int) - clean)


@pytest.mark.parametrize("case", ["fgsm", "bim", "pgd from the image", "mi-fgsm", "ni-fgsm", "emi-fgsm"])
@goals
def test_l2_optimum_of_a_linear_model(case: str, targets: list[int] | None, towards: list[int]) -> None:
    """Away from the box, it is the whole budget along the difference of the two classes' weights."""
    canvases = torch.randint(100, 156, (4, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
    eps = 2.0
    found, difference = on_a_linear_model(case, BALLS["l2"](eps), canvases, targets)
    uphill = np.stack([difference * (1 if wanted else -1) for wanted in towards])
    optimum = eps * 255 * uphill / np.linalg.norm(uphill, axis=1, keepdims=True)
    changed = differences(found, canvases)
    assert abs(changed - optimum).max() < 1.001
    assert abs(changed - optimum).mean() < 0.3  # a quarter, were everything rounded
    assert ((changed**2).sum(1) <= (eps * 255) ** 2).all()


@pytest.mark.parametrize("norm", list(BALLS))
@pytest.mark.parametrize("start", [False, True], ids=["from the image", "from anywhere"])
def test_pgd_converges_to_the_optimum_in_ball_and_box(norm: str, start: bool) -> None:
    """A third of the values at the ends of the range. In L1 the optimum fills up the steepest values first; steps of
    alpha, shared by four values, come as close as that; from anywhere they are spent on keeping those at the end of
    their range, which each projection pulls back, and the rest of the start goes only slowly."""
    canvases, weight = some_canvases(4), slope_weights(2)
    uphill = weight[1] - weight[0]
    ball, seen = recording(BALLS[norm](EPS[norm]))
    attack = recipe("pgd").make(ball, steps=400, alpha=EPS[norm] / 40, random_start=start)
    found = found_by(attack, surrogates(Sums(weight)), batch_of(canvases, [0, 0, 0, 0]))
    for item in range(4):
        clean = canvases[item].double().numpy().ravel() / 255
        best = furthest(norm, uphill, EPS[norm], (-clean, 1 - clean))
        gained = uphill @ (seen[-1][item].double().numpy().ravel() - clean)
        assert gained <= uphill @ best * (1 + 1e-5)
        least = 0.9999 if norm != "l1" else 0.6 if start else 0.999
        assert gained >= uphill @ best * least
        stored = uphill @ differences(found, canvases)[item] / 255
        assert stored >= uphill @ best * (least - 0.005)


def test_alpha_is_the_length_of_a_step() -> None:
    """Three steps of two levels, far from the edge of the budget; in L2 and L1 a third of a length."""
    canvases, weight = torch.full((1, *SHAPE), 128, dtype=torch.uint8), slope_weights(2)
    uphill = np.sign(weight[1] - weight[0])
    for name in ("bim", "mi-fgsm"):
        attack = make(name, eps=50 / 255, steps=3, alpha=2 / 255)
        found = found_by(attack, surrogates(Sums(weight)), batch_of(canvases, [0]))
        assert np.array_equal(differences(found, canvases)[0], 6 * uphill)
        for norm in ("l2", "l1"):
            ball = BALLS[norm](3.0)
            far = iterate(name, ball, surrogates(Sums(weight)), batch_of(canvases, [0]), steps=3, alpha=0.5)
            assert ball.length(far - 128 / 255).item() == pytest.approx(1.5, rel=1e-4)


def test_default_steps_reach_the_edge() -> None:
    ball = LinfBall(8 / 255)
    for name, levels in {"bim": 0.8, "mi-fgsm": 0.8, "pgd": 2, "adam-pgd": 2, "cwa": 1.6, "mef": 1.6, "dem": 8}.items():
        attack = recipe(name).make(ball, steps=10)
        assert isinstance(attack, AttackLoop) and attack.alpha == pytest.approx(levels / 255)
    fgsm = recipe("fgsm").make(ball)
    assert isinstance(fgsm, AttackLoop) and fgsm.alpha == 8 / 255 and fgsm.steps == 1


@dataclass(frozen=True)
class Boundary:
    """Four classes, of which the last two are out of the question: between the first two a smooth slope, so that what
    smooths gradients or limits their frequency has something to follow. Canvases of the first class, far from the box.
    """

    network: Sums
    canvases: Tensor
    slope: np.ndarray

    @classmethod
    def make(cls) -> "Boundary":
        """The nearest point of the second class is about 20 levels away."""
        rng = np.random.default_rng(0)
        low = cosines(SIDE)[:4].numpy()
        slope = (low.T @ rng.normal(size=(3, 4, 4)) @ low).ravel()
        slope *= 100 / abs(slope).sum()
        canvases = torch.from_numpy(rng.integers(124, 133, (4, *SHAPE)).astype(np.uint8))
        away = abs(slope).sum() * 20 / 255 + slope.sum() * 128 / 255
        weight = np.stack([-slope / 2, slope / 2, 0 * slope, 0 * slope])
        return cls(Sums(weight, bias=np.array([away / 2, -away / 2, -99.0, -99.0])), canvases, slope)

    def distances(self, norm: str) -> np.ndarray:
        logits = self.network(self.canvases / 255).detach().double().numpy()
        return (logits[:, 0] - logits[:, 1]) / np.linalg.norm(self.slope, 1 if norm == "linf" else 2)


FURTHER = {
    "sia": 1.4,
    "bsr": 2.0,
    "anda": 2.5,
    "ops": 2.0,
    "mumodig": 1.5,
    "decowa": 2.0,
    "odi": 2.0,
    "l2t": 2.0,
    "lf-fgsm": 1.5,
    "bim-lf": 1.5,
    "square": 3.0,
}
"""Multiples of the distance: of gradients of changed blocks, shifts and solids some point elsewhere, no band holds a
picture of signs, and a few hundred squares are a coarse picture of the slope."""
MANY = {"structures": 8, "shuffles": 8, "queries": 300, "learning_rate": 0.02, "initial_const": 1.0}


@pytest.mark.parametrize("name", [name for name in MADE_HERE if recipe(name).norms])
def test_the_boundary_of_a_linear_model_is_crossed_where_it_is(name: str) -> None:
    """In L∞, or the only norm that there is: with nine tenths of the distance none falls, with a little more all do."""
    boundary, made = Boundary.make(), recipe(name)
    norm = made.norms[0]
    distances = boundary.distances(norm)
    targets = [1] * 4 if made.goals == "targeted" else None

    def fallen(eps: float) -> Tensor:
        more = {**QUICK, **MANY, "steps": 60 if made.kind == "minimal-norm" else 10}
        if made.goals == "targeted" or name == "ilpd":
            more["alpha"] = eps / 5
        attack = make(name, norm, eps, **{key: more[key] for key in made.parameters if key in more})
        models = surrogates(*[boundary.network] * made.models)
        found = found_by(attack, models, batch_of(boundary.canvases, [0] * 4, targets))
        return models.logits(found / 255).argmax(dim=1) == 1

    assert not fallen(0.9 * distances.min()).any()
    assert fallen(FURTHER.get(name, 1.1) * distances.max()).all()


# Budgets: every recipe, every norm -----------------------------------------------------------------------------------


@in_norms
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0.05, 2.0), steps=st.integers(2, 3))
def test_never_outside_the_budget(name: str, norm: str, seed: int, share: float, steps: int) -> None:
    """In whole levels, without tolerance; uint8 keeps the range."""
    canvases, eps = some_canvases(3, seed), EPS[norm] * share
    chosen = {"steps": steps} if "steps" in recipe(name).parameters else {}
    attack = quick(name, norm, eps, **chosen)
    batch = batch_of(canvases, labels_for(3), targets_for(name, 3), seed=seed)
    before = canvases.clone()
    found = found_by(attack, surrogates(*for_recipe(name)), batch)
    assert torch.equal(canvases, before)  # not written to
    changes = differences(found, canvases)
    if norm == "linf":
        assert (abs(changes) <= math.floor(eps * 255 + 1e-9)).all()
    else:
        power = 2 if norm == "l2" else 1
        assert ((abs(changes) ** power).sum(axis=1) <= (eps * 255) ** power * (1 + 1e-9)).all()


@in_norms
def test_the_budget_is_used(name: str, norm: str) -> None:
    """At least a good part of it, with the defaults; whoever is far below forgot to walk."""
    chosen = {"steps": 10} if "steps" in recipe(name).parameters else {}
    few = {key: value for key, value in QUICK.items() if key in recipe(name).parameters and key != "steps"}
    if "alpha" in recipe(name).parameters and recipe(name).goals == "targeted":
        few["alpha"] = EPS[norm] / 5
    canvases = some_canvases(3)
    attack = make(name, norm, **{**few, **chosen})
    found = found_by(attack, surrogates(*for_recipe(name)), batch_of(canvases, labels_for(3), targets_for(name, 3)))
    part = spent(norm, differences(found, canvases)) / 255 / EPS[norm]
    # In L1 a step moves a hundredth of the values, at most to the ends of their range; in a band, a half of L2 remains.
    least = {"fgsm": 0.05}.get(name, 0.2) if norm == "l1" else 0.3 if "lf" in name else 0.7
    assert (part > least).all()


PLAIN = (
    "fgsm",
    "bim",
    "pgd",
    "adam-pgd",
    "mi-fgsm",
    "gi-fgsm",
    "pi-fgsm",
    "pc-i-fgsm",
    "pc-mi-fgsm",
    "ti-fgsm",
    "lf-fgsm",
    "svre",
    "adaea",
    "cwa",
)
"""Models are shown the canvas itself: nothing looks ahead or around, and nothing changes the picture."""


@pytest.mark.parametrize(("name", "norm"), [each for each in IN_NORMS if each[0] in PLAIN])
def test_models_see_pictures_inside_the_budget(name: str, norm: str) -> None:
    """At every step, at a random start, too."""
    watched, canvases = Watched(bent()), some_canvases(4)
    attack = quick(name, norm, random_start=True)
    found_by(attack, surrogates(*[watched] * recipe(name).models), batch_of(canvases, labels_for(4)))
    shown = torch.stack(watched.shown)
    assert shown.min() >= 0 and shown.max() <= 1
    assert BALLS[norm](1).length((shown - canvases / 255).flatten(0, 1)).max() <= EPS[norm] * (1 + 1e-5)


def test_the_float_iterate_is_inside_ball_and_box() -> None:
    for name, norm in IN_NORMS:
        ball, seen = recording(BALLS[norm](EPS[norm]))
        parameters = {key: value for key, value in QUICK.items() if key in recipe(name).parameters}
        batch = batch_of(some_canvases(2), [0, 1], targets_for(name, 2))
        recipe(name).make(ball, **parameters)(surrogates(*for_recipe(name)), batch)
        for each in seen:
            assert each.min() >= 0 and each.max() <= 1
            assert (ball.length(each - batch.clean) <= EPS[norm] * (1 + 1e-5)).all(), (name, norm)


# Keeping -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scripted(LinfBall):
    """Begins each restart at the grey level that the script says."""

    script: tuple[int, ...] = ()

    def start(self, canvases: Tensor, draws: Draws) -> Tensor:
        restart = next(number for number in range(99) if draws._path == ("restart", number))
        return torch.full(canvases.shape, self.script[restart] / 255) - canvases / 255


PROBABILITIES = {
    10: [0.35, 0.325, 0.325],
    30: [0.6, 0.2, 0.2],
    20: [0.45, 0.54, 0.01],
    40: [0.1, 0.8, 0.1],
    50: [0.1, 0.1, 0.8],
}
"""Of label 0: 10 and 30 are failures, 20 and 40 = 50 successes."""


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        ((10, 20), 20),  # a success before a failure, though its cross-entropy is lower …
        ((20, 10), 20),  # … in either order
        ((10, 30), 10),  # of two failures the higher cross-entropy …
        ((30, 10), 10),
        ((20, 40), 40),  # … and of two successes
        ((40, 20), 40),
        ((50, 40), 50),  # of equals the first
        ((40, 50), 40),
        ((30, 10, 20, 40, 50), 40),
        ((20, 30, 10), 20),  # a success is not forgotten
    ],
)
def test_which_restart_is_kept(script: tuple[int, ...], kept: int) -> None:
    table = Table({level: np.log(each).tolist() for level, each in PROBABILITIES.items()})
    attack = AttackLoop(Scripted(1.0, script), 1, 0.1, random_start=True, restarts=len(script))
    canvases = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    assert (found_by(attack, surrogates(table, side=1), batch_of(canvases, [0, 0])) == kept).all()


@pytest.mark.parametrize(
    ("script", "kept"),
    [((10, 30), 10), ((30, 10), 10), ((20, 40), 20), ((40, 20), 40), ((30, 10, 20, 40), 20)],
)
def test_the_first_success_of_all_restarts_is_kept_or_else_the_nearest_failure(
    script: tuple[int, ...], kept: int
) -> None:
    table = Table({level: np.log(each).tolist() for level, each in PROBABILITIES.items()})
    attack = AttackLoop(Scripted(1.0, script), 2, 0.1, random_start=True, restarts=len(script), keep="first")
    canvases = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    assert (found_by(attack, surrogates(table, side=1), batch_of(canvases, [0, 0])) == kept).all()


@pytest.mark.parametrize(("fuse", "kept"), [("logits", 10), ("losses", 20)])
def test_restarts_are_judged_by_what_they_climb(fuse: str, kept: int) -> None:
    """Class 1 leads by 1 and 1, or by 10 and -9: a mean lead of 1 or 0.5, but a mean loss of 1.3 or 5."""
    one = Table({10: [0.0, 1.0], 20: [0.0, 10.0]})
    other = Table({10: [0.0, 1.0], 20: [9.0, 0.0]})
    for script in ((10, 20), (20, 10)):
        attack = AttackLoop(Scripted(1.0, script), 1, 0.1, random_start=True, restarts=2)
        canvases = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
        assert (found_by(attack, surrogates(one, other, side=1, fuse=fuse), batch_of(canvases, [0])) == kept).all()


class Path(nn.Module):
    """Brighter by 5 levels per step of an attack (its slope is one), with logits looked up on the way."""

    def __init__(self, logits: dict[int, list[float]]) -> None:
        super().__init__()
        self.table = Table(logits)

    def forward(self, windows: Tensor) -> Tensor:
        logits = self.table(windows.detach())
        slope = windows.mean(dim=(1, 2, 3))
        return logits + torch.stack([-1e-6 * slope, 0 * slope, 0 * slope], dim=1)


@pytest.mark.parametrize(
    ("keep", "path", "kept"),
    [
        ("last", (10, 40, 20, 30), 4),
        ("best", (10, 40, 20, 30), 2),  # the surest of two successes
        ("best", (10, 20, 40, 30), 3),
        ("best", (20, 10, 30, 10), 1),  # a lone success, though 10 costs as much as it
        ("best", (30, 10, 30, 30), 2),  # of failures the nearest
        ("best", (30, 40, 50, 40), 2),  # of equals the first
        ("first", (10, 20, 40, 30), 2),
        ("first", (40, 20, 30, 10), 1),
        ("first", (30, 10, 30, 30), 4),  # no success: the last
    ],
)
def test_which_step_is_kept(keep: str, path: tuple[int, ...], kept: int) -> None:
    """Canvases at 100, 105, 110 … levels, with the probabilities of the path; no two steps look the same."""
    logits = {100: np.log(PROBABILITIES[30]).tolist()}
    for number, each in enumerate(path, start=1):
        logits[100 + 5 * number] = np.log(PROBABILITIES[each]).tolist()
    attack = make("bim", eps=50 / 255, steps=4, alpha=5 / 255, keep=keep)
    canvases = torch.full((2, 3, 1, 1), 100, dtype=torch.uint8)
    found = found_by(attack, surrogates(Path(logits), side=1), batch_of(canvases, [0, 0]))
    assert (found == 100 + 5 * kept).all()


@pytest.mark.parametrize("keep", ["best", "first"])
@pytest.mark.parametrize("name", LONG)
def test_what_is_kept_was_on_the_way(name: str, keep: str) -> None:
    """Of all canvases on the way, rounded: the first success, or the one with the highest objective of those that
    succeed, or of all; told by looking at each."""
    watched: list[Tensor] = []

    class Watching(LinfBall):
        def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
            watched.append(super().to_grid(canvases, adversarial))
            return watched[-1]

    parameters = {key: value for key, value in QUICK.items() if key in recipe(name).parameters}
    batch = batch_of(some_canvases(4, seed=5), labels_for(4), targets_for(name, 4))
    models = surrogates(*for_recipe(name))
    attack = recipe(name).make(Watching(EPS["linf"]), **{**parameters, "steps": 6}, keep=keep)
    assert isinstance(attack, AttackLoop)
    found = found_by(attack, models, batch)
    for item in range(4):
        best: tuple[tuple[bool, float], Tensor] | None = None
        for each in watched:
            reached, value = models.judge(each / 255, attack.objective, batch.goal)
            score = (bool(reached[item]), 0.0 if keep == "first" else float(value[item]))
            last_of_failures = keep == "first" and not score[0] and best is not None and not best[0][0]
            if best is None or score > best[0] or last_of_failures:
                best = score, each[item]
        assert best is not None and torch.equal(found[item], best[1])


class Bumps(nn.Module):
    """Class 1 wins around 0.65; a lower bump around 0.35 is a trap for ascent."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = height

    def forward(self, windows: Tensor) -> Tensor:
        value = windows[:, 0, 0, 0]
        trap, win = (torch.exp(-(((value - at) / 0.08) ** 2)) for at in (0.35, 0.65))
        return torch.stack([torch.zeros_like(value), 0.5 * trap + self.height * win - 1], dim=1)


@pytest.mark.parametrize("height", [2.0, 0.9])
def test_restarts_leave_the_trap(height: float) -> None:
    """Wherever one of the starts leads uphill to the higher bump, restarts find it, whether or not it is a success."""
    count, ball = 40, LinfBall(0.2)
    canvases = torch.full((count, 3, 1, 1), 128, dtype=torch.uint8)
    batch = batch_of(canvases, [0] * count)

    def attack(restarts: int) -> Tensor:
        made = AttackLoop(ball, 60, 0.01, random_start=True, restarts=restarts)
        return found_by(made, surrogates(Bumps(height), side=1), batch)[:, 0, 0, 0] / 255

    once, often = attack(1), attack(4)
    starts = torch.stack(
        [0.502 + ball.start(canvases, batch.draws.at("restart", each))[:, 0, 0, 0] for each in range(4)]
    )
    # Left of the valley between the bumps, ascent ends at the trap.
    curve = Bumps(height)(torch.linspace(0.35, 0.65, 301).view(-1, 1, 1, 1).expand(-1, 3, -1, -1))[:, 1]
    valley = 0.35 + 0.001 * int(curve.argmin())
    clear = (starts - valley).abs().amin(dim=0) > 0.01
    assert torch.equal(once[clear] > 0.5, (starts[0] > valley)[clear])
    assert torch.equal(often[clear] > 0.5, (starts > valley).any(dim=0)[clear])
    fails_first = clear & (once < 0.5) & (often > 0.5)
    assert fails_first.any() and (clear & (once > 0.5)).any()
    assert (once[fails_first] - 0.35).abs().max() < 0.02 and (often[fails_first] - 0.65).abs().max() < 0.02


# What it costs -------------------------------------------------------------------------------------------------------


SHOWN_AT_RANDOM = [name for name in LOOPS if make(name).redraws]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *[(name, {}) for name in LOOPS],
        *[(name, {"keep": "best"}) for name in LONG],
        *[(name, {"eot": 2}) for name in SHOWN_AT_RANDOM],
        *[(name, {"restarts": 2, "random_start": True}) for name in LOOPS],
    ],
)
def test_cost_is_what_is_really_paid(name: str, more: dict[str, Any]) -> None:
    """Counted in the networks, in the tally, and as stated: also with a further model."""
    for models in {recipe(name).models, recipe(name).models + 1}:
        networks = [Counted(each) for each in for_recipe(name, models)]
        attacked = surrogates(*networks)
        attacked.at(None)  # finds the layers, once for a model
        for each in networks:
            each.forwards = 0
        attack = quick(name, **more)
        attack(attacked, batch_of(some_canvases(3), labels_for(3), targets_for(name, 3)))
        forwards, backwards = attack.cost(models)
        assert sum(each.forwards for each in networks) == 3 * forwards
        assert attacked.tally.forwards.tolist() == [forwards] * 3
        assert sum(each.backwards for each in networks) == 3 * backwards
        assert attacked.tally.backwards.tolist() == [backwards] * 3


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "vmi-di-ti-si", "dem", "svre"])
def test_cost_of_a_ten_crop_is_ten_windows(name: str, fuse: str) -> None:
    networks = [Counted(bent(seed)) for seed in range(2)]
    attacked = surrogates(*networks, view=ten_crop, fuse=fuse)
    attack = quick(name)
    attack(attacked, batch_of(some_canvases(2), [0, 1]))
    paid = tuple(sum(getattr(each, kind) for each in networks) for kind in ("forwards", "backwards"))
    assert paid == tuple(2 * 10 * each for each in attack.cost(2))
    assert attacked.tally.forwards.tolist() == [10 * attack.cost(2)[0]] * 2


@pytest.mark.parametrize(
    ("name", "parameters", "gradients"),
    [
        ("fgsm", {}, 1),
        ("bim", {}, 10),
        ("mi-fgsm", {}, 10),
        ("gi-fgsm", {}, 15),
        ("emi-fgsm", {}, 1 + 9 * 11),
        ("vmi-fgsm", {}, 10 + 9 * 20),
        ("gra", {}, 210),
        ("pgn", {}, 400),
        ("mef", {}, 400),
        ("rap", {}, 400 + 8 * 300),
        ("dta", {}, 100),
        ("fgsra", {}, 210),
        ("ops", {}, 10 * 201),
        ("mumodig", {}, 70),
        ("decowa", {}, 400),
        ("pc-i-fgsm", {}, 20),
        ("pc-mi-fgsm", {}, 20),
        ("l2t", {}, 30),
        ("mfi", {}, 150),
        ("di-fgsm", {}, 10),
        ("ti-fgsm", {}, 10),
        ("si-fgsm", {}, 50),
        ("dem", {}, 50),
        ("admix", {}, 150),
        ("ssa", {}, 200),
        ("usmm", {}, 150),
        ("sia", {}, 200),
        ("bsr", {}, 200),
        ("anda", {}, 250),
        ("logit", {}, 300),
        ("mi-di-ti", {"eot": 3}, 30),
        ("pgd", {"restarts": 5}, 50),
    ],
)
def test_cost_at_the_fields_settings(name: str, parameters: dict[str, Any], gradients: int) -> None:
    """Gradients per image as counted from TransferAttack's loops; where all points of a step are one, or an estimate
    after the last step would go unused, one is enough. Of L2T one copy of each operation."""
    assert make(name, **parameters).cost(1)[1] == gradients


@pytest.mark.parametrize("name", ["bim", "mi-di-ti", "vmi-fgsm", "svre"])
def test_an_image_that_is_done_pays_no_more(name: str) -> None:
    """`first`: at most what is stated, and what each image would pay alone: it does not wait for others."""
    canvases = some_canvases(6, seed=5)
    attacked = surrogates(*for_recipe(name))
    labels = attacked.logits(canvases / 255).argmax(dim=1).tolist()
    attack = quick(name, keep="first", steps=8, eps=10 / 255)
    attacked = surrogates(*for_recipe(name))
    found = found_by(attack, attacked, batch_of(canvases, labels))
    most = attack.cost(recipe(name).models)
    assert (attacked.tally.forwards <= most[0]).all() and len(set(attacked.tally.forwards.tolist())) > 1
    for item in range(6):
        alone = surrogates(*for_recipe(name))
        kept = found_by(attack, alone, batch_of(canvases[[item]], [labels[item]], first=item))
        assert torch.equal(kept[0], found[item])
        assert alone.tally.forwards.tolist() == [attacked.tally.forwards[item]]
        assert alone.tally.backwards.tolist() == [attacked.tally.backwards[item]]


def test_an_image_that_steps_back_over_the_boundary_does_not_pay_again() -> None:
    """The first reaches the goal in its first step and leaves it in the second; the other never reaches it."""
    path = {100: 30, 105: 40, 110: 30, 115: 30, 120: 30, **dict.fromkeys(range(150, 175, 5), 30)}
    logits = {level: np.log(PROBABILITIES[each]).tolist() for level, each in path.items()}
    attack = make("bim", eps=50 / 255, steps=4, alpha=5 / 255, keep="first")
    canvases = torch.full((2, 3, 1, 1), 100, dtype=torch.uint8)
    canvases[1] = 150
    attacked = surrogates(Path(logits), side=1)
    assert found_by(attack, attacked, batch_of(canvases, [0, 0]))[:, 0, 0, 0].tolist() == [105, 170]
    assert attacked.tally.forwards.tolist() == [2, 8] and attacked.tally.backwards.tolist() == [1, 4]


# One image, whatever its batch ---------------------------------------------------------------------------------------


def spec_for(name: str, norm: str = "linf", eps: float | None = None, **parameters: Any) -> AttackSpec:
    few = {key: value for key, value in QUICK.items() if key in recipe(name).parameters}
    return AttackSpec(
        name="attack",
        recipe=name,
        parameters=tuple({**few, **parameters}.items()),
        surrogates=("one",) * recipe(name).models,
        fuse="logits",
        view="center",
        defense=NO_DEFENSE,
        precision="fp32",
        norm=norm,
        eps=EPS[norm] if eps is None else eps,
        target=3 if recipe(name).goals == "targeted" else None,
    )


def in_batch(canvases: Tensor, labels: list[int], names: list[int]) -> CanvasBatch:
    return CanvasBatch(tuple(f"image {each}" for each in names), tuple(labels), canvases.numpy())


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "more"),
    [
        *[(name, {}) for name in LOOPS],
        *[(name, {"keep": "first"}) for name in LONG],
        *[(name, {"restarts": 2, "random_start": True}) for name in LOOPS],
        *[("emi-fgsm", {"sampling": sampling}) for sampling in ("uniform", "gaussian")],
    ],
)
def test_micro_batches_of_any_size_find_the_same(name: str, more: dict[str, Any]) -> None:
    """Bit for bit on a network of plain sums: of 1, 3 or 8 at a time, with all that is reported."""
    canvases, labels = some_canvases(8, seed=2), labels_for(8)
    classifiers = [as_is(each) for each in for_recipe(name)]
    whole = in_batch(canvases, labels, list(range(8)))
    pool = in_batch(POOL, POOL_LABELS.tolist(), list(range(len(POOL))))
    spec = spec_for(name, **more)
    found = [attack_batch(spec, classifiers, whole, Conditions(7, 1.0, size), pool) for size in (1, 3, 8)]
    for other in found[1:]:
        for one, another in zip(vars(found[0]).values(), vars(other).values(), strict=True):
            np.testing.assert_array_equal(one, another)  # NaN equals NaN
    assert (found[0].canvases != canvases.numpy()).any(axis=(1, 2, 3)).all()


@pytest.mark.system
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_image_does_not_feel_its_neighbours(name: str, norm: str) -> None:
    """In whatever order, beside whomever, the last of a batch filled up: the same; but another seed, or another name
    of the attack or image, and the draws differ. What may be mixed in is part of the experiment and stays the same."""
    canvases, labels = some_canvases(8, seed=2), labels_for(8)
    if norm not in recipe(name).norms:
        pytest.skip("not in this norm")

    def attacked(items: list[int], first: int = 0, seed: int = 0) -> Tensor:
        batch = batch_of(canvases[items], [labels[item] for item in items], targets_for(name, len(items)), seed=seed)
        if batch.goal.targets is not None:
            batch = replace(batch, goal=replace(batch.goal, targets=torch.full((len(items),), 3)))
        draws = Draws(seed, "attack", [f"image {first + item}" for item in items])
        return found_by(quick(name, norm), surrogates(*for_recipe(name)), replace(batch, draws=draws))

    together = attacked(list(range(8)))
    for items in ([5], [2, 7, 0], [7, 6, 5, 4, 3, 2, 1, 0], [3, 3, 1]):
        assert torch.equal(attacked(items), together[items])
    assert (attacked(list(range(8)), seed=1) != together).any()
    if not name.startswith(("svre", "smer")):  # whose order of models is drawn for the attack as a whole
        assert (attacked(list(range(8)), first=100) != together).any()


LITE0: dict[str, dict[str, Any]] = {
    "pgd": {},
    "vmi-fgsm": {"neighbors": 1},
    "pgn": {"neighbors": 1},
    "mi-di-ti": {},
    "mi-admix": {"mixed_images": 1},
    "ssa": {"spectra": 1},
    "sia": {"structures": 1},
    "bsr": {"shuffles": 1},
    "dem": {},
}


@pytest.mark.system
@pytest.mark.parametrize("name", list(LITE0))
def test_an_image_does_not_feel_its_neighbours_on_real_weights(name: str, lite0: Classifier, samples: Samples) -> None:
    """Convolution kernels follow the shape of a batch alone: in micro-batches of one size an image's rows are the same
    to the last bit, whoever else is there and wherever it is."""
    spec = spec_for(name, eps=8 / 255, **{"steps": 2, **LITE0[name]})
    conditions = Conditions(0, 224 / 256, 3)
    pool = in_batch(samples.canvases[3:7], samples.labels[3:7].tolist(), [3, 4, 5, 6])

    def attacked(order: list[int]) -> dict[int, list[np.ndarray]]:
        labels = samples.labels[order].tolist()
        found = attack_batch(spec, [lite0], in_batch(samples.canvases[order], labels, order), conditions, pool)
        assert found.targets is None
        parts = [each for each in vars(found).values() if each is not None]
        return {item: [each[place] for each in parts] for place, item in enumerate(order)}

    first, *others = (attacked(order) for order in ([0, 1, 2], [2, 5, 0], [1]))
    for other in others:
        for item in other.keys() & first.keys():
            for one, another in zip(first[item], other[item], strict=True):
                np.testing.assert_array_equal(one, another)  # NaN equals NaN


def test_restarts_of_one_image_do_not_touch_another() -> None:
    canvases = some_canvases(3)
    attack = make("pgd", eps=16 / 255, steps=3, restarts=4)
    together = found_by(attack, surrogates(bent()), batch_of(canvases, [0, 1, 2]))
    for item in range(3):
        alone = found_by(attack, surrogates(bent()), batch_of(canvases[[item]], [item], first=item))
        assert torch.equal(together[[item]], alone)


def test_steps_draw_differently() -> None:
    """On a model without slope an attack stays where chance put it: every restart, step and neighbour elsewhere."""
    watched = Watched(bent())
    batch = batch_of(torch.full((1, *SHAPE), 128, dtype=torch.uint8), [0])
    found_by(quick("vmi-fgsm", random_start=True, restarts=2, steps=3), surrogates(watched), batch)
    shown = torch.cat(watched.shown)
    for one in range(len(shown)):
        for another in range(one):
            assert not torch.equal(shown[one], shown[another]) or {one, another} <= {len(shown) - 1}


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_it", "named"),
    [
        (lambda: AttackLoop(LinfBall(0.1), steps=0, alpha=0.1), "steps"),
        (lambda: make("bim", steps=0), "steps"),
        (lambda: make("pgd", steps=-1), "steps"),
        (lambda: make("pgd", restarts=0), "restarts"),
        (lambda: make("pgd", restarts=2, random_start=False), "restarts"),
        (lambda: make("mi-fgsm", restarts=2), "restarts"),
        (lambda: make("ti-fgsm", restarts=2), "restarts"),
        (lambda: make("si-fgsm", restarts=2), "restarts"),
        (lambda: make("emi-fgsm", restarts=2), "restarts"),
        (lambda: make("bim", alpha=0), "alpha"),
        (lambda: make("pgd", alpha=-1 / 255), "alpha"),
        (lambda: make("mi-fgsm", eot=2), "eot"),
        (lambda: make("pgd", eot=2), "eot"),
        (lambda: make("si-fgsm", eot=2), "eot"),
        (lambda: make("vmi-fgsm", eot=2), "eot"),
        (lambda: make("di-fgsm", eot=0), "eot"),
        (lambda: make("fgsm", keep="best"), "keep"),
        (lambda: make("bim", steps=1, keep="first"), "keep"),
    ],
)
def test_senseless_parameters_are_refused_in_one_line(make_it: Callable[[], Attack], named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: .+\Z"):
        make_it()


@pytest.mark.parametrize("name", ["di-fgsm", "vmi-fgsm", "svre", "ssa", "gra", "pgn"])
def test_what_draws_may_be_restarted(name: str) -> None:
    """Of two runs the better: the objective is at least that of the first alone, and somewhere it is higher."""
    batch = batch_of(some_canvases(8), labels_for(8))
    models = surrogates(*for_recipe(name))
    once, twice = (found_by(quick(name, restarts=each), models, batch) for each in (1, 2))
    (_, first), (_, best) = (models.judge(each / 255, cross_entropy, batch.goal) for each in (once, twice))
    assert (best >= first).all() and (best > first).any()


def test_restarting_after_success_stops() -> None:
    """With `first`, restarts after all images are done cost nothing and change nothing."""
    network = Counted(bent())
    canvases = some_canvases(2)
    labels = [(each + 1) % 4 for each in surrogates(bent()).logits(canvases / 255).argmax(dim=1).tolist()]
    found_by(quick("pgd", keep="first", restarts=50), surrogates(network), batch_of(canvases, labels))
    assert network.forwards <= 2 * 2 and network.backwards <= 2


# --- one surrogate at a time


def drawn(name: str, *networks: nn.Module, **parameters: Any) -> tuple[Attack, Surrogates]:
    """A recipe of the loop that follows one of the networks in each step."""
    made = with_changing(recipe(name), "", in_turn=True)
    few = {key: QUICK[key] for key in QUICK if key in made.parameters}
    return made.make(LinfBall(12 / 255), **{**few, **parameters}), surrogates(*networks, fuse="drawn")


class Followed(nn.Module):
    """Notes its number whenever it is shown something."""

    def __init__(self, network: nn.Module, number: int, order: list[int]) -> None:
        super().__init__()
        self.network, self.number, self.order = network, number, order

    def forward(self, windows: Tensor) -> Tensor:
        self.order.append(self.number)
        logits: Tensor = self.network(windows)
        return logits


def test_each_surrogate_is_followed_once_before_any_is_again() -> None:
    order: list[int] = []
    attack, models = drawn("bim", *(Followed(bent(seed), seed, order) for seed in range(4)), steps=40)
    attack(models, batch_of(some_canvases(2), [0, 1]))
    turns = [order[start : start + 4] for start in range(0, 40, 4)]
    assert all(sorted(each) == [0, 1, 2, 3] for each in turns)
    assert len({tuple(each) for each in turns}) > 5  # in another order each time


def test_steps_are_those_of_the_surrogates_drawn() -> None:
    """BIM written out on whichever of two linear models each step follows."""
    weights = [slope_weights(4, seed) for seed in range(2)]
    order: list[int] = []
    networks = [Followed(Sums(each), number, order) for number, each in enumerate(weights)]
    canvases, ball = some_canvases(3), LinfBall(12 / 255)
    attack, models = drawn("bim", *networks, steps=4, alpha=3 / 255)
    found = found_by(attack, models, batch_of(canvases, [0, 1, 2]))
    points = canvases.double().numpy().reshape(3, -1) / 255
    clean = points.copy()
    for chosen in order:
        logits = points @ weights[chosen].T
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient = (shares - np.eye(4)[[0, 1, 2]]) @ weights[chosen]
        points = (points + 3 / 255 * np.sign(gradient)).clip(clean - ball.eps, clean + ball.eps).clip(0, 1)
    assert len(order) == 4 and np.array_equal(found.flatten(1).numpy(), np.rint(points * 255))


def test_drawn_surrogates_are_the_same_for_all_images_and_cost_what_is_said() -> None:
    canvases = some_canvases(4)
    for name, more in (("mi-fgsm", {"keep": "best"}), ("vmi-fgsm", {}), ("gi-fgsm", {}), ("pgd", {"restarts": 2})):
        attack, models = drawn(name, bent(0), bent(1), bent(2), **more)
        together = found_by(attack, models, batch_of(canvases, [0, 1, 2, 3]))
        cost = attack.cost(3)
        assert (models.tally.forwards.tolist(), models.tally.backwards.tolist()) == ([cost[0]] * 4, [cost[1]] * 4)
        for item in range(4):
            attack, models = drawn(name, bent(0), bent(1), bent(2), **more)
            alone = found_by(attack, models, batch_of(canvases[item : item + 1], [item], first=item))
            assert torch.equal(alone[0], together[item])


def test_what_is_kept_is_judged_by_all_surrogates() -> None:
    networks = [Counted(bent(seed)) for seed in range(3)]
    attack, models = drawn("bim", *networks, steps=4, keep="best")
    attack(models, batch_of(some_canvases(1), [0]))
    assert sum(each.backwards for each in networks) == 4
    assert sum(each.forwards for each in networks) == 4 + 4 * 3
