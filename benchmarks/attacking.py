"""Attacks: images a second against the libraries' own, which do the same work on the same network."""

from collections.abc import Callable, Mapping
from typing import Any

import adv_lib.attacks
import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent, MomentumIterativeMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmarks.measuring import Measured, Work, interleaved
from benchmarks.pictures import AsUsersDo, canvases, floats, listed, lite0, untrained
from pipeline.config.attacks import AttackConfig
from transforms.attacks.engine import attack_batch
from transforms.data.pixels import CanvasBatch
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.engines.registry import FOLLOWED, prepared

IMAGES = 16
"""In a round, in batches of 8."""
_BATCH = 8
_EPS, _ALPHA, _STEPS = 8 / 255, 2 / 255, 10
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
        return lambda: torch.from_numpy(attack_batch(spec, [surrogate], self._batch, conditions).canvases)

    def theirs(self, attack: _PEER) -> Work:
        """An attack of another library, called with batches of 8."""
        pairs = list(zip(self._pictures.split(_BATCH), self._labels.split(_BATCH), strict=True))
        return lambda: torch.cat([attack(pictures, labels) for pictures, labels in pairs])

    def compared(self, measure: str, contenders: Mapping[str, Work], rounds: int) -> list[Measured]:
        """The contenders' speed, and what became of the images."""
        images = len(self._labels)
        return interleaved(measure, contenders, rounds=rounds, images=images, notes=lambda _, found: self._said(found))

    def _said(self, found: Any) -> str:
        pictures = found.float() / 255 if found.dtype == torch.uint8 else found
        with torch.inference_mode():
            logits = torch.cat([self._judge(each) for each in pictures.split(_BATCH)])
        success = (logits.argmax(dim=1) != self._labels).float().mean()
        norms = (pictures - self._pictures).flatten(1).norm(dim=1)
        return f"success {success:.0%}, median L2 {norms.median():.2f}"


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


def _pgd(arena: Arena, *, all_peers: bool) -> dict[str, Work]:
    users = arena.users
    found = {
        "torchattacks": arena.theirs(torchattacks.PGD(users, _EPS, _ALPHA, _STEPS)),
        "ours": arena.ours("pgd", eps="8/255", alpha="2/255", steps=_STEPS),
        "ours, engine: torch": arena.ours("pgd", engine="torch", eps="8/255", alpha="2/255", steps=_STEPS),
    }
    if all_peers:
        linf = foolbox.attacks.LinfPGD(abs_stepsize=_ALPHA, steps=_STEPS)
        theirs = ProjectedGradientDescent(
            _art(users), np.inf, _EPS, _ALPHA, _STEPS, num_random_init=1, batch_size=_BATCH, verbose=False
        )
        found |= {
            "foolbox": arena.theirs(_with_foolbox(linf, users, _EPS)),
            "ART": arena.theirs(_with_art(theirs)),
        }
    return found


def _momentum(arena: Arena) -> dict[str, Work]:
    theirs = MomentumIterativeMethod(
        _art(arena.users), np.inf, _EPS, _ALPHA, 1.0, _STEPS, batch_size=_BATCH, verbose=False
    )
    return {
        "torchattacks": arena.theirs(torchattacks.MIFGSM(arena.users, _EPS, _ALPHA, _STEPS)),
        "ours": arena.ours("mi-fgsm", eps="8/255", alpha="2/255", steps=_STEPS),
        "ART": arena.theirs(_with_art(theirs)),
    }


def _diverse(arena: Arena) -> dict[str, Work]:
    return {
        "torchattacks": arena.theirs(torchattacks.DIFGSM(arena.users, _EPS, _ALPHA, _STEPS)),
        "ours": arena.ours("di-fgsm", eps="8/255", alpha="2/255", steps=_STEPS),
    }


def _auto_pgd(arena: Arena) -> dict[str, Work]:
    theirs = AutoProjectedGradientDescent(
        _art(arena.users), np.inf, _EPS, _ALPHA, _STEPS, nb_random_init=1, batch_size=_BATCH, verbose=False
    )
    return {
        "torchattacks": arena.theirs(torchattacks.APGD(arena.users, eps=_EPS, steps=_STEPS)),
        "ours": arena.ours("apgd", eps="8/255", steps=_STEPS),
        "ART": arena.theirs(_with_art(theirs)),
    }


def _minimal(arena: Arena) -> dict[str, Work]:
    steps = 50
    users = arena.users
    return {
        "adv-lib": arena.theirs(lambda pictures, labels: adv_lib.attacks.fmn(users, pictures, labels, 2, steps=steps)),
        "foolbox": arena.theirs(_with_foolbox(foolbox.attacks.L2FMNAttack(steps=steps), users, None)),
        "ours": arena.ours("fmn", norm="l2", eps=100.0, steps=steps),
    }


def measure(folder: str | None) -> list[Measured]:
    """Everything about attacks, in about eight minutes."""
    refs = listed(folder)
    lite = Arena(lite0(), canvases(refs, IMAGES))
    rows = lite.compared("PGD-10, EfficientNet-Lite0", _pgd(lite, all_peers=True), 3)
    rows += lite.compared("MI-FGSM-10, EfficientNet-Lite0", _momentum(lite), 2)
    rows += lite.compared("DI-FGSM-10, EfficientNet-Lite0", _diverse(lite), 2)
    rows += lite.compared("APGD-10, EfficientNet-Lite0", _auto_pgd(lite), 2)
    few = Arena(lite0(), canvases(refs, _BATCH))
    rows += few.compared("FMN-50 in L2, EfficientNet-Lite0", _minimal(few), 1)
    for name in ("resnet50", "vit_small_patch16_224"):
        arena = Arena(untrained(name), canvases(refs, _BATCH))
        contenders = _pgd(arena, all_peers=False)
        rows += arena.compared(f"PGD-10, {name}, random weights", contenders, 1)
    return rows
