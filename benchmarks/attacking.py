"""Attacks: images a second against the libraries' own, which do the same work on the same network."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmarks.measuring import Measured, Work, as_shipped, interleaved
from benchmarks.pictures import AsUsersDo, canvases, floats, listed, lite0, untrained
from pipeline.config.attacks import AttackConfig
from transforms.attacks.adapters.from_adv_lib import library as adv_lib
from transforms.attacks.engine import attack_batch
from transforms.data.outcomes import Attacked
from transforms.data.pixels import WHITE, CanvasBatch
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.engines.registry import FOLLOWED, prepared

_BATCH = 8
_EPS, _ALPHA, _STEPS = 8 / 255, 2 / 255, 10
_FEW_STEPS = 3
_PEER = Callable[[Tensor, Tensor], Tensor]


class Arena:
    """One network, as this project attacks it and as others do, with the pictures that all of them get."""

    def __init__(self, classifier: Classifier, batch: CanvasBatch) -> None:
        self._batch, self._pictures, self._labels = batch, floats(batch), torch.tensor(batch.labels)
        self._judge = classifier
        self._surrogates = {name: prepared(classifier, FOLLOWED, name).classifier for name in ("torch", "auto")}
        self.users = AsUsersDo(classifier)

    def ours(self, recipe: str, *, engine: str = "auto", **keys: object) -> Work:
        """An attack of this project, with all that a run does for its rows but similarity and PNGs."""
        config = AttackConfig.model_validate({"recipe": recipe, "surrogates": ["network"], **keys})
        (spec,) = config.specs("benchmark", ())
        surrogate, conditions = self._surrogates[engine], Conditions(0, 224 / 256, _BATCH)
        return lambda: attack_batch(spec, [surrogate], self._batch, conditions)

    def theirs(self, attack: _PEER, *, kept: bool = False) -> Work:
        """An attack of another library, called with batches of 8; in memory as users have it, or `kept` as ours is."""
        pairs = list(zip(self._pictures.split(_BATCH), self._labels.split(_BATCH), strict=True))

        def work() -> Tensor:
            with nullcontext() if kept else as_shipped():
                return torch.cat([attack(pictures, labels) for pictures, labels in pairs])

        return work

    def compared(self, measure: str, contenders: Mapping[str, Work], rounds: int) -> list[Measured]:
        """The contenders' speed, and what became of the images."""
        images = len(self._labels)
        return interleaved(measure, contenders, rounds=rounds, images=images, notes=self._said)

    def _said(self, found: Any) -> str:
        pictures = torch.from_numpy(found.canvases).float() / WHITE if isinstance(found, Attacked) else found
        with torch.inference_mode():
            logits = torch.cat([self._judge(each) for each in pictures.split(_BATCH)])
        success = (logits.argmax(dim=1) != self._labels).float().mean()
        norms = (pictures - self._pictures).flatten(1).norm(dim=1)
        if isinstance(found, Attacked) and not np.isnan(found.norms).any():
            norms = torch.from_numpy(found.norms)  # before rounding to 8 bits, as others hand theirs over
        return f"success {success:.0%}, median L2 {norms.median():.3g}"


def _art(users: nn.Module) -> PyTorchClassifier:
    return PyTorchClassifier(
        users, nn.CrossEntropyLoss(), input_shape=(3, 224, 224), nb_classes=1000, clip_values=(0.0, 1.0)
    )


def _with_art(attack: Any) -> _PEER:
    return lambda pictures, labels: torch.from_numpy(
        attack.generate(pictures.numpy(), np.eye(1000, dtype=np.float32)[labels.numpy()])
    )


def _with_foolbox(attack: foolbox.Attack, users: nn.Module, eps: float | None) -> _PEER:
    model = foolbox.PyTorchModel(users, bounds=(0, 1))
    return lambda pictures, labels: attack(model, pictures, labels, epsilons=eps)[1]


def _pgd(arena: Arena, steps: int) -> dict[str, Work]:
    keys: dict[str, Any] = {"eps": "8/255", "alpha": "2/255", "steps": steps}
    theirs = torchattacks.PGD(arena.users, _EPS, _ALPHA, steps)
    return {
        "torchattacks": arena.theirs(theirs),
        "torchattacks, memory kept": arena.theirs(theirs, kept=True),
        "ours": arena.ours("pgd", **keys),
        "ours, bf16": arena.ours("pgd", precision="bf16", **keys),
        "ours, gradients: torch": arena.ours("pgd", engine="torch", **keys),
    }


def _pgd_of_others(arena: Arena) -> dict[str, Work]:
    theirs = ProjectedGradientDescent(
        _art(arena.users),
        eps=_EPS,
        eps_step=_ALPHA,
        max_iter=_STEPS,
        num_random_init=1,
        batch_size=_BATCH,
        verbose=False,
    )
    linf = foolbox.attacks.LinfPGD(abs_stepsize=_ALPHA, steps=_STEPS)
    return {
        "foolbox": arena.theirs(_with_foolbox(linf, arena.users, _EPS)),
        "ART": arena.theirs(_with_art(theirs)),
    }


def _momentum(arena: Arena) -> dict[str, Work]:
    return {
        "torchattacks": arena.theirs(torchattacks.MIFGSM(arena.users, _EPS, _ALPHA, _STEPS)),
        "ours": arena.ours("mi-fgsm", eps="8/255", alpha="2/255", steps=_STEPS),
    }


def _diverse(arena: Arena) -> dict[str, Work]:
    return {
        "torchattacks": arena.theirs(torchattacks.DIFGSM(arena.users, _EPS, _ALPHA, _STEPS)),
        "ours": arena.ours("di-fgsm", eps="8/255", alpha="2/255", steps=_STEPS),
    }


def _auto_pgd(arena: Arena) -> dict[str, Work]:
    return {
        "torchattacks": arena.theirs(torchattacks.APGD(arena.users, eps=_EPS, steps=_STEPS)),
        "ours": arena.ours("apgd-ce", eps="8/255", steps=_STEPS),
    }


def _minimal(arena: Arena) -> dict[str, Work]:
    steps = 25
    users = arena.users
    return {
        "adv-lib": arena.theirs(lambda pictures, labels: adv_lib().fmn(users, pictures, labels, 2, steps=steps)),
        "foolbox": arena.theirs(_with_foolbox(foolbox.attacks.L2FMNAttack(steps=steps), users, None)),
        "ours": arena.ours("fmn", norm="l2", eps=100.0, steps=steps),
    }


def measure(folder: str | None) -> Iterator[Measured]:
    """Everything about attacks, in about ten minutes."""
    batch = canvases(listed(folder), _BATCH)
    lite = Arena(lite0(), batch)
    yield from lite.compared("PGD-10, EfficientNet-Lite0", {**_pgd(lite, _STEPS), **_pgd_of_others(lite)}, 2)
    yield from lite.compared("MI-FGSM-10, EfficientNet-Lite0", _momentum(lite), 2)
    yield from lite.compared("DI-FGSM-10, EfficientNet-Lite0", _diverse(lite), 2)
    yield from lite.compared("APGD-10, EfficientNet-Lite0", _auto_pgd(lite), 2)
    yield from lite.compared("FMN-25 in L2, EfficientNet-Lite0", _minimal(lite), 1)
    for name, steps in (("resnet50", _STEPS), ("vit_small_patch16_224", _FEW_STEPS)):
        arena = Arena(untrained(name), batch)
        yield from arena.compared(f"PGD-{steps}, {name}, random weights", _pgd(arena, steps), 1)
