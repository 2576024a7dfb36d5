"""Agreement with other libraries on real weights: the float canvases before they are rounded, value for value."""

from collections.abc import Callable, Iterator
from typing import Any

import foolbox
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from tests.conftest import Samples
from tests.support.attacks import SIDE, Sums, as_is, batch_of, bent, iterate, make, recording, some_canvases, surrogates
from transforms.attacks.balls import L2Ball, LinfBall
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Batch
from transforms.attacks.recipes.names import recipe
from transforms.attacks.surrogates import Surrogates
from transforms.models.classifier import Classifier
from transforms.models.views import center
from transforms.randomness import Draws

pytestmark = pytest.mark.system

COUNT, STEPS = 4, 3
EPS, ALPHA = 4 / 255, 2 / 255
NAMES = [f"image {number}" for number in range(COUNT)]
Theirs = Callable[[nn.Module], Any]


def ours(name: str, lite0: Classifier, samples: Samples, goal: Goal, **parameters: Any) -> Tensor:
    """The float canvases with which we end on the first samples."""
    canvases = samples.canvases[:COUNT]
    batch = Batch(canvases, goal, Draws(0, "attack", NAMES), canvases, samples.labels[:COUNT])
    return iterate(name, LinfBall(EPS), Surrogates([lite0], center, 224 / 256), batch, **parameters)


TORCHATTACKS: dict[str, tuple[str, dict[str, Any], Theirs]] = {
    "FGSM": ("fgsm", {}, lambda model: torchattacks.FGSM(model, EPS)),
    "BIM": ("bim", {"steps": STEPS, "alpha": ALPHA}, lambda model: torchattacks.BIM(model, EPS, ALPHA, STEPS)),
    "PGD from the image": (
        "pgd",
        {"steps": STEPS, "alpha": ALPHA, "random_start": False},
        lambda model: torchattacks.PGD(model, EPS, ALPHA, STEPS, random_start=False),
    ),
    "MIFGSM": (
        "mi-fgsm",
        {"steps": STEPS, "alpha": ALPHA, "decay": 0.9},
        lambda model: torchattacks.MIFGSM(model, EPS, ALPHA, STEPS, decay=0.9),
    ),
    "NIFGSM": (
        "ni-fgsm",
        {"steps": STEPS, "alpha": ALPHA, "decay": 0.9},
        lambda model: torchattacks.NIFGSM(model, EPS, ALPHA, STEPS, decay=0.9),
    ),
    "SINIFGSM": (
        "ni-si",
        {"steps": STEPS, "alpha": ALPHA, "scales": 3},
        lambda model: torchattacks.SINIFGSM(model, EPS, ALPHA, STEPS, m=3),
    ),
    "TIFGSM without diverse inputs": (
        "ti-fgsm",
        {"steps": STEPS, "alpha": ALPHA},
        lambda model: torchattacks.TIFGSM(model, EPS, ALPHA, STEPS, decay=1.0, diversity_prob=0.0),
    ),
}


ALL = {("FGSM", False), ("FGSM", True), ("MIFGSM", False), ("TIFGSM without diverse inputs", False)}
"""Compared, targeted or not, on all 20 samples; the others on the first four, since a minute more would go by."""


def fours(samples: Samples, *, every: bool) -> Iterator[Samples]:
    """All samples, or the first ones, in batches of one size."""
    for first in range(0, len(samples.labels) if every else COUNT, COUNT):
        part = slice(first, first + COUNT)
        yield Samples(samples.canvases[part], samples.labels[part])


@pytest.mark.parametrize("case", list(TORCHATTACKS))
@pytest.mark.parametrize("targeted", [False, True])
def test_agrees_with_torchattacks(case: str, targeted: bool, lite0: Classifier, samples: Samples) -> None:
    """Bit for bit: they climb the mean over the batch, a quarter of our sum, exact in binary. Only their BIM cuts
    off at other bounds first, and a value of NI's may differ by the last bit of a product, on which a sign may hang."""
    name, parameters, make_theirs = TORCHATTACKS[case]
    for part in fours(samples, every=(case, targeted) in ALL):
        targets = (part.labels + 500) % 1000 if targeted else None
        theirs = make_theirs(lite0)
        if targets is not None:
            theirs.set_mode_targeted_by_label(quiet=True)
        expected = theirs(part.canvases.float() / 255, part.labels if targets is None else targets)
        found = ours(name, lite0, part, Goal(part.labels, targets), **parameters)
        if case in {"BIM", "NIFGSM"}:
            assert ((found - expected).abs() > 1e-6).float().mean() < 1e-3
        else:
            assert torch.equal(found, expected)
        assert ((found - part.canvases / 255).abs() > ALPHA / 2).float().mean() > 0.5


class TheirNoise:
    """Hands our draws to a library that asks torch for uniform noise, call by call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, neighbors: int) -> None:
        self.calls = 0
        self.neighbors = neighbors
        monkeypatch.setattr(torch.Tensor, "uniform_", self.uniform)

    def uniform(self, low: float, high: float) -> Tensor:
        step, number = divmod(self.calls, self.neighbors)
        self.calls += 1
        draws = Draws(0, "attack", NAMES).at("restart", 0, "step", step, "neighbor", number)
        unit = draws.uniform((3, 224, 224), "neighbor")
        return low + (high - low) * unit


@pytest.mark.parametrize("name", ["vmi-fgsm", "vni-fgsm"])
def test_variance_tuning_agrees_with_torchattacks(
    name: str, lite0: Classifier, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our noise in their hands. A difference of two nearly equal gradients is close to zero at a few pixels, where
    rounding decides its sign; the next steps carry that on."""
    labels = samples.labels[:COUNT]
    found = ours(name, lite0, samples, Goal(labels), steps=STEPS, alpha=ALPHA, neighbors=2)
    TheirNoise(monkeypatch, neighbors=2)
    theirs = {"vmi-fgsm": torchattacks.VMIFGSM, "vni-fgsm": torchattacks.VNIFGSM}[name]
    expected = theirs(lite0, EPS, ALPHA, STEPS, N=2)(samples.canvases[:COUNT].float() / 255, labels)
    assert ((found - expected).abs() > 1e-6).float().mean() < 0.005


def test_patchwise_agrees_with_torchattacks(lite0: Classifier, samples: Samples) -> None:
    """Their project factor is the length of a step, ours is named; they cut off at the bounds of the pixels, we cut off
    the change: one rounding. A sum of what eight neighbours were cut off may be zero but for rounding, and signs it."""
    labels = samples.labels[:COUNT]
    found = ours("pi-fgsm", lite0, samples, Goal(labels), steps=STEPS)
    theirs = torchattacks.PIFGSM(lite0, max_epsilon=EPS, num_iter_set=STEPS, amplification=10.0)
    expected = theirs(samples.canvases[:COUNT].float() / 255, labels)
    assert ((found - expected).abs() > 1e-6).float().mean() < 0.02


FOOLBOX: dict[str, tuple[str, dict[str, Any], foolbox.Attack]] = {
    "FGSM": ("fgsm", {}, foolbox.attacks.LinfFastGradientAttack()),
    "BIM": (
        "bim",
        {"steps": STEPS, "alpha": ALPHA},
        foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=ALPHA, steps=STEPS, random_start=False),
    ),
    "PGD from the image": (
        "pgd",
        {"steps": STEPS, "alpha": ALPHA, "random_start": False},
        foolbox.attacks.LinfPGD(abs_stepsize=ALPHA, steps=STEPS, random_start=False),
    ),
}


@pytest.mark.parametrize(
    ("case", "targeted"), [("FGSM", False), ("PGD from the image", False), ("PGD from the image", True)]
)
def test_agrees_with_foolbox(case: str, targeted: bool, lite0: Classifier, samples: Samples) -> None:
    """Bit for bit. Their MI-FGSM is another attack: it adds up the signs of gradients; the paper's (Dong et al. 2018,
    equation 6), which divides each gradient by its L1 norm, is torchattacks'."""
    name, parameters, theirs = FOOLBOX[case]
    criteria = foolbox.criteria
    model = foolbox.PyTorchModel(lite0, bounds=(0, 1), device="cpu")
    for part in fours(samples, every=(case, targeted) == ("FGSM", False)):
        labels = part.labels
        targets = (labels + 500) % 1000 if targeted else None
        wanted = criteria.Misclassification(labels) if targets is None else criteria.TargetedMisclassification(targets)
        expected, *_ = theirs(model, part.canvases.float() / 255, wanted, epsilons=EPS)
        found = ours(name, lite0, part, Goal(labels, targets), **parameters)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("case", ["FGSM", "BIM", "PGD"])
def test_agrees_with_foolbox_in_l2(case: str) -> None:
    """On a smooth network: where a gradient jumps (ReLU), the last bit of a step soon decides about whole levels. Where
    the box cuts in, only our projection is the nearest point: theirs shrinks, then cuts off, and so stays inside the
    ball by more. Compared away from the box, and where it cuts in, ours is at least as far up."""
    ball = L2Ball(0.7)
    name, parameters, theirs = {
        "FGSM": ("fgsm", {}, foolbox.attacks.L2FastGradientAttack()),
        "BIM": (
            "bim",
            {"steps": 10, "alpha": 0.3},
            foolbox.attacks.L2BasicIterativeAttack(abs_stepsize=0.3, steps=10, random_start=False),
        ),
        "PGD": (
            "pgd",
            {"steps": 10, "alpha": 0.1, "random_start": False},
            foolbox.attacks.L2PGD(abs_stepsize=0.1, steps=10, random_start=False),
        ),
    }[case]
    network, labels = bent(2), torch.arange(12) % 4
    canvases = 64 + some_canvases(12) // 2
    model = foolbox.PyTorchModel(as_is(network), bounds=(0, 1), device="cpu")
    expected, *_ = theirs(model, canvases.float() / 255, labels, epsilons=ball.eps)
    found = iterate(name, ball, surrogates(network), batch_of(canvases, labels.tolist()), **parameters)
    assert (found - expected).abs().max() < 1e-5
    assert (found - canvases / 255).abs().max() > 0.01


def test_their_random_start_is_ours_given_ours(
    lite0: Classifier, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGD from a random point: with our start in torchattacks' hands. They add it and cut off the sum, we cut off the
    start and add it: a last bit, where a network of rectifiers may turn a sign."""
    labels = samples.labels[:COUNT]
    found = ours("pgd", lite0, samples, Goal(labels), steps=STEPS, alpha=ALPHA)

    def uniform(self: Tensor, low: float, high: float) -> Tensor:
        unit = Draws(0, "attack", NAMES).at("restart", 0).uniform(tuple(self.shape[1:]), "start")
        return low + (high - low) * unit

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
    expected = torchattacks.PGD(lite0, EPS, ALPHA, STEPS)(samples.canvases[:COUNT].float() / 255, labels)
    assert ((found - expected).abs() > 1e-6).float().mean() < 0.03


class Resizing(nn.Module):
    """Takes pictures of any size, as torchattacks' diverse inputs ask of a model."""

    def __init__(self, network: Sums) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        if windows.shape[-1] != SIDE:
            windows = nn.functional.interpolate(windows, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        logits: Tensor = self.network(windows)
        return logits


def test_momentum_of_diverse_inputs_agrees_with_torchattacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchAttacks pads to a square that the model itself has to take, and never resizes back: on a model that resizes
    first it is our transformation, image by image, with our draws in its hands."""
    eps, rate, steps = 0.05, 1.5, 4
    network, canvases = bent(1), some_canvases(3)
    for item in range(3):
        draws = Draws(0, "attack", [f"image {item}"]).at("restart", 0)
        queue: list[float] = []
        for step in range(steps):
            path = draws.at("step", step, "eot", 0, "transformation", 0, 0)
            size, top, left = path.uniform((3,), "resize")[0].tolist()
            largest = int(SIDE * rate)
            enlarged = SIDE + int(size * (largest - SIDE))
            room = largest - enlarged
            queue += [enlarged, int(top * room), int(left * room), path.uniform((), "diversity").item()]
        queue.reverse()
        monkeypatch.setattr(torch, "randint", lambda queue=queue, **_: torch.tensor([queue.pop()], dtype=torch.int32))
        monkeypatch.setattr(torch, "rand", lambda *_, queue=queue: torch.tensor([queue.pop()]))

        theirs = torchattacks.DIFGSM(
            Resizing(network), eps, eps / steps, steps, decay=1.0, resize_rate=rate, diversity_prob=0.5
        )
        expected = theirs(canvases[[item]].float() / 255, torch.tensor([item]))
        monkeypatch.undo()
        batch = batch_of(canvases[[item]], [item], first=item)
        found = iterate("di-fgsm", LinfBall(eps), surrogates(network), batch, resize_rate=rate, steps=steps)
        assert ((found - expected).abs() > 1e-6).float().mean() < 0.005


def test_what_is_compared_is_what_is_stored(lite0: Classifier, samples: Samples) -> None:
    """The recorded float canvas is the one that is rounded: on the grid, they are one."""
    ball, seen = recording(LinfBall(EPS))
    canvases = samples.canvases[:2]
    batch = Batch(canvases, Goal(samples.labels[:2]), Draws(0, "attack", NAMES[:2]), canvases, samples.labels[:2])
    models = Surrogates([lite0], center, 224 / 256)
    stored = recipe("bim").make(ball, steps=2)(models, batch).canvases
    plain = make("bim", eps=EPS, steps=2)(models, batch).canvases
    assert torch.equal(stored, plain) and torch.equal((seen[-1] * 255).round().to(torch.uint8), stored)
