"""Recipes: the attacks that an experiment may name, with the parameters that it may set.

A recipe is a chain of functions or classes: the first takes a ball, or nothing if it bounds no norm, each of the others
what the one before it returned, the last returns an attack. Their keyword parameters are the recipe's: YAML keys,
types, units, defaults, listing and error messages follow from their signatures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar, cast, get_type_hints

from transforms.attacks.balls import BALLS, Ball
from transforms.attacks.protocol import Attack
from transforms.attacks.surrogates import FUSIONS, Fusion
from transforms.attacks.units import Bound, marks

Kind = Literal["gradient", "minimal-norm", "score", "cascade", "pictures", "other"]
Goals = Literal["any", "untargeted", "targeted"]
Mark = TypeVar("Mark")

LOGIT_FUSIONS: tuple[str, ...] = tuple(each for each in FUSIONS if each not in ("losses", "drawn"))
"""Fusions of an attack that asks fused logits on which side of the boundary it is; others may disagree."""


@dataclass(frozen=True)
class Recipe:
    """A named attack.

    Attributes:
        source: the paper.
        chain: the functions or classes that make it.
        kind: "gradient": follows gradients inside a fixed budget; "minimal-norm": looks for the smallest
            perturbation, and fails where it is larger than eps; "score": sees logits only; "cascade": several
            attacks, each on the images that still stand; "pictures": made by another tool; "other": by another library
            or a plug-in.
        norms: the norms that it can bound, names of `BALLS`; none if parameters of its own are its budget.
        goals: the goals that it can pursue.
        models: the fewest surrogates that make sense; 0 if they only judge.
        asks: whether it asks another model, the victim, about what it makes.
        gradients: whether it follows gradients, so that `precision` has an effect.
        fusions: how it can fuse several surrogates: `LOGIT_FUSIONS` if it follows fused logits, and none if its
            estimator weighs them. The first is what it does unless told otherwise.
        defaults: parameters' defaults, where they differ from those of the functions.
    """

    source: str
    chain: Sequence[Callable[..., Any]]
    kind: Kind = "gradient"
    norms: tuple[str, ...] = tuple(BALLS)
    goals: Goals = "any"
    models: int = 1
    asks: bool = False
    gradients: bool = True
    fusions: tuple[str, ...] = FUSIONS
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usual_fusion(self) -> Fusion:
        return cast(Fusion, self.fusions[0]) if self.fusions else "logits"

    @property
    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """Type and default of each parameter, by name."""
        return {name: (kind, default) for name, (kind, _, default) in self._signature().items()}

    def marked(self, mark: type[Mark]) -> dict[str, Mark]:
        """What the types of parameters say besides (see `units`): the marks of one class, by the parameter's name."""
        said = {name: marks(annotated) for name, (_, annotated, _) in self._signature().items()}
        return {name: each for name, found in said.items() for each in found if isinstance(each, mark)}

    def _signature(self) -> dict[str, tuple[Any, Any, Any]]:
        """Type, annotated type and default of each parameter; where two functions have it, those of the first."""
        found: dict[str, tuple[Any, Any, Any]] = {}
        for function in self.chain:
            kinds, annotated = get_type_hints(function), get_type_hints(function, include_extras=True)
            for name, parameter in _keywords(function).items():
                default = self.defaults.get(name, parameter.default)
                found.setdefault(name, (kinds[name], annotated[name], default))
        return found

    @property
    def bounds(self) -> tuple[str, ...]:
        """What it bounds: norms, or parameters of its own."""
        return self.norms or tuple(self.marked(Bound))

    def make(self, ball: Ball | None, **parameters: Any) -> Attack:
        """Makes the attack, in no ball if it bounds no norm; raises InputError for a parameter out of its range."""
        given = {**self.defaults, **parameters}
        made: tuple[Any, ...] = () if ball is None else (ball,)
        for function in self.chain:
            made = (function(*made, **{name: given[name] for name in _keywords(function) if name in given}),)
        return cast(Attack, made[0])


def _keywords(function: Callable[..., Any]) -> dict[str, Parameter]:
    named = signature(function).parameters
    return {name: each for name, each in named.items() if each.kind is Parameter.KEYWORD_ONLY}
