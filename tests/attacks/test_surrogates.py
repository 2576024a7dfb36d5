"""Surrogates: fusion by hand, gradients by finite differences, precision, and defences inside the objective."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from tests.conftest import Samples
from tests.support.attacks import (
    SHAPE,
    SIDE,
    SIZE,
    Counted,
    Sums,
    Table,
    Watched,
    as_is,
    batch_of,
    bent,
    quick,
    slope_weights,
    softmax,
    some_canvases,
    surrogates,
)
from transforms.attacks.engine import attack_batch
from transforms.attacks.objectives import OBJECTIVES, Goal, cross_entropy
from transforms.attacks.spec import AttackSpec
from transforms.attacks.surrogates import FUSIONS, Fusion, Surrogates
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE, Defense
from transforms.defenses.differentiable import differentiable
from transforms.defenses.grid import parse
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.views import center, ten_crop

fusions = pytest.mark.parametrize("fuse", FUSIONS)


def by_hand(fuse: str, logits: list[np.ndarray], wanted: int) -> float:
    """Cross-entropy of two models' fused logits for one image."""
    if fuse in ("logits", "drawn"):  # as long as none is drawn
        return float(-np.log(softmax((logits[0] + logits[1]) / 2)[wanted]))
    if fuse == "probabilities":
        return float(-np.log((softmax(logits[0]) + softmax(logits[1]))[wanted] / 2))
    return float(-(np.log(softmax(logits[0])[wanted]) + np.log(softmax(logits[1])[wanted])) / 2)


@fusions
@pytest.mark.parametrize("targets", [None, [2, 3, 1]])
def test_fusion_by_hand(fuse: Fusion, targets: list[int] | None) -> None:
    """The objective, and as its slope the gradient: finite differences in double precision."""
    weight = [(30 * slope_weights(4, seed)).astype(np.float32).astype(np.float64) for seed in range(2)]
    classifiers = [as_is(Sums(each).double()).double() for each in weight]
    attacked = Surrogates(classifiers, center, 1.0, fuse)
    pixels = np.random.default_rng(0).random((3, SIZE)).astype(np.float32).astype(np.float64)
    labels = [0, 1, 3]
    goal = Goal(torch.tensor(labels), None if targets is None else torch.tensor(targets))

    def objective(item: int, values: np.ndarray) -> float:
        wanted = labels[item] if targets is None else targets[item]
        return by_hand(fuse, [each @ values for each in weight], wanted) * (1 if targets is None else -1)

    canvases = torch.from_numpy(pixels).view(3, *SHAPE)
    expected = [objective(item, pixels[item]) for item in range(3)]
    _, value = attacked.judge(canvases, cross_entropy, goal)
    slope = attacked.slope(canvases, cross_entropy, goal)
    # Looks are single precision, whatever comes in.
    assert np.allclose(value.numpy(), expected, rtol=1e-5)
    assert torch.equal(slope.values, value) and torch.equal(slope.logits, attacked.logits(canvases))
    step = 1e-5 * np.eye(SIZE)
    for item in range(3):
        rises = [(objective(item, pixels[item] + s) - objective(item, pixels[item] - s)) / 2e-5 for s in step]
        assert np.allclose(slope.gradient[item].flatten(), rises, rtol=1e-4, atol=1e-7)


@fusions
def test_fused_logits_are_the_mean(fuse: str) -> None:
    if fuse == "probabilities":
        shares = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]
        tables = [Table({0: np.log(each).tolist()}) for each in shares]
        fused = surrogates(*tables, side=1, fuse=fuse).logits(torch.zeros(1, 3, 1, 1)).softmax(dim=1)
        assert torch.allclose(fused, torch.tensor([[0.4, 0.5, 0.1]]))
    else:
        tables = [Table({0: [1.0, 2.0, 0.0]}), Table({0: [1.0, 1.0, -2.0]})]
        logits = surrogates(*tables, side=1, fuse=fuse).logits(torch.zeros(1, 3, 1, 1))
        assert torch.allclose(logits, torch.tensor([[1.0, 1.5, -1.0]]))


@fusions
def test_a_class_that_all_models_exclude_has_a_gradient(fuse: str) -> None:
    """Probabilities below 1e-45 are zero in single precision; their logarithms are not."""
    weight = np.stack([np.full(SIZE, 1.0), np.full(SIZE, -1.0)]) * 1.2
    attacked = surrogates(Sums(weight), Sums(weight), fuse=fuse)
    goal = Goal(torch.tensor([0]), torch.tensor([1]))
    slope = attacked.slope(torch.ones(1, *SHAPE), cross_entropy, goal)
    assert attacked.tally.finite is not None and attacked.tally.finite.all()
    # -log p is the difference of the logits.
    assert torch.allclose(slope.gradient, torch.tensor(-2.4), rtol=1e-4)
    assert slope.values.item() == pytest.approx(-2.4 * SIZE, rel=1e-5)


def test_copies_average_logits_before_the_objective() -> None:
    """Not the mean of gradients: the gradient of the cross-entropy of mean logits."""
    network, canvases = bent(), some_canvases(3) / 255
    goal = Goal(torch.tensor([0, 1, 2]))
    copies: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: x / 2, lambda x: x.flip(3)]
    found = surrogates(network).slope(canvases, cross_entropy, goal, copies=copies)
    points = canvases.clone().requires_grad_()
    mean = sum(network(copy(points)) for copy in copies) / 3
    value = nn.functional.cross_entropy(mean, goal.labels, reduction="none")
    (expected,) = torch.autograd.grad(value.sum(), points)
    assert torch.allclose(found.gradient, expected, rtol=1e-5, atol=1e-7)
    assert torch.allclose(found.logits, mean, atol=1e-6) and torch.allclose(found.values, value, atol=1e-6)


@fusions
def test_jacobian_is_the_slope_of_each_logit(fuse: str) -> None:
    networks, canvases = [bent(0), bent(1)], some_canvases(3) / 255
    classes = torch.tensor([[0, 2], [3, 1], [2, 3]])
    attacked = surrogates(*networks, fuse=fuse)
    logits, gradients = attacked.jacobian(canvases, classes)
    assert torch.equal(logits, attacked.logits(canvases)) and gradients.shape == (3, 2, *SHAPE)
    for place in range(2):
        points = canvases.clone().requires_grad_()
        looks = torch.stack([each(points) for each in networks])
        fused = looks.log_softmax(2).exp().mean(0).log() if fuse == "probabilities" else looks.mean(0)
        picked = fused.gather(1, classes[:, [place]]).sum()
        (expected,) = torch.autograd.grad(picked, points)
        assert torch.allclose(gradients[:, place], expected, rtol=1e-4, atol=1e-6)
    assert attacked.tally.forwards.tolist() == [4] * 3 and attacked.tally.backwards.tolist() == [4] * 3


def test_differentiable_logits_give_what_slope_gives() -> None:
    """By whoever's autograd, counted alike; and nothing is left on what belongs to the caller."""
    canvases, goal = some_canvases(3) / 255, Goal(torch.tensor([0, 1, 2]))
    for precision in ("fp32", "bf16"):
        ours, theirs = (surrogates(bent(0), bent(1), precision=precision) for _ in range(2))
        slope = ours.slope(canvases, cross_entropy, goal)
        points = canvases.clone().requires_grad_()
        for _ in range(2):
            logits = theirs.differentiable_logits(points)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, goal).sum(), points)
            assert torch.equal(logits, slope.logits) and torch.equal(gradient, slope.gradient)
        assert theirs.tally.forwards.tolist() == (2 * ours.tally.forwards).tolist() == [4] * 3
        assert theirs.tally.backwards.tolist() == (2 * ours.tally.backwards).tolist() == [4] * 3
        (own,) = torch.autograd.grad((points**2).sum(), points)
        assert torch.equal(own, 2 * canvases) and theirs.tally.backwards.tolist() == [4] * 3
    with torch.no_grad():
        assert torch.equal(theirs.differentiable_logits(points), theirs.logits(points))


def test_members_are_the_models_alone_with_one_tally() -> None:
    networks, canvases, goal = [bent(0), bent(1), bent(2)], some_canvases(2) / 255, Goal(torch.tensor([0, 1]))
    attacked = surrogates(*networks)
    for member, network in zip(attacked.members, networks, strict=True):
        found, alone = (each.slope(canvases, cross_entropy, goal) for each in (member, surrogates(network)))
        assert torch.equal(found.gradient, alone.gradient)
    assert attacked.tally.forwards.tolist() == [3, 3] and attacked.tally.backwards.tolist() == [3, 3]


def test_only_active_images_pay() -> None:
    attacked, canvases, goal = surrogates(bent()), some_canvases(3) / 255, Goal(torch.tensor([0, 1, 2]))
    attacked.slope(canvases, cross_entropy, goal)
    some = attacked.counting(torch.tensor([True, False, True]))
    some.slope(canvases, cross_entropy, goal)
    some.logits(canvases)
    attacked.logits(canvases)
    assert attacked.tally.forwards.tolist() == [4, 2, 4] and attacked.tally.backwards.tolist() == [2, 1, 2]
    fewer = some.counting(torch.tensor([False, True, True]))  # the second is done already
    assert fewer.active is not None and fewer.active.tolist() == [False, False, True]
    fewer.members[0].slope(canvases, cross_entropy, goal)
    assert attacked.tally.forwards.tolist() == [4, 2, 5] and attacked.tally.backwards.tolist() == [2, 1, 3]
    assert not (attacked.idle or some.idle or fewer.idle)
    assert fewer.counting(torch.tensor([True, True, False])).idle


def test_a_view_cuts_a_canvas_up_only_to_show_it() -> None:
    seen: list[int] = []

    def looking(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
        seen.append(len(canvases))
        return ten_crop(canvases, window)

    attacked = surrogates(bent(side=8), bent(1, side=8), side=8, view=looking)
    batch = batch_of(some_canvases(3), [0, 1, 2])
    attacked.slope(batch.clean, cross_entropy, batch.goal)
    assert [each for each in seen if each] == [3, 3]
    assert attacked.tally.forwards.tolist() == attacked.tally.backwards.tolist() == [20] * 3


@pytest.mark.parametrize("fuse", FUSIONS)
def test_a_pass_is_one_network_over_one_window(fuse: str) -> None:
    networks = [Counted(bent(seed)) for seed in range(2)]
    attacked = surrogates(*networks, view=ten_crop, fuse=fuse)
    attacked.slope(some_canvases(3) / 255, cross_entropy, Goal(torch.tensor([0, 1, 2])))
    assert [each.forwards for each in networks] == [each.backwards for each in networks] == [30, 30]
    assert attacked.tally.forwards.tolist() == attacked.tally.backwards.tolist() == [20] * 3


# Gradients that break ------------------------------------------------------------------------------------------------


class Breaking(nn.Module):
    """Not finite for an image with a white corner."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.network = bent()
        self.factor = factor

    def forward(self, windows: Tensor) -> Tensor:
        broken = windows[:, :1, 0, 0] > 0.9
        logits: Tensor = self.network(windows)
        return logits * torch.where(broken, self.factor, 1.0)


class Root(nn.Module):
    """Its slope is infinite at each black value, and there alone."""

    def forward(self, windows: Tensor) -> Tensor:
        values = windows.flatten(1).sqrt()
        return torch.stack([values[:, : SIZE // 2].sum(1), values[:, SIZE // 2 :].sum(1)], dim=1) / SIZE


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["fgsm", "bim", "mi-fgsm", "ni-fgsm", "vmi-fgsm", "emi-fgsm", "pgn", "gra", "adam-pgd"]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_broken_image_is_flagged_and_stops_no_other(factor: float, name: str, norm: str) -> None:
    canvases = some_canvases(4)
    canvases[:, 0, 0, 0] = torch.tensor([128, 255, 0, 128])
    batch = batch_of(canvases, [0, 1, 2, 3])
    attacked = surrogates(Breaking(factor))
    small = 4 / 255 if norm == "linf" else 0.1
    chosen = {"beta": 0.5} if name in {"vmi-fgsm", "gra", "pgn"} else {"radius": 1.0} if name == "emi-fgsm" else {}
    found = quick(name, norm, small, **chosen)(attacked, batch).canvases
    assert attacked.tally.finite is not None and attacked.tally.finite.tolist() == [True, False, True, True]
    healthy = quick(name, norm, small, **chosen)(surrogates(bent()), batch).canvases
    assert torch.equal(found[[0, 2, 3]], healthy[[0, 2, 3]])
    assert not torch.equal(found[0], canvases[0])


@pytest.mark.parametrize("name", ["svre", "adaea", "cwa"])
def test_a_broken_image_of_an_ensemble(name: str) -> None:
    """One model breaks on one image."""
    canvases = some_canvases(4)
    canvases[:, 0, 0, 0] = torch.tensor([128, 255, 0, 128])
    batch = batch_of(canvases, [0, 1, 2, 3])
    attacked = surrogates(bent(1), Breaking(math.nan))
    found = quick(name, eps=4 / 255)(attacked, batch).canvases
    assert attacked.tally.finite is not None and attacked.tally.finite.tolist() == [True, False, True, True]
    healthy = quick(name, eps=4 / 255)(surrogates(bent(1), bent(0)), batch).canvases
    assert torch.equal(found[[0, 2, 3]], healthy[[0, 2, 3]])


def test_one_broken_value_breaks_its_image() -> None:
    canvases = torch.full((2, *SHAPE), 128, dtype=torch.uint8)
    canvases[1, 2, 3, 4] = 0
    attacked = surrogates(Root())
    found = quick("fgsm", eps=4 / 255)(attacked, batch_of(canvases, [0, 0])).canvases
    assert attacked.tally.finite is not None and attacked.tally.finite.tolist() == [True, False]
    assert torch.equal(found[1], canvases[1]) and (found[0] != canvases[0]).all()


def test_a_gradient_that_breaks_once_stays_flagged() -> None:
    attacked, goal = surrogates(Breaking(math.nan)), Goal(torch.tensor([0, 1]))
    canvases = torch.full((2, *SHAPE), 0.5)
    attacked.slope(canvases, cross_entropy, goal)
    assert attacked.tally.finite is not None and attacked.tally.finite.tolist() == [True, True]
    canvases[1] = 1
    gradient = attacked.slope(canvases, cross_entropy, goal).gradient
    assert attacked.tally.finite.tolist() == [True, False]
    assert gradient.isfinite().all() and gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0
    canvases[1] = 0.5
    attacked.slope(canvases, cross_entropy, goal)
    assert attacked.tally.finite.tolist() == [True, False]


def test_an_image_that_is_done_cannot_break_any_more() -> None:
    attacked, goal = surrogates(Breaking(math.nan)).counting(torch.tensor([True, False])), Goal(torch.tensor([0, 1]))
    canvases = torch.full((2, *SHAPE), 0.5)
    canvases[1] = 1
    attacked.slope(canvases, cross_entropy, goal)
    assert attacked.tally.finite is not None and attacked.tally.finite.tolist() == [True, True]


# Precision -----------------------------------------------------------------------------------------------------------


class Spy(nn.Module):
    """Notes whether it ran under autocast, and whether anything was to flow back through it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, windows: Tensor) -> Tensor:
        self.seen.append((torch.is_autocast_enabled("cpu"), windows.requires_grad))
        logits: Tensor = self.network(windows)
        return logits


class Layers(nn.Module):
    """A small network of layers that autocast knows, sure enough of itself for its gradients to be tiny."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(8 * SIDE**2, 16),
            nn.GELU(),
            nn.Linear(16, 4),
        )
        self.factor = factor

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.layers(windows)
        return logits * self.factor


def spec_for(recipe: str, **more: Any) -> AttackSpec:
    given = {
        "name": "attack",
        "recipe": recipe,
        "parameters": (),
        "surrogates": ("one",),
        "fuse": "logits",
        "view": "center",
        "defense": NO_DEFENSE,
        "precision": "fp32",
        "norm": "linf",
        "eps": 8 / 255,
        "target": None,
    }
    return AttackSpec(**{**given, **more})


def canvas_batch(canvases: Tensor, labels: list[int]) -> CanvasBatch:
    return CanvasBatch(tuple(f"image {number}" for number in range(len(labels))), tuple(labels), canvases.numpy())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("keep", ["last", "best", "first"])
def test_success_is_judged_in_single_precision(precision: str, keep: str) -> None:
    """Whatever gradients flow through runs in the chosen precision; what is judged and stored never does."""
    spy = Spy(Layers())
    spec = spec_for("bim", precision=precision, parameters=(("steps", 3), ("keep", keep)))
    canvases = some_canvases(4)
    attacked = attack_batch(spec, [as_is(spy)], canvas_batch(canvases, [0, 1, 2, 3]), Conditions(0, 1.0, 4))
    assert {autocast for autocast, flows in spy.seen if flows} == {precision != "fp32"}
    assert {autocast for autocast, flows in spy.seen if not flows} == {False}
    plain = as_is(Layers())
    for stored, probabilities in ((attacked.canvases, attacked.adversarial), (canvases.numpy(), attacked.clean)):
        seen = plain(torch.from_numpy(stored) / 255).detach()
        assert np.array_equal(probabilities, seen.softmax(dim=1))


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.98), ("fp16", 0.999)])
def test_reduced_precision_points_the_same_way(precision: str, least: float) -> None:
    canvases, goal = some_canvases(8) / 255, Goal(torch.arange(8) % 4)
    exact = surrogates(Layers()).slope(canvases, cross_entropy, goal).gradient
    rough = surrogates(Layers(), precision=precision).slope(canvases, cross_entropy, goal)
    assert rough.gradient.dtype == rough.logits.dtype == torch.float32 and rough.gradient.isfinite().all()
    assert not torch.equal(rough.gradient, exact)
    assert torch.cosine_similarity(rough.gradient.flatten(1), exact.flatten(1)).min() > least
    sizes = rough.gradient.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert (sizes - 1).abs().max() < 0.05  # the scale of the loss is undone


def test_tiny_gradients_survive_half_precision() -> None:
    """Of a confident model: values of 3e-7, most of which fp16 cannot hold, come through scaled."""
    canvases = some_canvases(4) / 255
    goal = Goal(Layers()(canvases).argmax(dim=1))
    exact = surrogates(Layers(100.0)).slope(canvases, cross_entropy, goal).gradient
    assert exact.abs().amax(dim=(1, 2, 3)).min() < 5e-7
    rough = surrogates(Layers(100.0), precision="fp16").slope(canvases, cross_entropy, goal).gradient
    assert torch.cosine_similarity(rough.flatten(1), exact.flatten(1)).min() > 0.999


@pytest.mark.parametrize("by_autograd", [False, True])
def test_an_objective_that_is_steep_for_one_image_does_not_overflow_fp16(by_autograd: bool) -> None:
    """The derivative by logits is 10^4; times the usual scale of 1024 that would be infinite in fp16."""
    canvases, goal = some_canvases(2) / 255, Goal(torch.tensor([0, 0]), torch.tensor([1, 2]))

    def steep(logits: Tensor, goal: Goal) -> Tensor:
        return torch.tensor([1e4, 1.0]) * OBJECTIVES["logit"](logits, goal)

    def gradient(precision: str) -> Tensor:
        asked = surrogates(Layers(), precision=precision)
        if not by_autograd:
            return asked.slope(canvases, steep, goal).gradient
        seen = canvases.clone().requires_grad_()
        (found,) = torch.autograd.grad(steep(asked.differentiable_logits(seen), goal).sum(), seen)
        return found

    exact, rough = gradient("fp32"), gradient("fp16")
    assert torch.cosine_similarity(rough.flatten(1), exact.flatten(1)).min() > 0.999
    assert (rough.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1) - 1).abs().max() < 0.05


# Defences inside the objective ---------------------------------------------------------------------------------------

DEFENSES = [
    parse("lowpass:cutoff=0.5"),
    parse("blur:sigma=1.0"),
    parse("jpeg:quality=50"),
]
defenses = pytest.mark.parametrize("defense", DEFENSES, ids=lambda each: each.name)


@defenses
def test_models_see_exactly_the_defended_8_bit_canvas(defense: Defense) -> None:
    """Also of canvases between two levels: rounded, defended, and back in [0, 1]."""
    watched = Watched(bent())
    attacked = surrogates(watched, defense=[differentiable(defense)])
    canvases = some_canvases(3).float() / 255 + torch.linspace(-0.0019, 0.0019, SIZE).view(SHAPE)
    attacked.slope(canvases.clamp(0, 1), cross_entropy, Goal(torch.tensor([0, 1, 2])))
    rounded = torch.from_numpy(np.rint(canvases.clamp(0, 1).numpy() * np.float32(255)).astype(np.uint8))
    assert torch.equal(watched.shown[0], defense(rounded) / 255)
    assert torch.equal((watched.shown[0] * 255).round().to(torch.uint8), defense(rounded))


@defenses
def test_a_defence_is_seen_beyond_the_range_of_pixels(defense: Defense) -> None:
    """Look-ahead points leave [0, 1]; a defence is shown the nearest picture."""
    far = torch.linspace(-0.5, 1.5, SIZE).view(1, *SHAPE)
    seen = differentiable(defense)(far)
    assert torch.equal(seen, defense((far.clamp(0, 1) * 255).round().to(torch.uint8)) / 255)


def adjoint(defense: Defense, pulled: np.ndarray) -> np.ndarray:
    """The transposed matrix of a linear defence, built column by column from SciPy's and NumPy's own filters."""

    def forward(picture: np.ndarray) -> np.ndarray:
        if defense.filters[0].function == "jpeg":
            return picture
        if defense.filters[0].function == "blur":
            return ndimage.gaussian_filter(picture, 1.0, mode="mirror", truncate=4.0)
        frequency = abs(np.fft.fftfreq(SIDE)) <= 0.25 + 1e-12
        return np.fft.ifft2(np.fft.fft2(picture) * (frequency[:, None] & frequency)).real

    columns = [forward(unit.reshape(SIDE, SIDE)).ravel() for unit in np.eye(SIDE**2)]
    matrix = np.stack(columns, axis=1)
    return np.stack([(matrix.T @ channel.ravel()).reshape(SIDE, SIDE) for channel in pulled])


@defenses
def test_gradients_flow_back_through_the_linear_operator(defense: Defense) -> None:
    """Low-pass and blur are linear but for rounding; JPEG passes gradients as if it were not there (BPDA)."""
    canvases = (some_canvases(1) // 2 + 64).float() / 255
    goal = Goal(torch.tensor([1]))
    found = surrogates(bent(), defense=[differentiable(defense)]).slope(canvases, cross_entropy, goal).gradient[0]
    seen = differentiable(defense)(canvases)
    at_the_defended = surrogates(bent()).slope(seen, cross_entropy, goal).gradient[0].double().numpy()
    assert np.allclose(found, adjoint(defense, at_the_defended), rtol=1e-4, atol=1e-6)


@pytest.mark.system
@pytest.mark.parametrize("defense", [parse("lowpass:cutoff=0.5")], ids=lambda each: each.name)
def test_an_attack_through_a_defence_survives_it(defense: Defense, lite0: Classifier, samples: Samples) -> None:
    """And the same attack on the bare model does not: the king penguin of real weights, low-passed."""
    chosen = torch.tensor([each for each in range(20) if survives_clean(lite0, samples, each, defense)][:2])
    batch = canvas_batch(samples.canvases[chosen], samples.labels[chosen].tolist())
    parameters = (("steps", 4), ("alpha", 0.5 / 255))
    labels = samples.labels[chosen]
    defended = {}
    for name, through in (("bare", NO_DEFENSE), ("through", defense)):
        spec = spec_for("bim", eps=1 / 255, parameters=parameters, defense=through)
        attacked = attack_batch(spec, [lite0], batch, Conditions(0, 224 / 256, 2))
        seen = Surrogates([lite0], center, 224 / 256).logits(defense(torch.from_numpy(attacked.canvases)) / 255)
        defended[name] = seen.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        if through == defense:  # what is reported is what the defended model says
            assert np.allclose(attacked.adversarial, seen.softmax(dim=1), atol=1e-5)
            assert (seen.argmax(dim=1) != labels).all()
        else:
            assert (attacked.adversarial.argmax(axis=1) != labels.numpy()).all()
    assert (defended["through"] < 0.5 * defended["bare"]).all()


def survives_clean(lite0: Classifier, samples: Samples, item: int, defense: Defense) -> bool:
    seen = Surrogates([lite0], center, 224 / 256).logits(defense(samples.canvases[[item]]) / 255)
    return bool(seen.argmax(dim=1) == samples.labels[item])


@pytest.mark.parametrize("fuse", ["logits", "losses"])
def test_weighed_models_are_added_up(fuse: Fusion) -> None:
    """Logits and gradients of a sum of networks, or of their losses, whose weights differ from image to image."""
    networks, points = [bent(0), bent(1)], some_canvases(3).float() / 255
    weights, goal = torch.tensor([[0.2, 0.5, 1.0], [0.8, 0.5, 0.0]]), Goal(torch.tensor([0, 1, 2]))
    found = surrogates(*networks, fuse=fuse).weighed(weights).slope(points, cross_entropy, goal)
    leaf = points.clone().requires_grad_()
    first, second = (network(leaf) for network in networks)
    summed = weights[0, :, None] * first + weights[1, :, None] * second
    losses = weights[0] * cross_entropy(first, goal) + weights[1] * cross_entropy(second, goal)
    climbed = losses if fuse == "losses" else cross_entropy(summed, goal)
    (expected,) = torch.autograd.grad(climbed.sum(), leaf)
    assert torch.allclose(found.logits, summed, atol=1e-6)
    assert torch.allclose(found.gradient, expected, rtol=1e-4, atol=1e-7)
