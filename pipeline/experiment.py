"""The experiment: a YAML file, validated once into frozen typed objects."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import torch
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializeAsAny,
    ValidationError,
    create_model,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.manifest import ImagesConfig
from pipeline.strict import Ratio, Strict, first_problem
from transforms.attack import AttackSpec
from transforms.attacks.balls import BALLS
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Batch
from transforms.attacks.recipes import RECIPES, recipe
from transforms.attacks.surrogates import FUSIONS, Fusion, Precision
from transforms.classes import resolve_class
from transforms.decode import CanvasSpec
from transforms.defenses.grid import NO_DEFENSE, Defense, defenses, parse
from transforms.errors import InputError, unknown
from transforms.levels import WHITE
from transforms.models.sources import ModelSource, model_source
from transforms.models.views import VIEWS, problem
from transforms.randomness import Draws
from transforms.store import CLEAN

# Names stand in paths and in --set's dotted keys.
_NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
KNOWING = "@"
"""Between an adaptive attack and the defence that it knows, in the names of its variants."""
_STEPS = {"alpha", "inner_alpha", "reverse_step"}
_MOST = {"linf": 1, "l2": 8192, "l1": 8192**2}
"""Not below the distance of black and white on the largest canvas, in the unit of [0, 1] pixels."""


def _one_of(kind: str, choices: Collection[str]) -> BeforeValidator:
    def check(name: Any) -> Any:
        if not isinstance(name, str) or name not in choices:
            raise unknown(kind, name, choices)
        return name

    return BeforeValidator(check)


def _different(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if list(names).count(name) > 1:
            raise InputError(f"{name!r} is listed twice")
    return names


Name = Annotated[str, Field(pattern=_NAME_PATTERN)]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_different)]
View = Annotated[str, _one_of("view", VIEWS)]
Norm = Annotated[str, _one_of("norm", BALLS)]


class CanvasConfig(Strict):
    """The resolution of an experiment: the short side after resizing, and the side of the centre crop, pixels."""

    resize: int = Field(default=256, strict=True)
    crop: int = Field(default=224, strict=True)

    @property
    def spec(self) -> CanvasSpec:
        """As decoding takes it; raises InputError for impossible sizes."""
        return CanvasSpec(self.resize, self.crop)

    @model_validator(mode="after")
    def _possible(self) -> "CanvasConfig":
        _ = self.spec
        return self


class ModelConfig(Strict):
    """A model: its source, and a local checkpoint where the source's own weights are not wanted."""

    source: str
    weights: str | None = None
    preprocessing: dict[str, Any] = Field(default_factory=dict)  # what differs from the source's own

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, section: Any) -> Any:
        return {"source": section} if isinstance(section, str) else section

    @model_validator(mode="after")
    def _exists(self) -> "ModelConfig":
        _ = self.resolved
        return self

    @cached_property
    def resolved(self) -> ModelSource:
        """The model, before its weights are read; raises InputError if there is none, or if it cannot be so."""
        return model_source(self.source, self.weights, self.preprocessing)


def _one_defense(written: Any) -> Defense:
    """`lowpass:cutoff=0.5`, as in tables, or a list of several that are composed."""
    if written is None or isinstance(written, Defense):
        return written or NO_DEFENSE
    if isinstance(written, list):
        return Defense(tuple(each for part in written for each in _one_defense(part).filters))
    if not isinstance(written, str):
        raise InputError(f"{written!r} is not a defence such as lowpass:cutoff=0.5")
    return parse(written)


def _defense_name(defense: Defense) -> str:
    return defense.name


OneDefense = Annotated[Defense, BeforeValidator(_one_defense), PlainSerializer(_defense_name)]


class AttackConfig(Strict):
    """An attack: a recipe with its parameters, the surrogates it follows, its budget and its goal."""

    recipe: str
    surrogates: Names
    fuse: Annotated[Fusion, _one_of("fusion", FUSIONS)] | None = None
    view: View = "center"
    defense: OneDefense = NO_DEFENSE
    adaptive: bool | tuple[OneDefense, ...] = False
    precision: Annotated[Precision, _one_of("precision", get_args(Precision))] = "fp32"
    norm: Norm = "linf"
    eps: Ratio
    target: Annotated[int, BeforeValidator(resolve_class)] | None = None
    parameters: SerializeAsAny[Strict]  # of the recipe's own model, so that run.json holds what it has

    @model_validator(mode="before")
    @classmethod
    def _recipe_parameters(cls, section: Any) -> Any:
        """Moves the keys that belong to the recipe into `parameters`, validated against the recipe's signature."""
        if not isinstance(section, Mapping):
            return section  # reported by the type
        if not isinstance(section.get("recipe"), str):
            raise unknown("recipe", section.get("recipe", "(none)"), RECIPES)
        model = _parameter_model(section["recipe"])
        own = {key: value for key, value in section.items() if key not in cls.model_fields or key == "parameters"}
        known = {*cls.model_fields, *model.model_fields} - {"parameters"}
        for key in own:
            if key not in known:
                close = get_close_matches(str(key), known, n=1, cutoff=0.8)
                close = close or get_close_matches(str(key), known - set(section), n=1, cutoff=0.6)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(model.model_fields) or 'none'}"
                raise InputError(f"{section['recipe']} has no parameter {key!r}; {hint}")
        shared = {key: value for key, value in section.items() if key not in own}
        return {**shared, "parameters": model.model_validate(own)}

    @model_validator(mode="after")
    def _makes_sense(self) -> "AttackConfig":
        made = recipe(self.recipe)
        if self.norm not in made.norms:
            raise InputError(f"norm: {self.recipe} bounds {' or '.join(made.norms)}, not {self.norm}")
        if self.target is not None and made.goals == "untargeted":
            raise InputError(f"target: {self.recipe} cannot be targeted")
        if self.target is None and made.goals == "targeted":
            raise InputError(f"target: {self.recipe} needs one, such as target: megalith")
        if len(self.surrogates) < made.models:
            raise InputError(f"surrogates: {self.recipe} needs {made.models} or more, not {len(self.surrogates)}")
        if self.fuse is not None and len(self.surrogates) == 1:
            raise InputError(f"fuse: {self.fuse} has no effect with one surrogate")
        if self.fuse is not None and self.fuse not in made.fusions:
            way = f"fuses by {' or '.join(made.fusions)}" if made.fusions else "weighs its surrogates by itself"
            raise InputError(f"fuse: {self.recipe} {way}, not by {self.fuse}")
        if self.adaptive and self.defense != NO_DEFENSE:
            raise InputError(f"adaptive: the attack knows {self.defense.name} already; leave out one of the two")
        if self.precision != "fp32" and made.kind == "score":
            raise InputError(f"precision: {self.precision} has no effect on {self.recipe}, which takes no gradients")
        return self

    @model_validator(mode="after")
    def _budget(self) -> "AttackConfig":
        if self.eps * WHITE < 1:
            raise InputError(f"eps: {self.eps} is less than one grey level, 1/255")
        if self.norm == "linf" and self.eps >= 1:
            raise InputError(f"eps: {self.eps} is the whole range of a pixel, 1, or more; did you mean {self.eps}/255?")
        if self.eps >= _MOST[self.norm]:
            raise InputError(f"eps: {self.eps} is {_MOST[self.norm]} or more, beyond the corners of any canvas")
        if self.norm == "linf" and recipe(self.recipe).kind != "minimal-norm":  # their alpha is something else
            for key, value in self.parameters:
                if key in _STEPS and value is not None and value >= 1:
                    raise InputError(
                        f"{key}: {value} is the whole range of a pixel, 1, or more; did you mean {float(value):g}/255?"
                    )
        for spec in self.specs("", ()):
            spec.build()
        return self

    def specs(self, name: str, every_defense: Sequence[Defense]) -> tuple[AttackSpec, ...]:
        """As the pipeline takes it; of an adaptive attack also a variant for each defence that it is to know."""
        plain = AttackSpec(
            name=name,
            recipe=self.recipe,
            parameters=tuple((key, _plain(value)) for key, value in self.parameters),
            surrogates=self.surrogates,
            fuse=self.fuse or "logits",
            view=self.view,
            defense=self.defense,
            precision=self.precision,
            norm=self.norm,
            eps=float(self.eps),
            target=self.target,
        )
        if not self.adaptive:
            return (plain,)
        known = self.adaptive if isinstance(self.adaptive, tuple) else every_defense
        variants = (replace(plain, name=f"{name}{KNOWING}{each.name}", defense=each) for each in known)
        return tuple(_drawn_where_random(each) for each in (plain, *variants))


def _drawn_where_random(spec: AttackSpec) -> AttackSpec:
    """Of an adaptive attack's variants, `eot` is for those that have anything to draw."""
    once = replace(spec, parameters=tuple((key, 1 if key == "eot" else value) for key, value in spec.parameters))
    return spec if getattr(once.build(), "redraws", False) else once


class Experiment(Strict):
    """Everything that the rows of a run depend on, besides the bytes of images and weights."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**63, strict=True)
    chunk_size: int = Field(default=16, ge=1, le=4096, strict=True)
    images: ImagesConfig
    canvas: CanvasConfig = CanvasConfig()
    models: dict[Name, ModelConfig] = Field(min_length=1)
    attacks: dict[Name, AttackConfig] = Field(default_factory=dict)
    targets: Names = Field(default_factory=lambda data: tuple(data["models"]))
    views: Annotated[tuple[View, ...], Field(min_length=1), AfterValidator(_different)] = ("center",)
    defenses: tuple[OneDefense, ...] = ()
    all_probabilities: bool = False
    keep_canvases: bool = True

    @model_validator(mode="before")
    @classmethod
    def _defense_grids(cls, section: Any) -> Any:
        if not isinstance(section, Mapping) or "defenses" not in section:
            return section
        return {**section, "defenses": defenses(section["defenses"])}

    @model_validator(mode="after")
    def _names_resolve(self) -> "Experiment":
        if CLEAN in self.attacks:
            raise InputError(f"attacks.{CLEAN}: this name stands for the clean image; choose another")
        for name in self.targets:
            if name not in self.models:
                raise unknown("model in targets:", name, self.models)
        for attack, config in self.attacks.items():
            for name in config.surrogates:
                if name not in self.models:
                    raise unknown(f"model in attacks.{attack}.surrogates:", name, self.models)
        for attack, config in self.attacks.items():
            self._check_adaptive(attack, config)
            self._check_gradients(attack, config)
            self._check_view(f"attacks.{attack}.view", config.view, config.surrogates)
        for view in self.views:
            self._check_view("views", view, self.targets)
        # A blank canvas shows a parameter out of range before any work is done.
        blank = torch.zeros(1, 3, self.canvas.crop, self.canvas.crop, dtype=torch.uint8)
        for spec in self.specs:
            try:
                _try_transformations(spec, blank)
            except InputError as error:
                raise InputError(f"attacks.{spec.name}: {error}") from None
        for where, defense in (
            *(("defenses.", each) for each in self.defenses),
            *((f"attacks.{name}.defense: ", each.defense) for name, each in self.attacks.items()),
        ):
            try:
                defense(blank, Draws(self.seed, defense.name, [""]))
            except InputError as error:
                raise InputError(f"{where}{error}") from None
        return self

    def _check_adaptive(self, attack: str, config: AttackConfig) -> None:
        if not config.adaptive:
            return
        if not self.defenses:
            raise InputError(f"attacks.{attack}.adaptive: there are no defences to know")
        if isinstance(config.adaptive, tuple):
            for each in config.adaptive:
                if each not in self.defenses:
                    raise unknown(
                        f"defense in attacks.{attack}.adaptive:", each.name, [one.name for one in self.defenses]
                    )
        eot = getattr(config.parameters, "eot", 1)
        try:
            drawn = [dict(spec.parameters).get("eot", 1) for spec in config.specs(attack, self.defenses)]
        except InputError as error:
            raise InputError(
                f"attacks.{attack}.{error}; or list the defences that it is to know, as in adaptive: [jpeg:quality=75]"
            ) from None
        if eot not in drawn:
            raise InputError(f"attacks.{attack}.eot: {eot} has no effect, because none of the defences is random")

    def _check_gradients(self, attack: str, config: AttackConfig) -> None:
        black_boxes = [name for name in config.surrogates if not self.models[name].resolved.differentiable]
        if black_boxes and recipe(config.recipe).kind not in {"score", "other"}:
            source = self.models[black_boxes[0]].source
            raise InputError(
                f"attacks.{attack}.surrogates: {black_boxes[0]} ({source}) gives no gradients, which {config.recipe} "
                "follows; take it as a target, or attack it by square"
            )

    def _check_view(self, where: str, view: str, models: Sequence[str]) -> None:
        canvas = self.canvas.spec
        for name in models:
            preprocessing = self.models[name].resolved.preprocessing
            found = problem(view, canvas.crop, preprocessing.window(canvas.crop, canvas.field))
            if found and preprocessing.field == 1:
                found = f"{view} looks at parts, and this model was evaluated on whole pictures"
            if found:
                raise InputError(f"{where}: for {name}, {found}")

    @property
    def used_models(self) -> dict[str, ModelConfig]:
        """The models that are targets or surrogates, by name."""
        used = {*self.targets, *(name for attack in self.attacks.values() for name in attack.surrogates)}
        return {name: config for name, config in self.models.items() if name in used}

    @property
    def specs(self) -> tuple[AttackSpec, ...]:
        """The attacks, as the pipeline takes them."""
        return tuple(spec for name, config in self.attacks.items() for spec in config.specs(name, self.defenses))

    @property
    def defenses_of(self) -> dict[str, tuple[Defense, ...]]:
        """Behind which defences the canvases of each attack are looked at, and the clean ones: behind none and all of
        them; those of an attack's variant that knows one, behind none and that one."""
        every = (NO_DEFENSE, *self.defenses)
        own = {spec.name: (NO_DEFENSE, spec.defense) if KNOWING in spec.name else every for spec in self.specs}
        return {CLEAN: every, **own}


def load_experiment(path: str, changes: Sequence[str] = ()) -> Experiment:
    """Reads and validates an experiment.

    Args:
        path: a YAML file (1.2).
        changes: `key.key=value` each, values in YAML, applied before validation.

    Raises:
        InputError: no such file, not YAML, or not an experiment; one line that names the key and the value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"experiment {path!r} cannot be read: {error}") from None
    section = _yaml(text, path)
    if not isinstance(section, dict):
        raise InputError(f"{path}: an experiment is a YAML mapping (name:, images:, models:, ...)")
    for change in changes:
        _apply(section, change)
    try:
        return Experiment.model_validate(section)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def _yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _apply(section: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    *parents, last = path.split(".")
    if not equals or not last:
        raise InputError(f"--set {change!r}: write it as key.key=value")
    for parent in parents:
        inner = section.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {change!r}: {parent} is {inner!r}, not a section")
        section = inner
    section[last] = _yaml(text, f"--set {change!r}")


class _Least(Draws):
    """The smallest of all draws: whatever is done only sometimes is done."""

    def uniform(self, shape: Sequence[int], draw: str) -> torch.Tensor:
        return torch.zeros(1, *shape)


def _try_transformations(spec: AttackSpec, blank: torch.Tensor) -> None:
    """Some parameters are out of range for small canvases only."""
    label = torch.zeros(1, dtype=torch.int64)
    batch = Batch(blank, Goal(label), _Least(0, spec.name, [""]), blank, label)
    for transformation in getattr(spec.build(), "transformations", ()):
        for copy in range(transformation.copies if transformation.fused else 1):  # fused ones differ in parameters
            transformation(batch.clean, copy, batch.draws, batch)


@cache
def _parameter_model(name: str) -> type[Strict]:
    """What a recipe's own keys may be."""
    parameters = recipe(name).parameters
    for key in parameters:
        if key in AttackConfig.model_fields:
            raise InputError(f"recipe: {name} calls a parameter {key!r}, which is a key of every attack; rename it")
    fields: dict[str, Any] = {key: (_written(key, hint), default) for key, (hint, default) in parameters.items()}
    return create_model(name, __base__=Strict, **fields)


def _written(key: str, hint: Any) -> Any:
    """The type of a parameter as a user writes it: floats may be fractions."""
    if hint is float:
        return Ratio
    if hint == float | None:
        return Ratio | None
    if hint == tuple[float, ...]:
        return tuple[Ratio, ...]
    if get_origin(hint) is Literal:
        return Annotated[hint, _one_of(key, get_args(hint))]
    return Annotated[hint, Field(strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):  # a specification is hashable
        return tuple(_plain(each) for each in value)
    return float(value) if isinstance(value, Fraction) else value
