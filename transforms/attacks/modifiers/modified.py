"""A surrogate whose gradients are taken through modifiers."""

from collections import Counter
from collections.abc import Mapping
from copy import copy

import torch
from torch import Tensor

from transforms.attacks.modifiers.look import Carried, Look
from transforms.attacks.modifiers.modifier import PARTS, Modifier, Part
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.probes import probes
from transforms.randomness import Draws

_CLOSE = 1e-3
"""Largest difference between logits of a network and of its modified self, where they should stay; of their range."""
_REPLACED: tuple[Part, ...] = ("relu", "max pool")
_OF_TRANSFORMERS: tuple[Part, ...] = ("qkv", "attention", "mlp")


class Modified(Classifier):
    """A classifier that is modified while gradients are taken; it shares its network, which stays as it is.

    Attributes:
        random: whether anything is drawn (see `drawn`).
    """

    def __init__(self, classifier: Classifier, modifiers: Mapping[str, Modifier]) -> None:
        """Finds the parts that are to be changed, by a look at one picture.

        Args:
            classifier: run by plain torch.
            modifiers: by name, in the order in which they change a part.

        Raises:
            InputError: the network lacks a part, or it is not all where torch's functions show it.
        """
        super().__init__(classifier.network, classifier.preprocessing, classifier.differentiable)
        self.to(classifier.device)
        self.random = any(each.random for each in modifiers.values())
        self._modifiers = tuple(modifiers.values())
        self._draws: Draws | None = None
        self._carried: Carried | None = None
        picture = probes(1, classifier.preprocessing.input_size).to(classifier.device).requires_grad_()
        with Look((), Counter(), None) as counting:
            answers = super().forward(picture)
        self._counts: Mapping[Part, int] = counting.met
        _refuse_rivals(modifiers)
        for name, modifier in modifiers.items():
            for part in modifier.changes:
                lacks = not self._counts[part] and part not in modifier.optional
                if lacks or (part in _OF_TRANSFORMERS and counting.hidden):
                    raise InputError(f"{name} changes {PARTS[part]}, which this network does not have")
            modifier.check(self._counts)
        if all(each.exact for each in self._modifiers):
            difference = (self(picture) - answers).detach().abs().max()
            if not difference <= _CLOSE * (answers.max() - answers.min()).detach():
                raise InputError(f"{' and '.join(modifiers)}: answers of this network would change, as they should not")

    def drawn(self, draws: Draws) -> "Modified":
        """The same, with what is random drawn for these images."""
        changed = copy(self)
        changed._draws = draws
        return changed

    def begun(self) -> "Modified":
        """The same at the beginning of a run of an attack: what it carries from look to look, it shares with those that
        are drawn of it, and with no others."""
        changed = copy(self)
        changed._carried = {}
        return changed

    def forward(self, windows: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # whoever asks what layers there are
            return super().forward(windows)
        with Look(self._modifiers, self._counts, self._draws, self._carried):
            return super().forward(windows)


def _refuse_rivals(modifiers: Mapping[str, Modifier]) -> None:
    """Two functions cannot both take a ReLU's place."""
    for part in _REPLACED:
        rivals = [name for name, modifier in modifiers.items() if part in modifier.changes]
        if len(rivals) > 1:
            raise InputError(f"{' and '.join(rivals)} both take the place of {PARTS[part]}; leave one out")
