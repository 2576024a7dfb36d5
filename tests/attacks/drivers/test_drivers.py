"""Attack drivers: linear models whose nearest boundary is known, small networks, and what every driver promises."""

import math
from dataclasses import dataclass
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tests.support.attacks as attack_helpers
from tests.support.attacks import Counted, Sums, as_is, batch_of
from transforms.attacks.balls import BALLS, Ball, L1Ball, L2Ball, LinfBall
from transforms.attacks.drivers import apgd, carlini_wagner, ddn, deepfool, fmn, minimal, square
from transforms.attacks.drivers.cascade import Cascade
from transforms.attacks.objectives import Goal, Objective, cross_entropy, dlr, margin
from transforms.attacks.protocol import Attack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.recipes import autoattack
from transforms.attacks.surrogates import Slope, Surrogates
from transforms.errors import InputError
from transforms.models.views import center
from transforms.randomness import Draws

pytestmark = pytest.mark.system

SIDE = 6
SIZE = 3 * SIDE**2
MODULES = (apgd, autoattack, carlini_wagner, ddn, deepfool, fmn, square)
RECIPES: dict[str, Recipe] = {name: recipe for module in MODULES for name, recipe in module.RECIPES.items()}
SHORT = {"steps": 8, "queries": 40, "binary_search_steps": 3}
"""Parameters that make a quick attack of any recipe."""


surrogates = partial(attack_helpers.surrogates, side=SIDE)
bent = partial(attack_helpers.bent, classes=6, side=SIDE)
some_canvases = partial(attack_helpers.some_canvases, side=SIDE)


def taken_for(network: nn.Module, canvases: Tensor) -> Tensor:
    return surrogates(network).logits(canvases / 255).argmax(dim=1)


def make(name: str, ball: Ball, **parameters: Any) -> Attack:
    """A quick attack, unless the parameters say otherwise."""
    known = RECIPES[name].parameters
    return RECIPES[name].make(ball, **{**{key: SHORT[key] for key in SHORT if key in known}, **parameters})


def changes(found: Tensor, canvases: Tensor) -> Tensor:
    return (found.int() - canvases.int()).flatten(1).double()


ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
every = pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name, recipe in RECIPES.items() for norm in recipe.norms]
)
minimal_norm = pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name, recipe in RECIPES.items() if recipe.kind == "minimal-norm" for norm in recipe.norms],
)

# Linear models -------------------------------------------------------------------------------------------------------


def nearest(norm: str, clean: np.ndarray, weight: np.ndarray, gap: float) -> float:
    """The norm of the smallest perturbation with weight · perturbation = gap > 0 that stays in the box; in NumPy."""
    room = np.where(weight > 0, 1 - clean, clean)
    size = abs(weight)
    if norm == "l1":  # the steepest values first, each as far as there is room
        order = np.argsort(-size)
        gained = np.cumsum(size[order] * room[order])
        last = int(np.searchsorted(gained, gap))
        before = gained[last - 1] if last else 0.0
        return float(room[order][:last].sum() + (gap - before) / size[order][last])
    low, high = 0.0, 1e6  # the multiple of the unconstrained direction, cut off where there is no room
    direction = np.ones_like(size) if norm == "linf" else size
    for _ in range(200):
        middle = (low + high) / 2
        if (size * np.minimum(middle * direction, room)).sum() < gap:
            low = middle
        else:
            high = middle
    return float(np.linalg.norm(np.minimum(high * direction, room), ORDERS[norm]))


@dataclass(frozen=True)
class Linear:
    """Images on which a linear model is right, by a little, and how far its boundary is."""

    network: Sums
    canvases: Tensor
    labels: Tensor

    @classmethod
    def make(cls, classes: int, boxed: bool, count: int = 6) -> "Linear":
        """Without a box in the way all values are in the middle; with it, a third is near the ends (not at them, where
        the slope of tanh is so small that Carlini & Wagner's attack does not leave in time). No boundary is so near
        that the attacks' shortest steps are too long, and the softmax is so sharp that only the nearest class counts.
        """
        rng = np.random.default_rng(classes)
        weight = 10 * rng.normal(size=(classes, SIZE))
        middle = torch.from_numpy(rng.integers(115, 141, (60, 3, SIDE, SIDE)).astype(np.uint8))
        canvases = some_canvases(60, ends=(3, 252)) if boxed else middle
        mean = canvases.flatten(1).double().mean(dim=0).numpy() / 255
        network = Sums(weight, bias=40.0 * (np.arange(classes) == 0) + 5 * rng.normal(size=classes) - weight @ mean)
        every = cls(network, canvases, taken_for(network, canvases))
        far = torch.from_numpy(every.distances("l2") > 0.15)
        assert far.sum() >= count
        return cls(network, canvases[far][:count], every.labels[far][:count])

    def distances(self, norm: str) -> np.ndarray:
        weight = self.network.first.detach().double().numpy()
        bias = self.network.bias.double().numpy()
        found = []
        for clean, label in zip(self.canvases.flatten(1).double().numpy() / 255, self.labels.tolist(), strict=True):
            logits = weight @ clean + bias
            others = [each for each in range(len(weight)) if each != label]
            found.append(
                min(nearest(norm, clean, weight[k] - weight[label], logits[label] - logits[k]) for k in others)
            )
        return np.array(found)


LONG: dict[str, dict[str, Any]] = {
    "cw": {"steps": 500, "binary_search_steps": 9, "learning_rate": 4e-3, "initial_const": 1e-3},
    "ddn": {"steps": 300},
    "fmn": {"steps": 500},
    "deepfool": {"steps": 50, "overshoot": 1e-3},
}
CLOSE = {"cw": 0.02, "ddn": 0.02, "fmn": 0.03, "deepfool": 0.0015}


@minimal_norm
@pytest.mark.parametrize("boxed", [False, True], ids=["free", "boxed"])
@pytest.mark.parametrize("classes", [2, 5])
def test_nearest_boundary_of_a_linear_model(name: str, norm: str, boxed: bool, classes: int) -> None:
    """The norm that is reported, whatever the budget, is that of the nearest point beyond the boundary."""
    linear = Linear.make(classes, boxed)
    batch = batch_of(linear.canvases, linear.labels)
    found = make(name, BALLS[norm](1e-3), **LONG[name])(surrogates(linear.network), batch)
    assert found.norms is not None
    ratio = found.norms.numpy() / linear.distances(norm)
    assert (ratio > 1 - 1e-3).all()
    # The region of several wrong classes is not convex: a few may end at the second nearest boundary.
    assert (np.sort(ratio)[: 6 if classes == 2 else 4] < 1 + CLOSE[name]).all(), ratio


@pytest.mark.parametrize("name", ["cw", "ddn", "fmn"])
def test_the_wanted_class_of_a_linear_model(name: str) -> None:
    """Of two classes, the wanted one is as far as any wrong one."""
    linear = Linear.make(2, boxed=True)
    batch = batch_of(linear.canvases, linear.labels, 1 - linear.labels)
    found = make(name, L2Ball(3.0), **LONG[name])(surrogates(linear.network), batch)
    assert found.norms is not None
    assert np.allclose(found.norms.numpy(), linear.distances("l2"), rtol=CLOSE[name])
    assert torch.equal(taken_for(linear.network, found.canvases), 1 - linear.labels)


def test_deepfool_overshoots_by_its_overshoot() -> None:
    linear = Linear.make(5, boxed=False)
    for norm in ("linf", "l2"):
        found = make("deepfool", BALLS[norm](1.0), overshoot=0.25)(
            surrogates(linear.network), batch_of(linear.canvases, linear.labels)
        )
        assert found.norms is not None
        assert np.allclose(found.norms.numpy(), 1.25 * linear.distances(norm), rtol=1e-4)


@minimal_norm
def test_a_stored_perturbation_is_little_longer(name: str, norm: str) -> None:
    """Most values of the smallest perturbation are below half a level. What is stored crosses the boundary, too."""
    linear = Linear.make(5, boxed=True)
    batch = batch_of(linear.canvases, linear.labels)
    found = make(name, BALLS[norm](9.0), **LONG[name])(surrogates(linear.network), batch)
    assert (taken_for(linear.network, found.canvases) != linear.labels).all()
    stored = changes(found.canvases, linear.canvases).norm(ORDERS[norm], dim=1) / 255
    assert found.norms is not None
    assert (stored <= 1.3 * found.norms + 1 / 255).all(), stored / found.norms


def test_settling_lengthens_no_more_than_needed() -> None:
    """One value must change by 0.3 levels: one level is stored. By 4.2 levels of two: (3, 3), not twice it."""

    class Slab(nn.Module):
        def __init__(self, needed: float) -> None:
            super().__init__()
            self.needed = needed

        def forward(self, windows: Tensor) -> Tensor:
            gained = 255 * (windows[:, 0, 0, :2] - 100 / 255).sum(dim=1) - self.needed
            return torch.stack([torch.zeros_like(gained), gained], dim=1)

    canvases = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    batch = batch_of(canvases, torch.tensor([0]))
    perturbation = torch.zeros(1, 3, 2, 2)
    perturbation[0, 0, 0, :2] = torch.tensor([0.31, 0.0]) / 255

    def settled(needed: float, perturbation: Tensor, ball: Ball) -> list[int]:
        attacked = surrogates(Slab(needed), side=2)
        best = minimal.Best(perturbation, ball.length(perturbation))
        found = minimal.settle(attacked, batch, ball, best, batch.goal.reached)
        assert int(attacked.tally.forwards) <= minimal.SETTLING
        return (found.canvases.int() - 100)[0, 0, 0, :2].tolist()

    assert settled(0.3, perturbation, L2Ball(9 / 255)) == [1, 0]
    assert settled(0.3, perturbation, L2Ball(0.9 / 255)) == [0, 0]  # no room for a level
    perturbation[0, 0, 0, :2] = torch.tensor([2.2, 2.2]) / 255  # rounds to (2, 2), which is not enough
    assert settled(4.3, perturbation, L2Ball(9 / 255)) == [3, 3]
    assert settled(4.3, perturbation, LinfBall(9 / 255)) == [3, 3]
    assert settled(4.3, perturbation, LinfBall(2 / 255)) == [2, 2]  # all that the budget allows


def test_the_nearest_point_of_a_smaller_ball() -> None:
    """Each kept value is the same amount nearer to zero (L1), cut off (L∞), or shrunk (L2); a smaller one stays."""
    given = torch.tensor([[3.0, -1.0, 0.5], [0.2, 0.1, 0.0]]).view(2, 3, 1, 1)
    radius = torch.tensor([2.0, 2.0])
    assert torch.allclose(minimal.shrink("l1", given, radius).view(2, 3)[0], torch.tensor([2.0, 0.0, 0.0]))
    assert torch.allclose(minimal.shrink("linf", given, radius).view(2, 3)[0], torch.tensor([2.0, -1.0, 0.5]))
    expected = given[0].flatten() * 2 / math.sqrt(10.25)
    assert torch.allclose(minimal.shrink("l2", given, radius).view(2, 3)[0], expected)
    three = minimal.shrink("l1", given[:1], torch.tensor([3.5])).flatten()
    assert torch.allclose(three, torch.tensor([3 - 1 / 3, -1 + 1 / 3, 0.5 - 1 / 3]))
    for norm in ORDERS:
        assert torch.equal(minimal.shrink(norm, given, radius)[1], given[1])


def test_confidence_is_a_margin_that_what_is_stored_has_too() -> None:
    linear = Linear.make(5, boxed=False)
    batch = batch_of(linear.canvases, linear.labels)
    attacked, reached = surrogates(linear.network), {}
    for confidence in (0.0, 10.0):
        found = make("cw", L2Ball(4.0), **LONG["cw"], confidence=confidence)(attacked, batch)
        assert (margin(attacked.logits(found.canvases / 255), batch.goal) >= confidence).all()
        assert found.norms is not None
        reached[confidence] = found.norms
    # Logits rise by |weights| (some 10 * sqrt(2 * 108)) for every unit of distance.
    assert (reached[10.0] - reached[0.0] > 10 / 200).all()


def test_carlini_wagner_stops_early_image_by_image() -> None:
    linear = Linear.make(2, boxed=False)
    passes = {}
    for abort_early in (False, True):
        attacked = surrogates(linear.network)
        make("cw", L2Ball(1.0), steps=200, learning_rate=0.05, abort_early=abort_early)(
            attacked, batch_of(linear.canvases, linear.labels)
        )
        assert isinstance(attacked.tally.backwards, Tensor)
        passes[abort_early] = attacked.tally.backwards
    assert (passes[False] == 200 * SHORT["binary_search_steps"]).all()
    assert (passes[True] < passes[False]).all() and len(set(passes[True].tolist())) > 1


class Fading(nn.Module):
    """Class 0 leads by 1 at first, and by less each time that it is asked; without slope."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.asked = -1  # once about the clean image

    def forward(self, windows: Tensor) -> Tensor:
        lead = self.share ** max(self.asked, 0) + 0 * windows.sum(dim=(1, 2, 3))
        self.asked += 1
        return torch.stack([lead, 0 * lead], dim=1)


@pytest.mark.parametrize(("progress", "passes"), [(0.9998, 200), (0.99995, 21)])
def test_carlini_wagner_goes_on_while_a_tenth_of_the_steps_gains_a_ten_thousandth(progress: float, passes: int) -> None:
    """As in the authors' code. With so large a constant the loss is the margin, which is checked every 20 steps."""
    attacked = surrogates(Fading(progress ** (1 / 20)), side=2)
    attack = make("cw", L2Ball(1.0), steps=200, binary_search_steps=1, initial_const=1e6)
    attack(attacked, batch_of(torch.full((1, 3, 2, 2), 100, dtype=torch.uint8), torch.tensor([0])))
    assert attacked.tally.backwards.tolist() == [passes]


class Cliff(nn.Module):
    """Class 1 leads beyond a length of 0.45 along one direction; the slope before it tells of a length of 10."""

    def forward(self, windows: Tensor) -> Tensor:
        along = (windows - 100 / 255).flatten(1).sum(dim=1) / math.sqrt(SIZE)
        lead = 0.1 * along - 1 + 2 * torch.sigmoid(400 * (along - 0.45))
        return torch.stack([0 * lead, lead], dim=1)


def test_fmn_does_not_go_beyond_its_best() -> None:
    """In steps of 0.3 it finds 0.6 inside a radius of 6: from there on it closes in from 0.6."""
    canvases = torch.full((1, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    attack = make("fmn", L2Ball(1.0), steps=7, alpha=0.3, alpha_final=0.3, gamma=0.05, gamma_final=0.05)
    found = attack(surrogates(Cliff()), batch_of(canvases, torch.tensor([0])))
    assert found.norms is not None
    assert found.norms.item() == pytest.approx(0.6 * 0.95**3, rel=1e-4)  # the first at step 2, again at 3, 4, 5 and 6


class Late(nn.Module):
    """Class 1 gains with brightness, and wins from the 61st question on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.asked += 1
        bright = 0.1 * windows.sum(dim=(1, 2, 3)) / math.sqrt(SIZE)
        return torch.stack([0 * bright + (10 if self.asked <= 60 else -10), bright], dim=1)


def test_the_sphere_of_ddn_grows_no_larger_than_the_pixels_allow() -> None:
    """After 60 failures it begins to shrink from the farthest corner of the box, not from 1.05**60."""
    canvases = torch.full((1, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    found = make("ddn", L2Ball(1.0), steps=100)(surrogates(Late()), batch_of(canvases, torch.tensor([0])))
    assert found.norms is not None
    assert found.norms.item() == pytest.approx(155 / 255 * math.sqrt(SIZE) * 0.95**39, rel=1e-3)


class Matrices(nn.Module):
    """The same as a network of sums, in matrix kernels, which autocast makes round."""

    def __init__(self, network: Sums) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        logits = F.linear(windows.flatten(1), self.network.first)
        if self.network.last is not None:
            logits = F.linear(torch.sin(logits), self.network.last)
        return logits + self.network.bias


reduced = pytest.mark.parametrize("precision", ["bf16", "fp16"])


@minimal_norm
@reduced
def test_gradients_in_reduced_precision_do_not_say_what_is_adversarial(
    name: str, norm: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The perturbation whose norm is recorded fools the network in fp32: here, another one, of sums. Its norm is what
    it is with gradients in fp32, but where those lead to another class."""
    module, kept = {"cw": carlini_wagner, "ddn": ddn, "fmn": fmn, "deepfool": deepfool}[name], []
    settle = module.settle

    def kept_and_settled(attacked: Surrogates, batch: Batch, ball: Ball, best: minimal.Best, *more: Any) -> Found:
        kept.append((batch.clean + best.perturbation, best.norms))
        return settle(attacked, batch, ball, best, *more)

    monkeypatch.setattr(module, "settle", kept_and_settled)
    canvases, network = some_canvases(8, 11), bent(11)
    labels = taken_for(network, canvases)
    attack = make(name, BALLS[norm](0.5), **{**LONG[name], "steps": 60})
    for each in (precision, "fp32"):
        attack(surrogates(Matrices(network), precision=each), batch_of(canvases, labels))
    (adversarial, norms), (_, exact) = kept
    assert norms.isfinite().all()
    assert (surrogates(network).logits(adversarial).argmax(dim=1) != labels).all()
    assert (norms / exact).median() == pytest.approx(1, rel=0.02)


@minimal_norm
def test_no_nearer_than_the_boundary_in_reduced_precision(name: str, norm: str) -> None:
    """What is recorded is never less than the distance of a linear model's nearest boundary."""
    linear = Linear.make(5, boxed=False)
    attacked = surrogates(Matrices(linear.network), precision="bf16")
    found = make(name, BALLS[norm](1.0), **{**LONG[name], "steps": 100})(
        attacked, batch_of(linear.canvases, linear.labels)
    )
    assert found.norms is not None and found.norms.isfinite().all()
    assert (found.norms.numpy() > linear.distances(norm) * (1 - 1e-3)).all()


@minimal_norm
@reduced
def test_only_reduced_precision_costs_a_second_look(name: str, norm: str, precision: str) -> None:
    """One more at every step; the budget is so small that settling takes none. What is counted really happened."""
    canvases = some_canvases(3, 7)
    labels, network = taken_for(bent(7), canvases), Counted(Matrices(bent(7)))
    attack = make(name, BALLS[norm](1e-6), **({"abort_early": False} if name == "cw" else {}))
    for each, more in (("fp32", 0), (precision, 1)):
        network.forwards = 0
        attacked = surrogates(network, precision=each)
        attack(attacked, batch_of(canvases, labels))
        forwards, backwards = torch.as_tensor(attacked.tally.forwards), torch.as_tensor(attacked.tally.backwards)
        # DeepFool takes a gradient for each of the 6 classes, and looks twice: from where it is, and at where it went.
        steps, looks = (backwards // 6, 2) if name == "deepfool" else (backwards, 1)
        assert torch.equal(forwards, (name in ("cw", "deepfool")) + (looks + more) * steps)
        assert network.forwards == 3 * int(forwards.max())


@pytest.mark.parametrize(
    ("name", "key", "default", "other"),
    [
        ("ddn", "alpha", 1.0, 0.5),
        ("ddn", "alpha_final", 0.01, 0.1),
        ("fmn", "alpha_final", 0.01, 0.2),
        ("fmn", "gamma_final", 0.001, 0.01),
    ],
)
def test_schedules_can_be_set(name: str, key: str, default: float, other: float) -> None:
    """By default they are the papers'."""
    batch = batch_of(some_canvases(3), taken_for(bent(), some_canvases(3)))

    def norms(**parameters: float) -> Tensor:
        found = make(name, L2Ball(1.0), **parameters)(surrogates(bent()), batch).norms
        assert found is not None
        return found

    assert torch.equal(norms(), norms(**{key: default}))
    assert not torch.equal(norms(), norms(**{key: other}))


# Auto-PGD ------------------------------------------------------------------------------------------------------------


def test_checkpoints_are_the_papers() -> None:
    """p1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), of 100 steps."""
    assert sorted(apgd._checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(apgd._checkpoints(3)) == [1, 2, 3]


class Recorded(nn.Module):
    """Remembers what it was shown with a gradient asked for, and without."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shown: list[Tensor] = []
        self.asked: list[Tensor] = []

    def forward(self, windows: Tensor) -> Tensor:
        (self.shown if windows.requires_grad else self.asked).append(windows.detach().clone())
        logits: Tensor = self.network(windows)
        return logits


class Bowl(nn.Module):
    """Class 1 gains towards the level `top` of the first value, and class 0 always wins."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, windows: Tensor) -> Tensor:
        height = -((windows[:, 0, 0, 0] - self.top) ** 2)
        return torch.stack([10 + 0 * height, height, 0 * height - 30], dim=1)


def test_apgd_halves_its_step_where_it_gains_too_little() -> None:
    """Between two walls it overshoots the top with ever shorter steps, begun from the best point; it ends near it."""
    network = Recorded(Bowl(0.5))
    canvases = torch.full((1, 3, 1, 1), 120, dtype=torch.uint8)
    make("apgd-ce", LinfBall(0.2), steps=100)(surrogates(network, side=1), batch_of(canvases, torch.tensor([0])))
    values = torch.cat(network.shown)[:, 0, 0, 0]
    assert len(values) == 101
    moves = values.diff().abs()
    checks = [0, 22, 41, 57, 70, 80, 87, 93, 99]
    longest = [float(moves[start:end].max()) for start, end in pairwise(checks)]
    assert longest[0] > 0.2 and longest[-1] < 0.02
    assert abs(values[-1] - 0.5) < 0.01


class Gaining(nn.Module):
    """Class 1 is nearest at the first question, far at the next 22, and then a little nearer each time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, windows: Tensor) -> Tensor:
        near = 5.0 if self.asked == 0 else max(1.0, 1 + 0.04 * (self.asked - 22))
        self.asked += windows.requires_grad
        slope = windows.sum(dim=(1, 2, 3))
        return torch.stack([6 - near - 1e-6 * slope, 0 * slope], dim=1)


def test_apgd_does_not_halve_twice_in_a_row_for_want_of_a_new_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Croce & Hein 2020, §3.1, condition 2: the step was not halved at the checkpoint before. There are gains enough
    for condition 1 from the first checkpoint on, and never a new best."""
    lengths: list[float] = []
    step = apgd.AutoPgd._step

    def watched(self: apgd.AutoPgd, *arguments: Any) -> Tensor:
        lengths.append(arguments[3].item())
        return step(self, *arguments)

    monkeypatch.setattr(apgd.AutoPgd, "_step", watched)
    canvases = torch.full((1, 3, 1, 1), 120, dtype=torch.uint8)
    make("apgd-ce", LinfBall(0.2), steps=100)(surrogates(Gaining(), side=1), batch_of(canvases, torch.tensor([0])))
    halvings = [0, 22, 57, 80, 93, 101]
    expected = [0.4 / 2**number for number, span in enumerate(pairwise(halvings)) for _ in range(*span)]
    assert lengths == pytest.approx(expected)


@pytest.mark.parametrize("weight", [0.3, 0.75, 1.0])
def test_apgd_mixes_its_step_with_the_one_before(weight: float) -> None:
    """Croce & Hein 2020, algorithm 1, line 7, by hand between two walls, up to the first checkpoint."""
    network, eps, middle, top = Recorded(Bowl(0.5)), 0.2, 120 / 255, 0.5
    canvases = torch.full((1, 3, 1, 1), 120, dtype=torch.uint8)
    ball = Given(LinfBall(eps), torch.zeros(1, 3, 1, 1))
    attack = make("apgd-ce", ball, steps=100, step_weight=weight)  # type: ignore[arg-type]
    attack(surrogates(network, side=1), batch_of(canvases, torch.tensor([0])))
    expected = [middle]
    for step in range(22):
        here, before = expected[-1], expected[max(step - 1, 0)]
        ahead = np.clip(here + 2 * eps * np.sign(top - here), middle - eps, middle + eps)
        mixed = ahead if step == 0 else here + weight * (ahead - here) + (1 - weight) * (here - before)
        expected.append(np.clip(mixed, middle - eps, middle + eps))
    assert torch.cat(network.shown)[:22, 0, 0, 0].numpy() == pytest.approx(expected[:22], abs=1e-6)


@dataclass(frozen=True)
class Given:
    """A ball that starts where it is told."""

    ball: Ball
    first: Tensor

    def start(self, canvases: Tensor, draws: Draws) -> Tensor:
        return self.first

    def __getattr__(self, name: str) -> object:
        return getattr(self.ball, name)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_goes_where_torchattacks_goes(norm: str, loss: str) -> None:
    """From the same start on a model that never falls, every point is the same.

    Up to the third check: theirs compares the first step of the first window with the last entry of an array, and
    looks at the second of the paper's two conditions from the second check on. In L2 theirs is cut off at the box after
    it is shrunk, which is not the nearest point, so the box is kept out of the way.
    """
    plain = bent(3)
    assert plain.last is not None
    last = plain.last.detach().numpy() / 4
    network = Sums(plain.first.detach().numpy(), last, bias=np.array([2 * abs(last).sum(axis=1).max(), 0, 0, 0, 0, 0]))
    rng = np.random.default_rng(0)
    canvases = torch.from_numpy(rng.integers(100, 156, (3, 3, SIDE, SIDE)).astype(np.uint8))
    labels, eps, steps = torch.tensor([0, 0, 0]), {"linf": 0.1, "l2": 0.5}[norm], 60
    theirs = Recorded(network)
    torchattacks.APGD(theirs, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, steps=steps, loss=loss)(
        canvases / 255, labels
    )
    torch.manual_seed(0)
    noise = 2 * torch.rand(canvases.shape) - 1 if norm == "linf" else torch.randn(canvases.shape)
    largest = BALLS[norm](1.0).length(noise).view(-1, 1, 1, 1)
    ours = Recorded(network)
    attack = make(f"apgd-{loss}", Given(BALLS[norm](eps), eps * noise / largest), steps=steps)  # type: ignore[arg-type]
    attack(surrogates(ours), batch_of(canvases, labels))
    checks = sorted(apgd._checkpoints(steps))
    assert len(ours.shown) == len(theirs.shown) == steps + 1
    for step in range(checks[2]):
        apart = (ours.shown[step] - theirs.shown[step]).abs().amax(dim=(1, 2, 3))
        assert (apart < 1e-3).all(), (step, apart)


def test_apgd_ends_at_the_linear_optimum() -> None:
    """Of two classes and out of reach: every value goes as far as the budget and the box let it."""
    linear = Linear.make(2, boxed=True)
    weight = linear.network.first.detach().numpy() / 1e4
    canvases, labels = linear.canvases, torch.zeros(len(linear.canvases), dtype=torch.int64)
    far = Sums(weight, bias=np.array([1.0, 0.0]))
    uphill = np.sign(weight[1] - weight[0]).reshape(1, 3, SIDE, SIDE)
    for levels in (1, 3):
        found = make("apgd-ce", LinfBall(levels / 255), steps=100)(surrogates(far), batch_of(canvases, labels))
        expected = np.clip(canvases.numpy() + levels * uphill, 0, 255)
        assert np.array_equal(found.canvases.numpy(), expected)


def test_rounding_does_not_shorten_a_perturbation() -> None:
    """Values of a third of a level, and a few large ones: rounding alone would leave the large ones only."""
    canvases = torch.full((2, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    change = torch.linspace(0.01, 0.45, SIZE).view(1, 3, SIDE, SIDE) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    for norm in ("l2", "l1"):
        length = float(change[0].flatten().norm(ORDERS[norm]))
        for part in (1.0, 0.5):  # inside the budget, and twice as long as it
            ball = BALLS[norm](part * length / 255)
            found = changes(ball.to_grid(canvases, (100 + change) / 255), canvases)
            sizes = found.norm(ORDERS[norm], dim=1)
            power = ORDERS[norm]  # one more level somewhere, or a second one, adds 1 or 3 to the sum of the powers
            assert (sizes <= part * length).all() and (sizes**power > (part * length) ** power - 3).all()
            # What is kept is what was largest.
            assert (found.abs().diff(dim=1) >= 0).all() and torch.equal(found[0], -found[1])


class OffGrid(nn.Module):
    """Fooled by values between two levels, and by those above `level`."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, windows: Tensor) -> Tensor:
        values = 255 * windows.flatten(1)
        off = ((values - values.round()).abs() > 0.01).any(dim=1)
        gain = values.mean(dim=1) - self.level
        return torch.stack([0 * gain, gain + 200 * off, 0 * gain - 99, 0 * gain - 98], dim=1)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t", "square"])
def test_what_fools_only_before_rounding_is_no_success(name: str) -> None:
    """Every float fools this model, so the first would be kept; a stored canvas does only near the budget's end."""
    canvases = torch.full((2, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    labels = torch.tensor([0, 0])
    norm = "l2" if name == "square" else "linf"
    ball = BALLS[norm](8 / 255 if norm == "linf" else 8 / 255 * math.sqrt(SIZE))
    steps = {"queries": 300} if name == "square" else {"steps": 30}
    level = 107 if norm == "linf" else 100.2
    found = make(name, ball, **steps)(surrogates(OffGrid(level)), batch_of(canvases, labels)).canvases
    assert (taken_for(OffGrid(level), found) == 1).all()


# Square --------------------------------------------------------------------------------------------------------------


def test_hills_are_the_papers() -> None:
    """Andriushchenko et al. 2020, §3.2: the sum over k of 1 / k², from the rim inwards."""
    one, two, three = 1.0, 1 / 4, 1 / 9
    assert torch.allclose(square._hill(3, 3), torch.tensor([[two] * 3, [two, one + two, two], [two] * 3]))
    assert torch.allclose(
        square._hill(1, 5), torch.tensor([[three, two + three, one + two + three, two + three, three]])
    )
    for side in (1, 3, 4, 7):
        bump = square._bump(side)
        assert bump.norm() == pytest.approx(1)
        assert (bump[: side // 2] > 0).all() and (bump[side // 2 :] < 0).all()


def test_squares_shrink_as_in_the_paper() -> None:
    """p is halved after queries 10, 50, 200, …, 8000 of 10,000; of a picture of 100 × 100 with p = 0.25."""
    attack = square.Square(LinfBall(0.1), queries=10_000, p_init=0.25)
    sides = {query: attack._side(query, 100) for query in (1, 11, 12, 51, 52, 8001, 8002, 9999)}
    areas = {1: 0.25, 11: 0.25, 12: 0.125, 51: 0.125, 52: 0.0625, 8001: 0.25 / 256, 8002: 0.25 / 512, 9999: 0.25 / 512}
    assert sides == {query: round(100 * math.sqrt(area)) for query, area in areas.items()}
    fewer = square.Square(LinfBall(0.1), queries=1000, p_init=0.25)
    assert fewer._side(2, 100) == 50 and fewer._side(3, 100) == round(100 * math.sqrt(0.125))


@pytest.mark.parametrize("ball", [LinfBall(9.7 / 255), L2Ball(0.6)])
def test_square_asks_about_canvases_at_the_edge_of_the_budget(ball: Ball) -> None:
    """In L∞ each value is all the way up or down; each query changes one square; what is kept never gets worse."""
    linear = Linear.make(2, boxed=True)
    weight = linear.network.first.detach().numpy()
    far = Sums(weight / 1e3, bias=np.array([1.0, 0.0]))
    network, canvases = Recorded(far), linear.canvases[:1]
    attack = square.Square(ball, queries=60, p_init=0.3)
    found = attack(surrogates(network), batch_of(canvases, torch.tensor([0]))).canvases
    asked = torch.cat(network.asked)[1:]  # the first is the clean one
    assert len(asked) == 60
    assert asked.min() >= 0 and asked.max() <= 1
    clean = canvases.float() / 255
    objective = margin(far(asked), Goal(torch.zeros(60, dtype=torch.int64)))
    best = int(objective.argmax())
    assert torch.equal(found, ball.to_grid(canvases, asked[best : best + 1]))
    slopes = torch.from_numpy(weight[1] - weight[0]) / 1e3
    gained = objective - margin(far(clean), Goal(torch.tensor([0])))
    optimum = ball.eps * float(slopes.norm(1 if ball.norm == "linf" else 2))
    assert gained[best] > 0.2 * optimum, gained[best] / optimum
    if ball.norm == "linf":
        changed = (255 * (asked - clean)).round()
        low, high = (canvases.float() - 9).clamp(min=0), (canvases.float() + 9).clamp(max=255)
        assert ((changed == low - canvases) | (changed == high - canvases)).all()
        assert torch.equal((255 * asked[0]).round().byte().float() / 255, asked[0])
        columns = (asked[0] > clean[0]) | (clean[0] == 1)
        assert (columns.all(dim=1) | (~(asked[0] > clean[0])).all(dim=1)).all()  # stripes
    else:
        sizes = (asked - clean).flatten(1).norm(dim=1)
        assert (sizes <= 0.6 * (1 + 1e-5)).all() and (sizes > 0.4).all()


def test_square_keeps_the_budget_while_it_moves_windows() -> None:
    """What a second window loses, the first gains: in every channel, the norm of what changed is the same or more."""
    generator = torch.Generator().manual_seed(0)
    changed = torch.randn(4, 3, 12, 12, generator=generator)
    changed = changed / changed.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    names = [f"image {number}" for number in range(4)]
    for step in range(20):
        moved = square._square_l2(changed, 1.0, 5, Draws(0, "attack", names).at(step))
        assert torch.allclose(moved.flatten(2).norm(dim=2), changed.flatten(2).norm(dim=2), rtol=1e-4)
        different = ((moved != changed).any(dim=1)).flatten(1).sum(dim=1)
        assert (different <= 2 * 25).all() and (different >= 25).all()
        changed = moved


def test_a_first_window_is_the_papers_bump_on_its_side_or_upright() -> None:
    """Where nothing has changed yet, with the whole budget: in each channel, with either sign."""
    bump = square._bump(5) / math.sqrt(3)
    for step in range(8):
        moved = square._square_l2(torch.zeros(1, 3, 12, 12), 1.0, 5, Draws(0, "attack", ["image"]).at(step))[0]
        rows, columns = (moved[0] != 0).nonzero().T
        for channel in moved[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]:
            assert any(torch.allclose(sign * shape, channel) for sign in (1, -1) for shape in (bump, bump.T))


# The cascade ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scripted:
    """Paints the images that it is told, asks the model once, and remembers who was still attacked."""

    painted: tuple[int, ...]
    attacked: list[list[bool]]
    steps: int = 7

    def cost(self, models: int) -> tuple[int, int]:
        return models, 2 * models

    def __call__(self, surrogates: Surrogates, batch: Batch) -> object:
        assert surrogates.active is not None
        self.attacked.append(surrogates.active.tolist())
        surrogates.logits(batch.clean)
        canvases = batch.canvases.clone()
        canvases[list(self.painted)] = 255 - len(self.attacked)
        return Found(canvases)


def test_a_cascade_attacks_what_still_stands() -> None:
    canvases = torch.full((3, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    seen: list[list[bool]] = []
    cascade = Cascade((Scripted((0,), seen), Scripted((0, 1), seen), Scripted((0, 1), seen)))  # type: ignore[arg-type]
    attacked = surrogates(OffGrid(200))
    found = cascade(attacked, batch_of(canvases, torch.tensor([0, 0, 0]))).canvases
    assert seen == [[True, True, True], [False, True, True], [False, False, True]]
    assert found[:, 0, 0, 0].tolist() == [254, 253, 100]
    assert isinstance(attacked.tally.forwards, Tensor)
    assert attacked.tally.forwards.tolist() == [2, 4, 6]
    assert cascade.cost(2) == (12, 12) and cascade.steps is None


def test_autoattack_is_apgd_ce_then_targeted_then_fab_then_square() -> None:
    cascade = RECIPES["autoattack"].make(LinfBall(0.1), steps=20, queries=30)
    first, second, fab, third = cascade.stages
    assert (type(fab).__name__, fab.steps) == ("_FabTargeted", 20)
    assert first == apgd.ApgdCe(LinfBall(0.1), steps=20) and first.objective is cross_entropy
    assert second == apgd.ApgdT(LinfBall(0.1), steps=20) and second.objective is dlr and second.target_classes == 9
    assert third == square.Square(LinfBall(0.1), queries=30, p_init=0.8)


def test_apgd_t_tries_the_nine_best_other_classes_in_order() -> None:
    """With twelve classes of which none is reached, each run's gradient points to another class."""
    towards: list[list[int]] = []

    class Watched(Surrogates):
        def slope(self, canvases: Tensor, objective: Objective, goal: Goal, **more: Any) -> Slope:
            assert goal.targets is not None
            towards.append(goal.targets.tolist())
            return super().slope(canvases, objective, goal, **more)

    bias = np.array([9.0, -1, -4, -3, -2, -5, -6, -7, -8, -9, -10, -11])
    network = Sums(np.random.default_rng(0).normal(size=(12, SIZE)) / 1e4, bias=bias)
    attacked = Watched([as_is(network, SIDE)], center, 1.0)
    make("apgd-t", LinfBall(1 / 255), steps=2)(attacked, batch_of(some_canvases(1), torch.tensor([0])))
    assert towards == [[each] for each in (1, 4, 3, 2, 5, 6, 7, 8, 9) for _ in range(3)]


# What every driver promises ------------------------------------------------------------------------------------------


@every
@given(st.data())
@settings(max_examples=6, deadline=None)
def test_inside_the_budget_and_the_box_on_the_grid(name: str, norm: str, data: st.DataObject) -> None:
    levels = data.draw(st.floats(1, 60), label="levels")
    eps = levels / 255 * {"linf": 1.0, "l2": 5.0, "l1": 50.0}[norm]
    seed = data.draw(st.integers(0, 99), label="seed")
    canvases, network = some_canvases(3, seed), bent(seed)
    labels = taken_for(network, canvases)
    targets = None
    if RECIPES[name].goals == "any" and data.draw(st.booleans(), label="targeted"):
        targets = (labels + 1) % 6
    attack = make(name, BALLS[norm](eps))
    found = attack(surrogates(network), batch_of(canvases, labels, targets))
    assert found.canvases.dtype == torch.uint8 and found.canvases.shape == canvases.shape
    assert (changes(found.canvases, canvases).norm(ORDERS[norm], dim=1) <= eps * 255 * (1 + 1e-9)).all()
    assert (found.norms is not None) == (RECIPES[name].kind == "minimal-norm")


@every
def test_rows_do_not_depend_on_the_batch(name: str, norm: str) -> None:
    """Images that fall at different times, or never, in micro-batches of 1, 3 and 8: the same to the last bit."""
    eps = {"linf": 3 / 255, "l2": 0.12, "l1": 0.8}[norm]
    canvases, network = some_canvases(8, 5), bent(5)
    labels = taken_for(network, canvases)
    labels[2] = (labels[2] + 1) % 6  # taken for another class when clean
    attack, whole = make(name, BALLS[norm](eps)), []
    for size in (1, 3, 8):
        rows = []
        for start in range(0, 8, size):
            part = slice(start, start + size)
            attacked = surrogates(network)
            found = attack(attacked, batch_of(canvases[part], labels[part], first=start))
            norms = torch.zeros(len(found.canvases)) if found.norms is None else found.norms
            tally = attacked.tally
            assert tally.finite is None or tally.finite.all()
            rows.append((found.canvases.flatten(1), norms, tally.forwards, tally.backwards + 0 * tally.forwards))
        whole.append([torch.cat(column) for column in zip(*rows, strict=True)])
    for other in whole[1:]:
        for column, (ours, theirs) in enumerate(zip(whole[0], other, strict=True)):
            assert torch.equal(ours, theirs), column
    fallen = taken_for(network, whole[0][0].view_as(canvases)) != labels
    assert 1 < int(fallen.sum()) < 8
    if RECIPES[name].kind in ("gradient", "cascade"):  # whoever falls is done
        fallen[2] = False
        assert (whole[0][3][fallen] < attack.cost(1)[1]).any()
    most_forwards, most_backwards = attack.cost(1)
    assert int(whole[0][2].max()) <= most_forwards and int(whole[0][3].max()) <= most_backwards
    assert int(whole[0][2][2]) <= 1 + (name == "autoattack") and int(whole[0][3][2]) <= 1
    assert attack.cost(3) == (3 * most_forwards, 3 * most_backwards)


@every
def test_an_image_that_is_wrong_already_stays_as_it_is(name: str, norm: str) -> None:
    canvases, network = some_canvases(4, 6), bent(6)
    labels = (taken_for(network, canvases) + 1) % 6
    found = make(name, BALLS[norm](0.5))(surrogates(network), batch_of(canvases, labels))
    assert torch.equal(found.canvases, canvases)
    if found.norms is not None:
        assert (found.norms == 0).all()


@every
def test_the_cost_is_reached_by_an_image_that_never_falls(name: str, norm: str) -> None:
    """Logits that no perturbation can bring near another class: all steps of all runs are taken."""
    network = Sums(np.random.default_rng(0).normal(size=(12, SIZE)) / 1e3, bias=np.array([99.0] + [0.0] * 11))
    attacked, attack = surrogates(network, network), make(name, BALLS[norm](0.05))
    attack(attacked, batch_of(some_canvases(2), torch.tensor([0, 0])))
    forwards, backwards = attack.cost(2)
    counted = attacked.tally
    if name == "cw":  # aborted early, unless told not to
        attack = make(name, BALLS[norm](0.05), abort_early=False)
        attacked = surrogates(network, network)
        attack(attacked, batch_of(some_canvases(2), torch.tensor([0, 0])))
        counted = attacked.tally
    assert (torch.as_tensor(counted.backwards) == backwards).all()
    assert (torch.as_tensor(counted.forwards) <= forwards).all()
    assert (torch.as_tensor(counted.forwards) >= forwards / 2 - 2 * minimal.SETTLING).all()


@minimal_norm
def test_a_minimal_norm_does_not_know_the_budget(name: str, norm: str) -> None:
    """Norms are those of floats, of a curved model, too; what is stored reaches the goal where the budget allows."""
    canvases, network = some_canvases(4, 7), bent(7)
    labels = taken_for(network, canvases)
    roomy = {"linf": 20 / 255, "l2": 1.0, "l1": 9.0}[norm]
    small, large = (
        make(name, BALLS[norm](eps), **{**LONG[name], "steps": 200})(surrogates(network), batch_of(canvases, labels))
        for eps in (0.01, roomy)
    )
    assert (taken_for(network, large.canvases) != labels).all()
    assert small.norms is not None and large.norms is not None
    assert torch.equal(small.norms, large.norms)
    assert (large.norms > 0).all() and (large.norms < roomy).all()


@pytest.mark.parametrize("name", ["deepfool", "apgd-t"])
def test_some_take_no_target(name: str) -> None:
    canvases = some_canvases(2)
    with pytest.raises(InputError, match=r"target: .* takes none"):
        make(name, L2Ball(1.0))(
            surrogates(bent()), batch_of(canvases, taken_for(bent(), canvases), torch.tensor([1, 2]))
        )


@pytest.mark.parametrize(
    ("name", "ball", "parameters", "message"),
    [
        ("cw", LinfBall(0.1), {}, "norm: linf cannot be bounded by this attack; it bounds l2"),
        ("ddn", L1Ball(0.1), {}, "norm: l1 cannot be bounded by this attack; it bounds l2"),
        ("deepfool", L1Ball(0.1), {}, "norm: l1 cannot be bounded by this attack; it bounds linf or l2"),
        ("square", L1Ball(0.1), {}, "norm: l1 cannot be bounded by this attack; it bounds linf or l2"),
        ("cw", L2Ball(0.1), {"steps": 0}, "steps: 0 is not at least 1"),
        ("cw", L2Ball(0.1), {"confidence": -1.0}, "confidence: -1.0 is not at least 0"),
        ("cw", L2Ball(0.1), {"learning_rate": 0.0}, "learning_rate: 0.0 is not above 0"),
        ("cw", L2Ball(0.1), {"binary_search_steps": 0}, "binary_search_steps: 0 is not at least 1"),
        ("deepfool", L2Ball(0.1), {"candidates": 1}, "candidates: 1 is not at least 2"),
        ("deepfool", L2Ball(0.1), {"overshoot": math.nan}, "overshoot: nan is not at least 0"),
        ("ddn", L2Ball(0.1), {"gamma": 1.0}, "gamma: 1.0 is not in (0, 1)"),
        ("ddn", L2Ball(0.1), {"alpha": 0.0}, "alpha: 0.0 is not above 0"),
        ("ddn", L2Ball(0.1), {"alpha_final": -0.1}, "alpha_final: -0.1 is not above 0"),
        ("fmn", L2Ball(0.1), {"alpha": -1.0}, "alpha: -1.0 is not above 0"),
        ("fmn", L2Ball(0.1), {"alpha_final": 0.0}, "alpha_final: 0.0 is not above 0"),
        ("fmn", L2Ball(0.1), {"gamma_final": 1.0}, "gamma_final: 1.0 is not in (0, 1)"),
        ("apgd-ce", L2Ball(0.1), {"restarts": 0}, "restarts: 0 is not at least 1"),
        ("apgd-ce", L2Ball(0.1), {"step_weight": 0}, "step_weight: 0 is not in (0, 1]"),
        ("apgd-t", L2Ball(0.1), {"target_classes": 0}, "target_classes: 0 is not at least 1"),
        ("square", L2Ball(0.1), {"p_init": 1.5}, "p_init: 1.5 is not in (0, 1)"),
        ("autoattack", L2Ball(0.1), {"queries": 0}, "queries: 0 is not at least 1"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(
    name: str, ball: Ball, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        RECIPES[name].make(ball, **parameters)
    assert str(raised.value) == message


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_parameters_have_types_and_defaults(recipe: Recipe) -> None:
    """What an experiment may set is known from the recipe alone."""
    for name, (kind, default) in recipe.parameters.items():
        assert kind in (int, float, bool, float | None), name
        assert default is None or isinstance(default, int | float), name
    for function in recipe.chain:
        assert next(iter(signature(function).parameters)) == "ball"
