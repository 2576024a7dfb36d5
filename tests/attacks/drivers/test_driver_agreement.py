"""Drivers against other libraries, on real weights and real images, in few steps: the same model, pixels and budget."""

from collections.abc import Callable
from typing import Any

import eagerpy as ep
import foolbox
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from tests.conftest import Samples
from transforms.attacks.balls import BALLS, Ball, L2Ball, LinfBall
from transforms.attacks.drivers import apgd, carlini_wagner, ddn, deepfool, fmn, square
from transforms.attacks.drivers.cascade import Cascade
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Attack, Batch
from transforms.attacks.recipes import autoattack
from transforms.attacks.surrogates import Slope, Surrogates
from transforms.models.classifier import Classifier
from transforms.models.views import center, look
from transforms.randomness import Draws

pytestmark = pytest.mark.system

FIELD = 224 / 256
PLACES = [1, 3, 4, 9, 10, 11]
"""Samples that Lite0 takes for what they are, whose nearest boundaries are of all distances."""


class Peer(nn.Module):
    """Lite0 as other libraries want it: pixels in [0, 1] -> logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.eval()

    def forward(self, canvases: Tensor) -> Tensor:
        return look(self.classifier, center, canvases, FIELD)


class Setting:
    """The first few of the places, and what they are taken for."""

    def __init__(self, classifier: Classifier, samples: Samples, count: int) -> None:
        self.classifier, self.peer = classifier, Peer(classifier)
        self.canvases, self.labels = samples.canvases[PLACES[:count]], samples.labels[PLACES[:count]]
        self.clean = self.canvases / 255
        assert not self.fooled(self.canvases).any()

    def attack(self, attack: Attack) -> tuple[Tensor, Tensor | None]:
        names = [str(place) for place in PLACES[: len(self.labels)]]
        batch = Batch(self.canvases, Goal(self.labels), Draws(0, "a", names), self.canvases[:1], self.labels[:1])
        found = attack(Surrogates([self.classifier], center, FIELD), batch)
        return found.canvases, found.norms

    def fooled(self, canvases: Tensor) -> Tensor:
        with torch.no_grad():
            return self.peer(canvases.float() / 255).argmax(dim=1) != self.labels

    def norms_of(self, attack: foolbox.attacks.base.MinimizationAttack, norm: str) -> Tensor:
        """Norms that foolbox finds; infinite where it finds none."""
        model = foolbox.PyTorchModel(self.peer, bounds=(0, 1), device=self.clean.device)
        found = attack.run(model, self.clean, foolbox.criteria.Misclassification(self.labels))
        reached = self.peer(found).argmax(dim=1) != self.labels
        return torch.where(reached, BALLS[norm](1.0).length(found - self.clean), torch.inf)


class CutBack(foolbox.attacks.L2FMNAttack):
    """Cuts back to its radius, as foolbox's other norms do: in L2, foolbox 3.3.4 multiplies by 1 instead and ends where
    its first step, of length 1, has led."""

    def project(self, x: ep.Tensor, x0: ep.Tensor, epsilon: ep.Tensor) -> ep.Tensor:
        change = (x - x0).raw
        size = torch.linalg.vector_norm(change, dim=(1, 2, 3)).clamp(min=1e-12)
        return x0 + ep.astensor(change * (epsilon.raw / size).clamp(max=1).view(-1, 1, 1, 1))


@pytest.mark.parametrize(
    ("norm", "ours", "theirs", "tolerance"),
    [
        pytest.param(
            "l2",
            lambda ball: carlini_wagner.CarliniWagner(
                ball, steps=8, binary_search_steps=2, learning_rate=2e-3, initial_const=0.1, abort_early=False
            ),
            foolbox.attacks.L2CarliniWagnerAttack(
                steps=8, binary_search_steps=2, stepsize=2e-3, initial_const=0.1, abort_early=False
            ),
            (0.97, 1.03),
            id="cw",
        ),
        pytest.param(
            "l2",
            lambda ball: deepfool.DeepFool(ball, candidates=3),
            foolbox.attacks.L2DeepFoolAttack(candidates=3),
            (0.95, 1.05),
            id="deepfool-l2",
        ),
        pytest.param(
            "linf",
            lambda ball: deepfool.DeepFool(ball, candidates=3),
            foolbox.attacks.LinfDeepFoolAttack(candidates=3),
            (0.7, 1.0),  # each step of theirs goes 1e-4 of the range further; the way is six or seven times that
            id="deepfool-linf",
        ),
        pytest.param(
            "l2",
            lambda ball: ddn.DecoupledDirectionNorm(ball, steps=10, init_norm=0.3),
            foolbox.attacks.DDNAttack(steps=10, init_epsilon=0.3),
            (0.97, 1.03),
            id="ddn",
        ),
        pytest.param(
            "linf",
            lambda ball: fmn.FastMinimumNorm(ball, steps=12),
            foolbox.attacks.LInfFMNAttack(steps=12),
            (0.95, 1.05),
            id="fmn-linf",
        ),
        pytest.param(
            "l2",
            lambda ball: fmn.FastMinimumNorm(ball, steps=12),
            CutBack(steps=12),
            (0.95, 1.05),
            id="fmn-l2",
        ),
    ],
)
def test_norms_are_foolboxs(
    lite0: Classifier,
    samples: Samples,
    norm: str,
    ours: Callable[[Ball], Attack],
    theirs: foolbox.attacks.base.MinimizationAttack,
    tolerance: tuple[float, float],
) -> None:
    """The steps are the same: medians part by no more than that one ends a step earlier or later."""
    setting = Setting(lite0, samples, 3)
    roomy: dict[str, Ball] = {"l2": L2Ball(2.0), "linf": LinfBall(4 / 255)}
    canvases, norms = setting.attack(ours(roomy[norm]))
    assert norms is not None and norms.isfinite().all()
    assert setting.fooled(canvases).all()
    ratio = float(norms.median() / setting.norms_of(theirs, norm).median())
    assert tolerance[0] <= ratio <= tolerance[1], ratio


@pytest.mark.parametrize(
    ("ball", "ours", "theirs"),
    [
        pytest.param(
            LinfBall(1 / 255),
            apgd.ApgdCe(LinfBall(1 / 255), steps=3),
            lambda peer: torchattacks.APGD(peer, norm="Linf", eps=1 / 255, steps=3),
            id="apgd-ce-linf",
        ),
        pytest.param(
            L2Ball(0.25),
            apgd.ApgdCe(L2Ball(0.25), steps=5),
            lambda peer: torchattacks.APGD(peer, norm="L2", eps=0.25, steps=5),
            id="apgd-ce-l2",
        ),
        pytest.param(
            L2Ball(0.25),
            Cascade((apgd.ApgdCe(L2Ball(0.25), steps=4), apgd.ApgdT(L2Ball(0.25), steps=4, target_classes=2))),
            lambda peer: torchattacks.MultiAttack(
                [
                    torchattacks.APGD(peer, norm="L2", eps=0.25, steps=4),
                    torchattacks.APGDT(peer, norm="L2", eps=0.25, steps=4, n_classes=3),
                ]
            ),
            id="two-stages",
        ),
        pytest.param(
            LinfBall(10 / 255),
            square.Square(LinfBall(10 / 255), queries=21, p_init=0.3),
            lambda peer: torchattacks.Square(peer, norm="Linf", eps=10 / 255, n_queries=20, p_init=0.3, loss="margin"),
            id="square-linf",
        ),
    ],
)
def test_robust_accuracy_is_no_higher_than_torchattacks(
    lite0: Classifier,
    samples: Samples,
    ball: Ball,
    ours: Attack,
    theirs: Callable[[nn.Module], torchattacks.attack.Attack],
) -> None:
    """In as many steps, and where theirs is stored in 8 bits as ours is."""
    setting = Setting(lite0, samples, 6)
    canvases, _ = setting.attack(ours)
    peers = ball.to_grid(setting.canvases, theirs(setting.peer)(setting.clean, setting.labels).detach())
    fallen, peers_fallen = int(setting.fooled(canvases).sum()), int(setting.fooled(peers).sum())
    assert fallen >= peers_fallen >= 1, (fallen, peers_fallen)


def test_autoattack_leaves_no_image_that_torchattacks_parts_of_it_turn(lite0: Classifier, samples: Samples) -> None:
    """The whole cascade, FAB through its adapter and Square included; of two images, because FAB takes seconds for
    each that stands."""
    setting, ball, steps, queries = Setting(lite0, samples, 2), L2Ball(0.2), 2, 10
    canvases, _ = setting.attack(autoattack.autoattack(ball, steps=steps, queries=queries))
    common = {"norm": "L2", "eps": ball.eps}
    theirs = torchattacks.MultiAttack(
        [
            torchattacks.APGD(setting.peer, **common, steps=steps),
            torchattacks.APGDT(setting.peer, **common, steps=steps, n_classes=10),
            torchattacks.FAB(setting.peer, **common, steps=steps, multi_targeted=True, n_classes=10),
            torchattacks.Square(setting.peer, **common, n_queries=queries, p_init=0.8),
        ]
    )
    peers = ball.to_grid(setting.canvases, theirs(setting.clean, setting.labels).detach())
    assert setting.fooled(peers).any()
    assert (setting.fooled(canvases) | ~setting.fooled(peers)).all()


@pytest.mark.parametrize("eps", [0.1, 0.15])
def test_before_rounding_apgd_fools_as_often_as_torchattacks(eps: float, lite0: Classifier, samples: Samples) -> None:
    """So small an L2 budget is a fraction of a level for most values: what is stored fools less often than what was
    found, here as with any other attack that is stored. What was found is compared here."""

    fooled: list[Tensor] = []

    class Watched(Surrogates):
        def slope(self, *arguments: Any, **options: Any) -> Slope:
            slope = super().slope(*arguments, **options)
            fooled.append(slope.logits.argmax(dim=1) != setting.labels)
            return slope

    setting = Setting(lite0, samples, 6)
    surrogates = Watched([lite0], center, FIELD)
    names = [str(place) for place in PLACES]
    batch = Batch(setting.canvases, Goal(setting.labels), Draws(0, "a", names), setting.canvases, setting.labels)
    apgd.ApgdCe(L2Ball(eps), steps=5)(surrogates, batch)
    theirs = torchattacks.APGD(setting.peer, norm="L2", eps=eps, steps=5)(setting.clean, setting.labels)
    with torch.no_grad():
        peers = setting.peer(theirs).argmax(dim=1) != setting.labels
    assert int(torch.stack(fooled).any(dim=0).sum()) >= int(peers.sum()) >= 1
    assert not peers.all()
