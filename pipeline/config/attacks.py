"""An experiment's attacks: recipe, parameters, surrogates, budget and goal, validated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import (
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.config.base import Name, Ratio, Strict, one_of
from pipeline.config.parameters import parameter_model, plain_parameters
from pipeline.config.surrogates import Surrogates
from transforms.attacks.balls import BALLS
from transforms.attacks.recipes.names import RECIPES, recipe
from transforms.attacks.spec import AttackSpec, Plain
from transforms.attacks.surrogates import FUSIONS, Fusion
from transforms.attacks.targets import Column, Ranked, Target, parse_targets
from transforms.attacks.units import Carried, Drawn, Unit
from transforms.data.pixels import WHITE
from transforms.data.verdicts import Verdict
from transforms.defenses.defense import NO_DEFENSE, Defense
from transforms.defenses.differentiable import APPROXIMATE, Backward, has_choice
from transforms.defenses.grid import grid, parse
from transforms.errors import InputError, unknown
from transforms.models.device import Precision
from transforms.models.views import VIEWS, windows
from transforms.rows.parts import targeted_name, variant_name

_OTHER_WORDS = {
    **dict.fromkeys(("epsilon", "budget", "radius"), "eps"),
    **dict.fromkeys(("step_size", "stepsize", "lr", "eps_step", "rel_stepsize", "abs_stepsize"), "alpha"),
    **dict.fromkeys(("iterations", "iters", "num_steps", "nb_iter", "max_iter", "num_iter"), "steps"),
    **dict.fromkeys(("models", "model", "source_model", "surrogate"), "surrogates"),
}
"""What other libraries call keys of an attack."""
_MOST = {"linf": 1, "l2": 8192, "l1": 8192**2}
"""Not below the distance of black and white on the largest canvas, in the unit of [0, 1] pixels."""

_CHOICES = ", ".join(APPROXIMATE)

View = Annotated[str, one_of("view", VIEWS)]
Norm = Annotated[str, one_of("norm", BALLS)]


def _one_defense(written: Any) -> Defense:
    """A defence, from anything that an entry of `defenses:` may be as long as it stands for one."""
    if written is None or isinstance(written, Defense):
        return written or NO_DEFENSE
    if isinstance(written, str):
        return parse(written)
    try:
        found = grid(written, "defense")
    except InputError as error:
        raise InputError(f"{error}; or write it as tables do: lowpass:cutoff=0.5") from None
    if len(found) != 1:
        raise InputError(f"{written!r} stands for {len(found)} defences, where there should be one")
    return found[0]


def _known_defenses(written: Any) -> bool | tuple[Defense, ...]:
    if isinstance(written, bool):
        return written
    if not isinstance(written, list | tuple) or not written:
        raise InputError(f"{written!r} is neither true nor a list of defences such as ['jpeg:quality=75']")
    known = tuple(_one_defense(each) for each in written)
    for each in known:
        if known.count(each) > 1:
            raise InputError(f"{each.name} is listed twice")
    return known


def _defense_name(defense: Defense) -> str:
    return defense.name


def _known_names(known: bool | tuple[Defense, ...]) -> bool | list[str]:
    return known if isinstance(known, bool) else [each.name for each in known]


def _as_written(target: Target | tuple[Target, ...] | None) -> int | str | list[int | str] | None:
    if isinstance(target, tuple):
        return [each if isinstance(each, int) else str(each) for each in target]
    return target if target is None or isinstance(target, int) else str(target)


def _possible(norm: str, eps: Fraction) -> None:
    """Refuses a budget that is too small for 8 bits, or larger than any canvas can use."""
    if eps * WHITE < 1:
        raise InputError(f"eps: {eps} is less than one grey level, 1/255")
    if norm == "linf" and eps >= 1:
        raise InputError(f"eps: {eps} is the whole range of a pixel, 1, or more; did you mean {eps}/255?")
    if eps >= _MOST[norm]:
        raise InputError(f"eps: {eps} is {_MOST[norm]} or more, beyond the corners of any canvas")


OneDefense = Annotated[Defense, BeforeValidator(_one_defense), PlainSerializer(_defense_name)]


class AttackConfig(Strict):
    """An attack: a recipe with its parameters, the surrogates it follows, its budget and its goal."""

    recipe: str
    surrogates: Surrogates = ()
    victim: Name | None = None
    fuse: Annotated[Fusion, one_of("fusion", FUSIONS)] | None = None
    view: View = "center"
    defense: OneDefense = NO_DEFENSE
    adaptive: Annotated[bool | tuple[Defense, ...], PlainValidator(_known_defenses), PlainSerializer(_known_names)] = (
        False
    )
    backward: Annotated[Backward, one_of("backward", get_args(Backward))] = "identity"
    verdict: Annotated[Verdict, one_of("verdict", get_args(Verdict))] = "mean"
    precision: Annotated[Precision, one_of("precision", get_args(Precision))] = "fp32"
    gradients: Annotated[Plain, one_of("gradients", get_args(Plain))] | None = None
    norm: Norm | None = "linf"
    eps: Ratio | None
    target: Annotated[
        Target | tuple[Target, ...] | None, PlainValidator(parse_targets), PlainSerializer(_as_written)
    ] = None
    parameters: SerializeAsAny[Strict]  # validated as the recipe's model, whose keys run.json holds

    @model_validator(mode="before")
    @classmethod
    def _recipe_parameters(cls, section: Any) -> Any:
        """Moves the keys that belong to the recipe into `parameters`, validated against the recipe's signature."""
        if not isinstance(section, Mapping):
            return section  # reported by the type
        if "recipe" not in section:
            raise InputError("recipe: is missing, such as recipe: pgd")
        if not isinstance(section["recipe"], str):
            raise unknown("recipe", section["recipe"], RECIPES)
        model, made = _parameter_model(section["recipe"]), recipe(section["recipe"])
        given = {key: value for key, value in section.items() if key not in cls.model_fields or key == "parameters"}
        budget = () if made.norms else ("norm", "eps")
        for key, value in section.items():
            norm_or_eps = key if key in model.model_fields else _OTHER_WORDS.get(str(key).lower(), key)
            if value is not None and norm_or_eps in budget:
                raise InputError(f"{key}: {section['recipe']} bounds {' and '.join(made.bounds)}; leave {key} out")
        known = {*cls.model_fields, *model.model_fields} - {"parameters", *budget}
        for key in given:
            if key not in known:
                close = [each for each in [_OTHER_WORDS.get(str(key).lower())] if each in known]
                close = close or get_close_matches(str(key), known, n=1, cutoff=0.8)
                close = close or get_close_matches(str(key), known - set(section), n=1, cutoff=0.6)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(model.model_fields) or 'none'}"
                raise InputError(f"{section['recipe']} has no parameter {key!r}; {hint}")
        shared = {key: value for key, value in section.items() if key not in given}
        return {**shared, **dict.fromkeys(budget), "parameters": model.model_validate(given)}

    @model_serializer(mode="wrap")
    def _with_every_key(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With every key, the recipe's among them, as in an experiment."""
        shared: dict[str, Any] = handler(self)
        parameters: dict[str, Any] = shared.pop("parameters")
        shared.pop("gradients")
        gradients = self.specs("", ())[0].gradients
        return {**shared, **({} if gradients is None else {"gradients": gradients}), **parameters}

    @model_validator(mode="after")
    def _makes_sense(self) -> "AttackConfig":
        made = recipe(self.recipe)
        if made.norms and self.norm not in made.norms:
            raise InputError(f"norm: {self.recipe} bounds {' or '.join(made.norms)}, not {self.norm}")
        if made.norms and self.eps is None:
            raise InputError("eps: is missing, such as eps: 4/255")
        if self.target is not None and made.goals == "untargeted":
            raise InputError(f"target: {self.recipe} cannot be targeted")
        followed = [str(each) for each in self._targets if isinstance(each, Ranked)]
        if followed and not self.surrogates:
            raise InputError(f"target: {followed[0]} is by the answer of surrogates, of which there are none")
        if self.target is None and made.goals == "targeted":
            raise InputError(f"target: {self.recipe} needs one, such as target: megalith")
        if self.adaptive and made.kind == "pictures":
            raise InputError("adaptive: pictures that are made already know no further defence; leave it out")
        if self.adaptive and self.defense != NO_DEFENSE:
            raise InputError(f"adaptive: the attack knows {self.defense.name} already; leave out one of the two")
        return self

    @model_validator(mode="after")
    def _of_gradients(self) -> "AttackConfig":
        """Refuses what changes gradients alone where none are taken."""
        modified = "modify" if any(each.modifiers for each in self.surrogates) else None
        asked = {
            "precision": None if self.precision == "fp32" else self.precision,
            "gradients": self.gradients,
            "surrogates": modified,
        }
        for key, value in asked.items():
            if value is not None and not recipe(self.recipe).gradients:
                raise InputError(f"{key}: {value} has no effect on {self.recipe}, which takes no gradients")
        return self

    @model_validator(mode="after")
    def _models(self) -> "AttackConfig":
        made = recipe(self.recipe)
        if len(self.surrogates) < made.models:
            raise InputError(f"surrogates: {self.recipe} needs {made.models} or more, not {len(self.surrogates)}")
        if made.asks and self.victim is None:
            raise InputError(f"victim: {self.recipe} asks a model, which is to be named: victim: NAME")
        if self.victim is not None and not made.asks:
            raise InputError(f"victim: {self.recipe} asks no model; leave it out")
        if self.victim in self.followed:
            raise InputError(f"victim: {self.victim} is a surrogate, whose gradients tell more than its answers")
        if not self.surrogates and (self.fuse, self.view) != (None, "center"):
            key, value = ("fuse", self.fuse) if self.fuse is not None else ("view", self.view)
            raise InputError(f"{key}: {value} has no effect without surrogates, the models that judge; name them")
        if self.fuse is not None and len(self.surrogates) == 1:
            raise InputError(f"fuse: {self.fuse} has no effect with one surrogate")
        if self.fuse == "drawn" and made.models > 1:
            raise InputError(f"fuse: {self.recipe} follows its surrogates one by one, by itself; leave drawn out")
        if self.fuse is not None and self.fuse not in made.fusions:
            way = f"fuses by {' or '.join(made.fusions)}" if made.fusions else "weighs its surrogates by itself"
            raise InputError(f"fuse: {self.recipe} {way}, not by {self.fuse}")
        return self

    @model_validator(mode="after")
    def _knows_a_defense(self) -> "AttackConfig":
        if self.backward == "smooth" and not recipe(self.recipe).gradients:
            raise InputError(f"backward: smooth has no effect on {self.recipe}, which takes no gradients")
        if self.backward == "smooth" and not (self.adaptive or has_choice(self.defense)):
            raise InputError(f"backward: smooth has no effect on {self.defense.name}; it has on {_CHOICES}")
        if self.verdict != "mean" and not (self.adaptive or self.defense.random):
            raise InputError(f"verdict: {self.verdict} has no effect, because the attack knows no random defence")
        return self

    @model_validator(mode="after")
    def _objective(self) -> "AttackConfig":
        """Averaged probabilities have no logits but their own logarithms. To the other objectives, which see
        differences of logits, that is the same; `logit` would silently be another one. And losses that are logits
        average to what logits average to."""
        if recipe(self.recipe).kind != "gradient" or dict(self.parameters).get("objective") != "logit":
            return self
        averaged = None
        if self.fuse == "probabilities":
            averaged = "fuse: probabilities"
        elif windows(VIEWS[self.view]) > 1:
            averaged = f"view: {self.view}"
        if averaged is not None:
            raise InputError(f"objective: logit would be cross-entropy with {averaged}; logit-margin, say, would not")
        if self.fuse == "losses":
            raise InputError("fuse: losses would average logits with objective: logit, as by default; leave it out")
        return self

    @model_validator(mode="after")
    def _budget(self) -> "AttackConfig":
        if self.norm is not None and self.eps is not None:
            _possible(self.norm, self.eps)
        units = recipe(self.recipe).marked(Unit)
        for key, value in self.parameters:
            for each in value if isinstance(value, tuple) else (value,):
                if key in units and each is not None and units[key].exceeded(each, self.norm):
                    raise InputError(
                        f"{key}: {each} is the whole range of a pixel, 1, or more; did you mean {float(each):g}/255?"
                    )
        for spec in self.specs("", ()):
            built = spec.build()
            if built.looks_inside and windows(VIEWS[self.view]) > 1:
                raise InputError(
                    f"view: {self.recipe} looks inside surrogates, which {self.view} shows several windows"
                )
        return self

    @model_validator(mode="after")
    def _carried(self) -> "AttackConfig":
        """Refuses a memory without effect. A default may be without: it was not asked for, and `run.json` holds it."""
        (spec, *_), made = self.specs("", ()), recipe(self.recipe)
        steps, given, defaults = spec.build().steps, dict(spec.parameters), made.parameters
        for key, carried in made.marked(Carried).items():
            if given[key] == defaults[key][1]:
                continue
            if steps == 1:
                raise InputError(f"{key}: {given[key]} has no effect with steps: 1; take 2 or more")
            if carried.by is not None and given[carried.by] == 0:
                raise InputError(f"{key}: {given[key]} has no effect with {carried.by}: 0; take a {carried.by} above 0")
        return self

    @property
    def followed(self) -> tuple[str, ...]:
        """The surrogates, by name."""
        return tuple(each.model for each in self.surrogates)

    def specs(self, name: str, every_defense: Sequence[Defense]) -> tuple[AttackSpec, ...]:
        """As the pipeline takes it, once for each target of a list; of an adaptive attack also a variant for each
        defence that it is to know."""
        if isinstance(self.target, tuple):
            each_alone = ((targeted_name(name, str(each)), each) for each in self.target)
            return tuple(spec for own, each in each_alone for spec in self._specs(own, each, every_defense))
        return self._specs(name, self.target, every_defense)

    def _specs(self, name: str, target: Target | None, every_defense: Sequence[Defense]) -> tuple[AttackSpec, ...]:
        plain = AttackSpec(
            name=name,
            recipe=self.recipe,
            parameters=plain_parameters(self.parameters),
            surrogates=self.followed,
            fuse=self.fuse or recipe(self.recipe).usual_fusion,
            view=self.view,
            defense=self.defense,
            precision=self.precision,
            gradients=self.gradients,
            norm=self.norm,
            eps=None if self.eps is None else float(self.eps),
            target=target,
            backward=self.backward,
            verdict=self.verdict,
            victim=self.victim,
            modifiers=tuple((each.model, each.modifiers) for each in self.surrogates if each.modifiers),
        )
        plain = replace(plain, gradients="torch" if plain.plain else None)
        if not self.adaptive:
            return (plain,)
        known = self.adaptive if isinstance(self.adaptive, tuple) else every_defense
        variants = (replace(plain, name=variant_name(name, each.name), variant_of=name, defense=each) for each in known)
        drawn_once = ((each, each.drawn_once()) for each in (plain, *variants))
        return tuple(each if once.build().redraws else once for each, once in drawn_once)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the labels CSV that it takes targets from."""
        return tuple(each.name for each in self._targets if isinstance(each, Column))

    @property
    def _targets(self) -> tuple[Target | None, ...]:
        """One for each time that it attacks an image."""
        return self.target if isinstance(self.target, tuple) else (self.target,)

    def without_draws(self, every_defense: Sequence[Defense]) -> str | None:
        """A parameter that counts draws, and its value, where no variant of an adaptive attack has any to count."""
        drawn = [dict(spec.parameters) for spec in self.specs("", every_defense)]
        asked = dict(self.parameters)
        unused = (key for key in recipe(self.recipe).marked(Drawn) if asked[key] not in [each[key] for each in drawn])
        return next((f"{key}: {asked[key]}" for key in unused), None)


@cache
def _parameter_model(name: str) -> type[Strict]:
    """The keys of a recipe, with their types and defaults."""
    parameters = recipe(name).parameters
    for key in parameters:
        if key in AttackConfig.model_fields:
            raise InputError(f"recipe: {name} calls a parameter {key!r}, which is a key of every attack; rename it")
    return parameter_model(name, parameters)
