"""The attack loop: linear models whose best perturbation is known, NumPy loops, other libraries on real weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from conftest import Samples
from torch import Tensor, nn

from transforms.attacks.balls import L2Ball, LinfBall
from transforms.attacks.loop import AttackLoop
from transforms.attacks.objectives import Goal, cross_entropy
from transforms.attacks.randomness import Draws
from transforms.attacks.recipes import RECIPES, Attack, bim, fgsm, mi_fgsm, pgd
from transforms.attacks.surrogates import FUSIONS, Surrogates
from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.views import center

SIDE = 6
SIZE = 3 * SIDE**2


def as_is(network: nn.Module, side: int = SIDE) -> Classifier:
    """A network that is shown pixels in [0, 1] as they are."""
    return Classifier(network, Preprocessing(side, 1.0, "bilinear", mean=(0, 0, 0), std=(1, 1, 1)))


class Linear(nn.Module):
    def __init__(self, weight: np.ndarray, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)))
        self.bias = bias

    def forward(self, windows: Tensor) -> Tensor:
        return windows.flatten(1) @ self.weight.T + self.bias


class Bent(nn.Module):
    """A small network with curvature, so that the gradient turns on the way."""

    def __init__(self, seed: int, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(16, SIZE, generator=generator) / 4)
        self.last = nn.Parameter(torch.randn(classes, 16, generator=generator))

    def forward(self, windows: Tensor) -> Tensor:
        return torch.sin(windows.flatten(1) @ self.first.T) @ self.last.T


def surrogates(*networks: nn.Module, side: int = SIDE, fuse: str = "logits") -> Surrogates:
    return Surrogates([as_is(each, side) for each in networks], center, 1.0, fuse)


def weights(classes: int, seed: int = 0) -> np.ndarray:
    """Small enough for softmax not to saturate, and nowhere equal between classes."""
    return np.random.default_rng(seed).normal(size=(classes, SIZE)) / SIZE


def some_canvases(count: int, seed: int = 0) -> Tensor:
    """A third of the values at the ends of the range, where the box cuts in."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (count, 3, SIDE, SIDE))
    ends = rng.choice([0, 1, 254, 255], values.shape)
    return torch.from_numpy(np.where(rng.random(values.shape) < 1 / 3, ends, values).astype(np.uint8))


def draws_for(count: int) -> Draws:
    return Draws(0, "attack", [f"image {number}" for number in range(count)])


LOOPS: dict[str, Callable[[LinfBall | L2Ball], Attack]] = {
    "fgsm": lambda ball: fgsm(ball, cross_entropy),
    "bim": lambda ball: bim(ball, cross_entropy, steps=7),
    "pgd": lambda ball: pgd(ball, cross_entropy, steps=7),
    "pgd from the image": lambda ball: pgd(ball, cross_entropy, steps=7, random_start=False),
    "pgd restarted": lambda ball: pgd(ball, cross_entropy, steps=7, restarts=3),
    "mi-fgsm": lambda ball: mi_fgsm(ball, cross_entropy, steps=7),
    "mi-fgsm, decay 0.5": lambda ball: mi_fgsm(ball, cross_entropy, steps=7, decay=0.5),
    "mi-fgsm from anywhere": lambda ball: mi_fgsm(ball, cross_entropy, steps=7, alpha=ball.eps, random_start=True),
}
loops = pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
goals = pytest.mark.parametrize(
    ("goal", "towards"),
    [
        (Goal(torch.tensor([0, 1, 0, 1])), [1, 0, 1, 0]),
        (Goal(torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 0, 1])), [1, 0, 0, 1]),
    ],
    ids=["untargeted", "targeted"],
)


@loops
@goals
@pytest.mark.parametrize("k", [1, 4, 60])
def test_linf_optimum_of_a_linear_model(
    make: Callable[[LinfBall], Attack], goal: Goal, towards: list[int], k: int
) -> None:
    """Of two classes, every value goes k levels towards the weight of the wanted one, or as far as there is room."""
    canvases, weight = some_canvases(4), weights(2)
    found = make(LinfBall(k / 255))(surrogates(Linear(weight)), canvases, goal, draws_for(4))
    uphill = np.stack([np.sign(weight[wanted] - weight[1 - wanted]) for wanted in towards]).reshape(canvases.shape)
    assert np.array_equal(found.numpy(), np.clip(canvases.numpy().astype(int) + k * uphill, 0, 255))


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd from the image", "mi-fgsm"])
@goals
def test_l2_optimum_of_a_linear_model(name: str, goal: Goal, towards: list[int]) -> None:
    """Away from the box, it is the whole budget along the difference of the two classes' weights."""
    canvases = torch.randint(100, 156, (4, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    weight, eps = weights(2), 1.0
    found = LOOPS[name](L2Ball(eps))(surrogates(Linear(weight)), canvases, goal, draws_for(4))
    uphill = np.stack([weight[wanted] - weight[1 - wanted] for wanted in towards])
    optimum = eps * 255 * uphill / np.linalg.norm(uphill, axis=1, keepdims=True)
    changed = (found.int() - canvases.int()).flatten(1).numpy()
    assert abs(changed - optimum).max() < 1.001
    assert abs(changed - optimum).mean() < 0.3  # a quarter, were everything rounded
    assert ((changed**2).sum(1) <= (eps * 255) ** 2).all()


def test_l2_pgd_from_anywhere_comes_close_to_the_optimum() -> None:
    canvases = torch.full((4, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    weight, goal = weights(2), Goal(torch.zeros(4, dtype=torch.int64))
    found = pgd(L2Ball(1.0), cross_entropy, steps=40)(surrogates(Linear(weight)), canvases, goal, draws_for(4))
    gained = (found.int() - canvases.int()).flatten(1).numpy() @ (weight[1] - weight[0])
    assert (gained > 0.97 * 255 * np.linalg.norm(weight[1] - weight[0])).all()


@pytest.mark.parametrize("ball", [LinfBall(10.3 / 255), L2Ball(0.7)])
@loops
def test_never_outside_the_budget(ball: LinfBall | L2Ball, make: Callable[[LinfBall | L2Ball], Attack]) -> None:
    canvases = some_canvases(4)
    found = make(ball)(surrogates(Bent(0)), canvases, Goal(torch.tensor([0, 1, 2, 3])), draws_for(4))
    changed = (found.int() - canvases.int()).flatten(1).double()
    order = math.inf if isinstance(ball, LinfBall) else 2
    assert (changed.norm(order, dim=1) <= ball.eps * 255).all()
    assert (changed.norm(order, dim=1) > 0.8 * ball.eps * 255).all()


class Watched(nn.Module):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Bent(0)
        self.shown: list[Tensor] = []

    def forward(self, windows: Tensor) -> Tensor:
        self.shown.append(windows.detach().clone())
        logits: Tensor = self.network(windows)
        return logits


@pytest.mark.parametrize("ball", [LinfBall(10 / 255), L2Ball(0.7)])
@loops
def test_models_see_pictures_only(ball: LinfBall | L2Ball, make: Callable[[LinfBall | L2Ball], Attack]) -> None:
    """Values in [0, 1] within the budget, at every step and at a random start, too."""
    network, canvases = Watched(), some_canvases(4)
    make(ball)(surrogates(network), canvases, Goal(torch.tensor([0, 1, 2, 3])), draws_for(4))
    shown = torch.stack(network.shown)
    assert shown.min() == 0 and shown.max() == 1
    order = math.inf if isinstance(ball, LinfBall) else 2
    assert (shown - canvases / 255).flatten(2).norm(order, dim=2).max() <= ball.eps * (1 + 1e-5)


def test_alpha_is_the_length_of_a_step() -> None:
    """Three steps of two levels, far from the edge of the budget."""
    canvases, weight = torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8), weights(2)
    goal, uphill = Goal(torch.tensor([0])), np.sign(weight[1] - weight[0]).reshape(1, 3, SIDE, SIDE)
    for recipe in (bim, mi_fgsm):
        attack = recipe(LinfBall(50 / 255), cross_entropy, steps=3, alpha=2 / 255)
        found = attack(surrogates(Linear(weight)), canvases, goal, draws_for(1))
        assert np.array_equal(found.numpy(), 128 + 6 * uphill)
    far = AttackLoop(L2Ball(3.0), steps=3, alpha=0.5)(surrogates(Linear(weight)), canvases, goal, draws_for(1))
    assert (far.double() - 128).norm() / 255 == pytest.approx(1.5, rel=0.01)


def test_default_steps_reach_the_edge() -> None:
    ball = LinfBall(8 / 255)
    assert bim(ball, cross_entropy, steps=10).alpha == pytest.approx(0.8 / 255)
    assert mi_fgsm(ball, cross_entropy, steps=10).alpha == pytest.approx(0.8 / 255)
    assert pgd(ball, cross_entropy, steps=10).alpha == pytest.approx(2 / 255)
    assert fgsm(ball, cross_entropy).alpha == 8 / 255 and fgsm(ball, cross_entropy).steps == 1


# Momentum ------------------------------------------------------------------------------------------------------------


def test_without_decay_momentum_is_bim() -> None:
    canvases, goal, ball = some_canvases(4), Goal(torch.tensor([0, 1, 2, 3])), LinfBall(16 / 255)
    found = {
        decay: mi_fgsm(ball, cross_entropy, decay=decay)(surrogates(Bent(0)), canvases, goal, draws_for(4))
        for decay in (0.0, 1.0)
    }
    plain = bim(ball, cross_entropy)(surrogates(Bent(0)), canvases, goal, draws_for(4))
    assert torch.equal(found[0.0], plain)
    assert not torch.equal(found[1.0], plain)


@pytest.mark.parametrize("decay", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("targets", [None, [3, 3, 0, 1]])
def test_mi_fgsm_is_a_numpy_loop(decay: float, targets: list[int] | None) -> None:
    """The same network, gradient by hand, in double precision: Dong et al. 2018, equations 6 and 7."""
    network, canvases, labels = Bent(1), some_canvases(4, seed=1), [0, 1, 2, 3]
    first, last = (each.detach().double().numpy() for each in (network.first, network.last))
    eps, steps = 12 / 255, 8
    expected = []
    for item, canvas in enumerate(canvases.flatten(1).double().numpy() / 255):
        adversarial, accumulated = canvas, np.zeros(SIZE)
        for _ in range(steps):
            hidden = first @ adversarial
            logits = last @ np.sin(hidden)
            softmax = np.exp(logits) / np.exp(logits).sum()
            wanted = labels[item] if targets is None else targets[item]
            outer = (softmax - np.eye(4)[wanted]) * (1 if targets is None else -1)
            gradient = ((outer @ last) * np.cos(hidden)) @ first
            accumulated = decay * accumulated + gradient / abs(gradient).mean()
            adversarial = adversarial + eps / steps * np.sign(accumulated)
            adversarial = np.clip(np.clip(adversarial, canvas - eps, canvas + eps), 0, 1)
        expected.append(np.rint(adversarial * 255))
    goal = Goal(torch.tensor(labels), None if targets is None else torch.tensor(targets))
    attack = mi_fgsm(LinfBall(eps), cross_entropy, steps=steps, decay=decay)
    found = attack(surrogates(network), canvases, goal, draws_for(4)).flatten(1).numpy()
    # A value may end at exactly half a level, where single precision decides, but not one in a hundred does.
    assert abs(found - np.stack(expected)).max() <= 1
    assert (found != np.stack(expected)).mean() < 0.01


@pytest.mark.parametrize("scale", [1e-6, 1e-16])
def test_tiny_gradients_weigh_as_much_in_momentum(scale: float) -> None:
    """Gradients are normalized, so an objective scaled down (to gradients of 1e-33) changes nothing."""

    def scaled(logits: Tensor, goal: Goal) -> Tensor:
        return cross_entropy(logits, goal) * scale * scale

    canvases, goal, ball = some_canvases(4), Goal(torch.tensor([0, 1, 2, 3])), LinfBall(16 / 255)
    plain = mi_fgsm(ball, cross_entropy)(surrogates(Bent(0)), canvases, goal, draws_for(4))
    found = mi_fgsm(ball, scaled)(surrogates(Bent(0)), canvases, goal, draws_for(4))
    assert (found != plain).float().mean() < 0.01


# Restarts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scripted(LinfBall):
    """Begins each restart at the grey level that the script says."""

    script: tuple[int, ...] = ()

    def start(self, canvases: Tensor, draws: Draws, restart: int) -> Tensor:
        return torch.full(canvases.shape, self.script[restart] / 255) - canvases / 255


class Table(nn.Module):
    """Logits looked up by the grey level of the first value; without slope, so that an attack stays at its start."""

    def __init__(self, logits: dict[int, list[float]]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, windows: Tensor) -> Tensor:
        found = [self.logits[round(level * 255)] for level in windows[:, 0, 0, 0].tolist()]
        return torch.tensor(found) + 0 * windows.sum()


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
    canvases, goal = torch.full((count, 3, 1, 1), 128, dtype=torch.uint8), Goal(torch.zeros(count, dtype=torch.int64))

    def attack(restarts: int, draws: Draws) -> Tensor:
        made = AttackLoop(ball, 60, 0.01, random_start=True, restarts=restarts)
        return made(surrogates(Bumps(height), side=1), canvases, goal, draws)[:, 0, 0, 0] / 255

    once, often = attack(1, draws_for(count)), attack(4, draws_for(count))
    starts = torch.stack([0.502 + ball.start(canvases, draws_for(count), restart)[:, 0, 0, 0] for restart in range(4)])
    # Left of the valley between the bumps, ascent ends at the trap.
    curve = Bumps(height)(torch.linspace(0.35, 0.65, 301).view(-1, 1, 1, 1).expand(-1, 3, -1, -1))[:, 1]
    valley = 0.35 + 0.001 * int(curve.argmin())
    clear = (starts - valley).abs().amin(dim=0) > 0.01
    assert torch.equal(once[clear] > 0.5, (starts[0] > valley)[clear])
    assert torch.equal(often[clear] > 0.5, (starts > valley).any(dim=0)[clear])
    fails_first = clear & (once < 0.5) & (often > 0.5)
    assert fails_first.any() and (clear & (once > 0.5)).any()
    assert (once[fails_first] - 0.35).abs().max() < 0.02 and (often[fails_first] - 0.65).abs().max() < 0.02


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
    """Label 0, probabilities: 10 and 30 are failures, 20 and 40 = 50 successes."""
    probabilities = {
        10: [0.35, 0.325, 0.325],
        30: [0.6, 0.2, 0.2],
        20: [0.45, 0.54, 0.01],
        40: [0.1, 0.8, 0.1],
        50: [0.1, 0.1, 0.8],
    }
    table = Table({level: np.log(each).tolist() for level, each in probabilities.items()})
    attack = AttackLoop(Scripted(1.0, script), 1, 0.1, random_start=True, restarts=len(script))
    canvases = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    found = attack(surrogates(table, side=1), canvases, Goal(torch.tensor([0, 0])), draws_for(2))
    assert (found == kept).all()


@pytest.mark.parametrize(("fuse", "kept"), [("logits", 10), ("losses", 20)])
def test_restarts_are_judged_by_what_they_climb(fuse: str, kept: int) -> None:
    """Class 1 leads by 1 and 1, or by 10 and -9: a mean lead of 1 or 0.5, but a mean loss of 1.3 or 5."""
    one = Table({10: [0.0, 1.0], 20: [0.0, 10.0]})
    other = Table({10: [0.0, 1.0], 20: [9.0, 0.0]})
    for script in ((10, 20), (20, 10)):
        attack = AttackLoop(Scripted(1.0, script), 1, 0.1, random_start=True, restarts=2)
        canvases = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
        found = attack(surrogates(one, other, side=1, fuse=fuse), canvases, Goal(torch.tensor([0])), draws_for(1))
        assert (found == kept).all()


def test_restarts_of_one_image_do_not_touch_another() -> None:
    canvases, goal = some_canvases(3), Goal(torch.tensor([0, 1, 2]))
    attack = pgd(LinfBall(16 / 255), cross_entropy, steps=3, restarts=4)
    together = attack(surrogates(Bent(0)), canvases, goal, draws_for(3))
    for item in range(3):
        alone = attack(
            surrogates(Bent(0)), canvases[[item]], Goal(goal.labels[[item]]), Draws(0, "attack", [f"image {item}"])
        )
        assert torch.equal(together[[item]], alone)


# What it costs, what can go wrong ------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts the images that really went through it, forwards and backwards."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = self.backwards = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.forwards += len(windows)
        logits: Tensor = self.network(windows)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def two_halves(canvases: Tensor, _window: int) -> tuple[Tensor, ...]:
    """A view of two windows: the canvas, and the canvas upside down."""
    return canvases, canvases.flip(2)


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        ("fgsm", {}),
        ("bim", {"steps": 3}),
        ("pgd", {"steps": 3}),
        ("pgd", {"steps": 3, "restarts": 2}),
        ("pgd", {"steps": 2, "restarts": 5}),
        ("mi-fgsm", {"steps": 4}),
        ("mi-fgsm", {"steps": 4, "restarts": 3, "random_start": True}),
    ],
)
@pytest.mark.parametrize("fuse", FUSIONS)
def test_cost_is_what_is_really_paid(recipe: str, parameters: dict[str, int], fuse: str) -> None:
    networks = [Counted(Bent(seed)) for seed in range(2)]
    attacked = Surrogates([as_is(each) for each in networks], two_halves, 1.0, fuse)
    attack = RECIPES[recipe].make(LinfBall(4 / 255), cross_entropy, **parameters)
    attack(attacked, some_canvases(3), Goal(torch.tensor([0, 1, 2])), draws_for(3))
    paid = tuple(sum(getattr(each, kind) for each in networks) for kind in ("forwards", "backwards"))
    windows, models, images = 2, 2, 3
    assert paid == tuple(each * windows * models * images for each in attack.cost)
    assert (attacked.forwards * images, attacked.backwards * images) == paid


def test_every_recipe_is_priced_above() -> None:
    assert set(RECIPES) == {"fgsm", "bim", "pgd", "mi-fgsm"}


class Breaking(nn.Module):
    """Not finite for an image with a white corner."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.network = Bent(0)
        self.factor = factor

    def forward(self, windows: Tensor) -> Tensor:
        broken = windows[:, :1, 0, 0] > 0.9
        logits: Tensor = self.network(windows)
        return logits * torch.where(broken, self.factor, 1.0)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("make", [LOOPS["fgsm"], LOOPS["bim"], LOOPS["mi-fgsm"]])
@pytest.mark.parametrize("ball", [LinfBall(4 / 255), L2Ball(0.5)])
def test_a_broken_image_is_flagged_and_stops_no_other(
    factor: float, make: Callable[[LinfBall | L2Ball], Attack], ball: LinfBall | L2Ball
) -> None:
    canvases, goal = some_canvases(4), Goal(torch.tensor([0, 1, 2, 3]))
    canvases[:, 0, 0, 0] = torch.tensor([128, 255, 0, 128])
    attacked = surrogates(Breaking(factor))
    assert attacked.finite is None
    found = make(ball)(attacked, canvases, goal, draws_for(4))
    assert attacked.finite is not None and attacked.finite.tolist() == [True, False, True, True]
    healthy = make(ball)(surrogates(Bent(0)), canvases, goal, draws_for(4))
    assert torch.equal(found[[0, 2, 3]], healthy[[0, 2, 3]])
    assert not torch.equal(found[0], canvases[0])


class Root(nn.Module):
    """Its slope is infinite at each black value, and there alone."""

    def forward(self, windows: Tensor) -> Tensor:
        values = windows.flatten(1).sqrt()
        return torch.stack([values[:, : SIZE // 2].sum(1), values[:, SIZE // 2 :].sum(1)], dim=1) / SIZE


def test_one_broken_value_breaks_its_image() -> None:
    canvases = torch.full((2, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    canvases[1, 2, 3, 4] = 0
    attacked = surrogates(Root())
    found = LOOPS["fgsm"](LinfBall(4 / 255))(attacked, canvases, Goal(torch.tensor([0, 0])), draws_for(2))
    assert attacked.finite is not None and attacked.finite.tolist() == [True, False]
    assert torch.equal(found[1], canvases[1]) and (found[0] != canvases[0]).all()


def test_a_gradient_that_breaks_once_stays_flagged() -> None:
    attacked, goal = surrogates(Breaking(math.nan)), Goal(torch.tensor([0, 1]))
    canvases = torch.full((2, 3, SIDE, SIDE), 0.5)
    attacked.gradient(canvases, cross_entropy, goal)
    assert attacked.finite is not None and attacked.finite.tolist() == [True, True]
    canvases[1] = 1
    gradient = attacked.gradient(canvases, cross_entropy, goal)
    assert attacked.finite.tolist() == [True, False]
    assert gradient.isfinite().all() and gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0
    canvases[1] = 0.5
    attacked.gradient(canvases, cross_entropy, goal)
    assert attacked.finite.tolist() == [True, False]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda ball: AttackLoop(ball, steps=0, alpha=0.1), "steps"),
        (lambda ball: bim(ball, cross_entropy, steps=0), "steps"),
        (lambda ball: pgd(ball, cross_entropy, steps=-1), "steps"),
        (lambda ball: pgd(ball, cross_entropy, restarts=0), "restarts"),
        (lambda ball: pgd(ball, cross_entropy, restarts=2, random_start=False), "restarts"),
        (lambda ball: mi_fgsm(ball, cross_entropy, restarts=2), "restarts"),
        (lambda ball: mi_fgsm(ball, cross_entropy, decay=-0.1), "decay"),
        (lambda ball: bim(ball, cross_entropy, alpha=0), "alpha"),
        (lambda ball: pgd(ball, cross_entropy, alpha=-1 / 255), "alpha"),
    ],
)
def test_senseless_parameters_are_refused_in_one_line(make: Callable[[LinfBall], Attack], named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: .+\Z"):
        make(LinfBall(4 / 255))


# Surrogates ----------------------------------------------------------------------------------------------------------


def by_hand(fuse: str, logits: list[np.ndarray], wanted: int) -> float:
    """Cross-entropy of two models' fused logits for one image."""

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.exp(values) / np.exp(values).sum()

    if fuse == "logits":
        return float(-np.log(softmax((logits[0] + logits[1]) / 2)[wanted]))
    if fuse == "probabilities":
        return float(-np.log((softmax(logits[0]) + softmax(logits[1]))[wanted] / 2))
    return float(-(np.log(softmax(logits[0])[wanted]) + np.log(softmax(logits[1])[wanted])) / 2)


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("targets", [None, [2, 3, 1]])
def test_fusion_by_hand(fuse: str, targets: list[int] | None) -> None:
    """The objective, and as its slope the gradient: finite differences in double precision."""
    weight = [30 * weights(4, seed) for seed in range(2)]
    networks = [Linear(each).double() for each in weight]
    attacked = Surrogates([as_is(each).double() for each in networks], center, 1.0, fuse)
    pixels = np.random.default_rng(0).random((3, SIZE))
    labels = [0, 1, 3]
    goal = Goal(torch.tensor(labels), None if targets is None else torch.tensor(targets))

    def objective(item: int, values: np.ndarray) -> float:
        wanted = labels[item] if targets is None else targets[item]
        return by_hand(fuse, [each @ values for each in weight32], wanted) * (1 if targets is None else -1)

    weight32 = [each.astype(np.float32).astype(np.float64) for each in weight]
    canvases = torch.from_numpy(pixels).view(3, 3, SIDE, SIDE)
    _, value = attacked.judge(canvases, cross_entropy, goal)
    assert np.allclose(value.numpy(), [objective(item, pixels[item]) for item in range(3)], rtol=1e-9)
    gradient = attacked.gradient(canvases, cross_entropy, goal).flatten(1).numpy()
    step = 1e-5 * np.eye(SIZE)
    for item in range(3):
        slope = [(objective(item, pixels[item] + s) - objective(item, pixels[item] - s)) / 2e-5 for s in step]
        assert np.allclose(gradient[item], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("fuse", "expected"), [("logits", [1.0, 1.5, -1.0]), ("losses", [1.0, 1.5, -1.0])])
def test_fused_logits_are_the_mean(fuse: str, expected: list[float]) -> None:
    tables = Table({0: [1.0, 2.0, 0.0]}), Table({0: [1.0, 1.0, -2.0]})
    logits = surrogates(*tables, side=1, fuse=fuse).logits(torch.zeros(1, 3, 1, 1))
    assert torch.allclose(logits, torch.tensor([expected]))


def test_fused_probabilities_are_the_mean() -> None:
    shares = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]
    tables = [Table({0: np.log(each).tolist()}) for each in shares]
    fused = surrogates(*tables, side=1, fuse="probabilities").logits(torch.zeros(1, 3, 1, 1)).softmax(dim=1)
    assert torch.allclose(fused, torch.tensor([[0.4, 0.5, 0.1]]))


@pytest.mark.parametrize("fuse", FUSIONS)
def test_a_class_that_all_models_exclude_has_a_gradient(fuse: str) -> None:
    """Probabilities below 1e-45 are zero in single precision; their logarithms are not."""
    weight = np.stack([np.full(SIZE, 1.0), np.full(SIZE, -1.0)]) * 1.2
    attacked = surrogates(Linear(weight), Linear(weight), fuse=fuse)
    goal = Goal(torch.tensor([0]), torch.tensor([1]))
    canvases = torch.ones(1, 3, SIDE, SIDE)
    gradient = attacked.gradient(canvases, cross_entropy, goal)
    assert attacked.finite is not None and attacked.finite.all()
    # -log p is the difference of the logits.
    assert torch.allclose(gradient, torch.tensor(-2.4))
    assert attacked.judge(canvases, cross_entropy, goal)[1].item() == pytest.approx(-2.4 * SIZE, rel=1e-5)


def test_goal() -> None:
    logits = torch.tensor([[3.0, 1, 2], [3.0, 1, 2], [0.0, 1, 0]])
    assert Goal(torch.tensor([0, 1, 1])).reached(logits).tolist() == [False, True, False]
    targets = torch.tensor([0, 2, 0])
    assert Goal(torch.tensor([1, 1, 1]), targets).reached(logits).tolist() == [True, False, False]


def test_canvases_are_not_written_to() -> None:
    canvases = some_canvases(2)
    before = canvases.clone()
    pgd(LinfBall(16 / 255), cross_entropy)(surrogates(Bent(0)), canvases, Goal(torch.tensor([0, 1])), draws_for(2))
    assert torch.equal(canvases, before)


# Other libraries on real weights -------------------------------------------------------------------------------------

COUNT, STEPS = 8, 3
EPS, ALPHA = 4 / 255, 2 / 255


def attacked_by_us(attack: Attack, lite0: Classifier, samples: Samples, goal: Goal) -> Tensor:
    return attack(Surrogates([lite0], center, 224 / 256), samples.canvases[:COUNT], goal, draws_for(COUNT))


def on_the_grid(adversarial: Tensor) -> Tensor:
    return (adversarial * 255).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("attack", "theirs"),
    [
        (fgsm(LinfBall(EPS), cross_entropy), lambda model: torchattacks.FGSM(model, EPS)),
        (
            bim(LinfBall(EPS), cross_entropy, steps=STEPS, alpha=ALPHA),
            lambda model: torchattacks.PGD(model, EPS, ALPHA, STEPS, random_start=False),
        ),
        (
            mi_fgsm(LinfBall(EPS), cross_entropy, steps=STEPS, alpha=ALPHA, decay=0.9),
            lambda model: torchattacks.MIFGSM(model, EPS, ALPHA, STEPS, decay=0.9),
        ),
    ],
    ids=["fgsm", "bim", "mi-fgsm"],
)
@pytest.mark.parametrize("targeted", [False, True])
def test_agrees_with_torchattacks(
    attack: Attack,
    theirs: Callable[[nn.Module], torchattacks.attack.Attack],
    targeted: bool,
    lite0: Classifier,
    samples: Samples,
) -> None:
    """Pixel for pixel: they climb the mean over the batch, an eighth of our sum, which is exact in binary."""
    labels = samples.labels[:COUNT]
    targets = (labels + 500) % 1000 if targeted else None
    other = theirs(lite0)
    if targets is not None:
        other.set_mode_targeted_by_label(quiet=True)
    expected = on_the_grid(other(samples.canvases[:COUNT].float() / 255, labels if targets is None else targets))
    found = attacked_by_us(attack, lite0, samples, Goal(labels, targets))
    assert torch.equal(found, expected)
    assert (found != samples.canvases[:COUNT]).float().mean() > 0.5


@pytest.mark.parametrize(
    ("attack", "theirs"),
    [
        (fgsm(LinfBall(EPS), cross_entropy), foolbox.attacks.LinfFastGradientAttack()),
        (
            bim(LinfBall(EPS), cross_entropy, steps=STEPS, alpha=ALPHA),
            foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=ALPHA, steps=STEPS, random_start=False),
        ),
    ],
    ids=["fgsm", "bim"],
)
def test_agrees_with_foolbox(attack: Attack, theirs: foolbox.Attack, lite0: Classifier, samples: Samples) -> None:
    """Pixel for pixel."""
    labels = samples.labels[:COUNT]
    model = foolbox.PyTorchModel(lite0, bounds=(0, 1), device="cpu")
    _, expected, _ = theirs(model, samples.canvases[:COUNT].float() / 255, labels, epsilons=EPS)
    assert torch.equal(attacked_by_us(attack, lite0, samples, Goal(labels)), on_the_grid(expected))


@pytest.mark.parametrize(
    ("attack", "theirs"),
    [
        (fgsm(L2Ball(0.7), cross_entropy), foolbox.attacks.L2FastGradientAttack()),
        (
            bim(L2Ball(0.7), cross_entropy, steps=10, alpha=0.3),
            foolbox.attacks.L2BasicIterativeAttack(abs_stepsize=0.3, steps=10, random_start=False),
        ),
    ],
    ids=["fgsm", "bim"],
)
def test_agrees_with_foolbox_in_l2(attack: AttackLoop, theirs: foolbox.Attack) -> None:
    """On a smooth network: where a gradient jumps (ReLU), the last bit of a step soon decides about whole levels."""
    network, canvases, labels = as_is(Bent(2)), some_canvases(20), torch.arange(20) % 4
    canvases[:10] = 64 + canvases[:10] // 2  # half of them away from the box
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, adversarial, _ = theirs(model, canvases.float() / 255, labels, epsilons=attack.ball.eps)
    found = attack(Surrogates([network], center, 1.0), canvases, Goal(labels), draws_for(20))
    clean = canvases.flatten(1).int()
    ours, expected = (each.flatten(1).int() - clean for each in (found, on_the_grid(adversarial)))
    # Rounding leaves the ball by a little, and only we go back: by a level, where they rounded away from the image.
    budget = (attack.ball.eps * 255) ** 2
    fits = (expected**2).sum(1) <= budget
    assert torch.equal(ours[fits], expected[fits])
    assert ((ours**2).sum(1) <= budget).all()
    assert (ours - expected).abs().max() == 1
    assert (ours.abs() <= expected.abs()).all()
    assert fits.any() and not fits.all()
