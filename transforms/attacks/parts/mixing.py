"""Features mixed on their way: with those of the clean canvas, or of other pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from transforms.attacks.gradients import Gradients, Way
from transforms.attacks.inside import Inside
from transforms.attacks.modifiers.backward import returned
from transforms.attacks.parts.transformations import of_another_class
from transforms.attacks.per_image import per_image
from transforms.attacks.protocol import Batch
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import LayerNames
from transforms.models.classifier import Classifier
from transforms.models.layers import Change, Layer
from transforms.randomness import Draws
from transforms.ranges import above, within

Drawn = Sequence[tuple[Layer, Tensor]]
"""Layers, and for which images each is drawn, bool (B,)."""
Memory = dict[tuple[Classifier, str], Tensor]
"""What is kept of layers, by classifier and name, from one gradient of a run to the next."""


@dataclass(frozen=True)
class FeatureMixing:
    """Mixes something into features whenever a gradient is taken; the pictures that it is of take a pass each time."""

    random: ClassVar[bool] = True
    redraws: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    own_objective: ClassVar[bool] = False

    def begin(self) -> Callable[[Gradients, Tensor, Draws], Way]:
        memory: Memory = {}

        def renew(gradients: Gradients, _canvases: Tensor, _draws: Draws) -> Way:
            def way(surrogates: Surrogates, draws: Draws) -> tuple[Surrogates, ...]:
                changes = self._changes(surrogates, gradients.batch, draws, memory)
                return (surrogates.seen({each: Inside(found) for each, found in changes.items()}),)

            return way

        return renew

    def _changes(
        self, surrogates: Surrogates, batch: Batch, draws: Draws, memory: Memory
    ) -> Mapping[Classifier, Mapping[str, Change]]:
        raise NotImplementedError

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        return forwards, 0


@dataclass(frozen=True)
class PerturbationDecay(FeatureMixing):
    """ILPD: at a layer, gamma times the features and the rest of the clean canvas's under noise, so that what a
    perturbation adds there decays (Li et al. 2023, arXiv:2304.13410, eq. 5).

    Attributes:
        gamma: what is left of the features.
        sigma: standard deviation of the noise.
    """

    layer: LayerNames
    gamma: float
    sigma: float

    def __post_init__(self) -> None:
        within("(0, 1)", gamma=self.gamma)
        above(0, sigma=self.sigma)

    def _changes(
        self, surrogates: Surrogates, batch: Batch, draws: Draws, memory: Memory
    ) -> Mapping[Classifier, Mapping[str, Change]]:
        clean = batch.clean
        noisy = clean + self.sigma * draws.normal(clean.shape[1:], "noise").to(clean)
        return {
            classifier: {member.layer: partial(self._decayed, member.features(noisy))}
            for classifier, member in surrogates.at(self.layer).items()
        }

    def _decayed(self, clean: Tensor, features: Tensor) -> Tensor:
        return self.gamma * features + (1 - self.gamma) * clean


@dataclass(frozen=True)
class CleanFeatureMixup(FeatureMixing):
    """CFM: in layers of convolutions and sums drawn at random, each channel a random share of what the layer answers to
    a clean picture of another class (Byun et al. 2023, arXiv:2305.14846, §3.2).

    The pictures are those of the pool. Convolutions count from a quarter of the input's side on.

    Attributes:
        mix_probability: of each layer, to be mixed in.
        mix_limit: the largest share.
    """

    mix_probability: float
    mix_limit: float
    layer: ClassVar[LayerNames] = None
    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        within("(0, 1]", mix_probability=self.mix_probability, mix_limit=self.mix_limit)

    def _changes(
        self, surrogates: Surrogates, batch: Batch, draws: Draws, memory: Memory
    ) -> Mapping[Classifier, Mapping[str, Change]]:
        clean = of_another_class(batch.clean, draws, batch)
        changes = {}
        for number, member in enumerate(surrogates.members):
            path = draws.at("model", number)
            drawn = self._drawn(member.only, path)
            changes[member.only] = self._of(member.only, drawn, self._mixing(member, drawn, clean, path), memory)
        return changes

    def _of(
        self, _classifier: Classifier, _drawn: Drawn, mixed: Mapping[str, Change], _memory: Memory
    ) -> Mapping[str, Change]:
        return mixed

    def _mixing(self, member: Surrogates, drawn: Drawn, clean: Tensor, draws: Draws) -> Mapping[str, Change]:
        answers = member.answers(clean, [layer.name for layer, _ in drawn])
        changes = {}
        for number, (layer, those) in enumerate(drawn):
            if those.any():
                channels = (layer.shape[0], *[1] * (len(layer.shape) - 1))
                share = self.mix_limit * draws.at("share", number).uniform(channels, "share")
                share = share * per_image(those, share.dim())
                changes[layer.name] = partial(_mixed, answers[layer.name], share.to(clean.device))
        return changes

    def _drawn(self, classifier: Classifier, draws: Draws) -> Drawn:
        layers = [each for each in classifier.layers if _is_mixed(classifier, each.name, each.side)]
        chosen = draws.uniform((len(layers),), "layers") < self.mix_probability
        return list(zip(layers, chosen.unbind(dim=1), strict=True))


@dataclass(frozen=True)
class FeatureTuning(CleanFeatureMixup):
    """FTM: what each of these layers answers moves by a perturbation, and is mixed thereafter. Perturbations learn to
    hinder the attack: with each gradient those of the layers that are drawn go down it (Liang et al. 2025,
    arXiv:2411.15553).

    Attributes:
        beta: length of the moves, of that of what the layer answers.
    """

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        above(0, tuning_beta=self.beta)

    def _of(
        self, classifier: Classifier, drawn: Drawn, mixed: Mapping[str, Change], memory: Memory
    ) -> Mapping[str, Change]:
        changes = {}
        for layer, those in drawn:
            place = classifier, layer.name
            if place in memory or those.any():
                learning = those.to(classifier.device)
                changes[layer.name] = partial(self._tuned, memory, place, learning, mixed.get(layer.name, _unmixed))
        return changes

    def _tuned(
        self, memory: Memory, place: tuple[Classifier, str], learning: Tensor, mixed: Change, features: Tensor
    ) -> Tensor:
        found = features.detach().float()
        perturbation = memory.get(place, torch.zeros_like(found))
        scale = per_image(self.beta * _lengths(found) / (_lengths(perturbation) + _LEAST), found.dim())

        def learn(gradient: Tensor) -> Tensor:
            step = per_image(learning, found.dim()) * scale * gradient.float()
            memory[place] = memory.get(place, perturbation) - step
            return gradient

        return mixed(returned((features + scale * perturbation).to(features.dtype), learn))


_LEAST = 1e-7
"""The authors': a perturbation's first gradient, at 0, is as much longer than those that follow."""


def _lengths(values: Tensor) -> Tensor:
    """In L2, (B,)."""
    lengths: Tensor = values.flatten(1).norm(dim=1)
    return lengths


def _unmixed(features: Tensor) -> Tensor:
    return features


def _mixed(clean: Tensor, share: Tensor, features: Tensor) -> Tensor:
    """As precise as it was: where nothing is mixed in, what goes on may not depend on an image's neighbours."""
    return ((1 - share) * features + share * clean).to(features.dtype)


def _is_mixed(classifier: Classifier, name: str, side: int | None) -> bool:
    module = classifier.network.get_submodule(name)
    coarse = side is not None and side <= classifier.preprocessing.input_size // 4
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and coarse)
