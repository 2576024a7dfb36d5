"""An attack of an experiment, fully named: what a worker is sent."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from transforms.attacks.balls import BALLS, Ball
from transforms.attacks.modifiers.registry import ModifierSpec
from transforms.attacks.protocol import Attack
from transforms.attacks.recipes.names import recipe, with_changing
from transforms.attacks.surrogates import Fusion
from transforms.attacks.targets import Target
from transforms.attacks.units import Bound, Drawn
from transforms.data.verdicts import Verdict
from transforms.defenses.defense import Defense
from transforms.defenses.differentiable import Backward
from transforms.models.device import Precision

Plain = Literal["torch"]


@dataclass(frozen=True)
class AttackSpec:
    """An attack of an experiment, fully named: small and picklable.

    Attributes:
        name: as the experiment calls it.
        recipe: a name that `recipes.names.recipe` resolves.
        norm: one of `BALLS`, or None where parameters of the recipe are the budget.
        parameters: the recipe's, by name.
        surrogates: names of models.
        modifiers: by what surrogates are modified while their gradients are taken, by the model's name.
        fuse, view: how surrogates are combined and look at a canvas.
        defense: what the attack sees the canvas through.
        precision: of gradients.
        eps: budget in the unit of [0, 1] pixels; None without a norm.
        target: what class a targeted attack wants of an image, or None.
        backward: what stands in for a defence that has no gradient of its own.
        verdict: what decides over the draws of a random defence, of whether the goal is reached.
        gradients: "torch" where surrogates are to be run by it; None for the engines of the models.
        victim: the model that it asks, or None.
        variant_of: the adaptive attack that this is a variant of, once more through a defence; None for any other.
    """

    name: str
    recipe: str
    parameters: tuple[tuple[str, Any], ...]
    surrogates: tuple[str, ...]
    fuse: Fusion
    view: str
    defense: Defense
    precision: Precision
    norm: str | None
    eps: float | None
    target: Target | None
    victim: str | None = None
    modifiers: tuple[tuple[str, tuple[ModifierSpec, ...]], ...] = ()
    variant_of: str | None = None
    gradients: Plain | None = None
    backward: Backward = "identity"
    verdict: Verdict = "mean"

    @property
    def mixes(self) -> bool:
        """Whether it needs pictures of other classes."""
        return self.build().pool == "needed"

    @property
    def plain(self) -> bool:
        """Whether surrogates are the networks that torch has loaded, as they must be where an attack looks inside."""
        return self.gradients is not None or bool(self.modifiers) or self.drawn_once().build().looks_inside

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it needs: its surrogates and its victim."""
        return self.surrogates if self.victim is None else (*self.surrogates, self.victim)

    @property
    def ball(self) -> Ball | None:
        """The budget in a norm."""
        return None if self.norm is None or self.eps is None else BALLS[self.norm](self.eps)

    @property
    def bounds(self) -> str | None:
        """The budget in no norm, as defences are written: `max_rotation=30,max_translation=24`."""
        given = dict(self.parameters)
        return ",".join(f"{key}={given[key]:g}" for key in recipe(self.recipe).marked(Bound)) or None

    def drawn_once(self) -> "AttackSpec":
        """The same with 1 for every parameter that counts draws (see `units.Drawn`)."""
        counts = recipe(self.recipe).marked(Drawn)
        return replace(self, parameters=tuple((key, 1 if key in counts else value) for key, value in self.parameters))

    def build(self) -> Attack:
        """Makes the attack; raises InputError for a parameter out of its range, or surrogates that it cannot take."""
        made = recipe(self.recipe)
        if self.defense.random:
            why = f"defense: it is random, which {self.recipe} does not average over"
            made = with_changing(made, why, model_draws=self.defense.repeats)
        random = next((each.name for _, some in self.modifiers for each in some if each.make().random), None)
        if random is not None:
            why = f"surrogates: {random} is random, which {self.recipe} does not draw anew for each gradient"
            made = with_changing(made, why, random_gradients=True)
        if self.fuse == "drawn":
            made = with_changing(made, f"fuse: {self.recipe} does not draw a surrogate for each step", in_turn=True)
        return made.make(self.ball, **dict(self.parameters))
