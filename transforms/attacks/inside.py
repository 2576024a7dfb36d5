"""Inside: which layers of a surrogate an attack looks at, and what it makes of their answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from transforms.attacks.objectives import Goal, Objective
from transforms.attacks.units import LayerNames
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.layers import Change


@dataclass(frozen=True)
class Inside:
    """What is done inside one classifier.

    Attributes:
        changes: by the names of layers, what becomes of their answers.
        layer: which layer answers in place of the network; None for the network itself.
        objective: of that layer's features, (features (B, ...), goal) -> (B,).
        beside: which layer answers as well as the network; None for none.
        joint: an objective of both, (logits (copies, B, classes), features (copies, B, values), goal) -> (B,), of all
            copies of a canvas that are seen at once.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    layer: str | None = None
    objective: Objective | None = None
    beside: str | None = None
    joint: Callable[[Tensor, Tensor, Goal], Tensor] | None = None


def layers_of_each(classifiers: Sequence[Classifier], named: LayerNames) -> list[str]:
    """A layer of each classifier; raises InputError where one has no such layer, or there are not as many."""
    names = [named] * len(classifiers) if named is None or isinstance(named, str) else list(named)
    if len(names) != len(classifiers):
        raise InputError(
            f"layer: {len(names)} names for {len(classifiers)} surrogates; give one for each, or one for all"
        )
    return [classifier.layer(name) for classifier, name in zip(classifiers, names, strict=True)]
