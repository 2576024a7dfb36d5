"""The experiment: a YAML file, validated once into frozen typed objects."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import quote

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.config.attacks import AttackConfig, OneDefense, View
from pipeline.config.base import Name, Names, Strict, different, first_problem, one_case, one_of
from pipeline.config.images import ImagesConfig
from pipeline.config.yaml import MAX_BYTES, read_yaml
from transforms.attacks.recipes.names import recipe
from transforms.attacks.spec import AttackSpec
from transforms.data.decode import CanvasSpec
from transforms.defenses.defense import NO_DEFENSE, Defense
from transforms.defenses.differentiable import has_choice
from transforms.defenses.grid import defenses
from transforms.errors import InputError, printable, unknown
from transforms.models.device import Numerics
from transforms.models.lpips import BACKBONES, Net, require_lpips
from transforms.models.pin import Engine, GradientEngine
from transforms.models.sources.registry import model_source
from transforms.models.sources.source import ModelSource
from transforms.models.views import problem
from transforms.rows.distances import LEAST_SIDE
from transforms.rows.parts import CLEAN

_LONGEST_NAME = 240
"""Maximum length of a folder's name with `defense=` before it, bytes; filesystems take 255."""


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
        side = self.spec.crop
        if side < LEAST_SIDE:
            raise InputError(f"crop: {side} pixels are too few for SSIM; take {LEAST_SIDE} or more")
        return self


class ModelConfig(Strict):
    """A model: its source, a local checkpoint where the source's own weights are not wanted, and what predicts with it.

    Attributes:
        engine: runs the network when it predicts; by default the quickest that agrees with torch on the device.
        gradients: runs it when an attack follows it; by default torch with `engine: torch`, and else the quickest.
    """

    source: str
    weights: str | None = None
    preprocessing: dict[str, Any] = Field(default_factory=dict)  # what differs from the source's own
    engine: Annotated[Engine, one_of("engine", get_args(Engine))] = "auto"
    gradients: Annotated[GradientEngine, one_of("gradients", get_args(GradientEngine))] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, section: Any) -> Any:
        return {"source": section} if isinstance(section, str) else section

    @model_validator(mode="after")
    def _exists(self) -> "ModelConfig":
        differentiable = self.resolved.differentiable  # where there is no such model, it is said here
        if self.engine == "torch" and not differentiable:
            raise InputError(f"engine: torch cannot run {self.source}, which ONNX Runtime runs; leave it out")
        return self

    @cached_property
    def resolved(self) -> ModelSource:
        """The model, before its weights are read; raises InputError if there is none, or if it cannot be so."""
        return model_source(self.source, self.weights, self.preprocessing)


class LpipsConfig(Strict):
    """A column of perceptual distances: the network whose features are compared, and where its weights are.

    Attributes:
        weights: a local file with torchvision's state dict of it; None for torchvision's own, downloaded before a run.
    """

    net: Annotated[Net, one_of("net", BACKBONES)] = "alex"
    weights: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, section: Any) -> Any:
        return {"net": section} if isinstance(section, str) else section

    @model_validator(mode="after")
    def _exists(self) -> "LpipsConfig":
        require_lpips()
        model_source(BACKBONES[self.net], self.weights)
        return self


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
    views: Annotated[tuple[View, ...], Field(min_length=1), AfterValidator(different)] = ("center",)
    defenses: tuple[OneDefense, ...] = ()
    all_probabilities: bool = False
    micro_batch: int | None = Field(default=None, ge=1, le=4096, strict=True)
    numerics: Annotated[Numerics, one_of("numerics", get_args(Numerics))] = "exact"
    keep_canvases: bool = True
    lpips: LpipsConfig | None = None

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
        if self.images.labeller not in {None, *self.models}:
            raise unknown("model in images.labels:", self.images.labeller, self.models)
        for attack, config in self.attacks.items():
            for name in config.followed:
                if name not in self.models:
                    raise unknown(f"model in attacks.{attack}.surrogates:", name, self.models)
            if config.victim is not None and config.victim not in self.models:
                raise unknown(f"model in attacks.{attack}.victim:", config.victim, self.models)
        return self

    @model_validator(mode="after")
    def _folders_differ(self) -> "Experiment":
        """Where a disk takes upper and lower case for the same, as on macOS and Windows, names would share folders."""
        for where, names in (("attacks", self.attacks), ("models", self.models)):
            one_case(where, names)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        for attack, config in self.attacks.items():
            self._check_adaptive(attack, config)
            self._check_gradients(attack, config)
            self._check_view(f"attacks.{attack}.view", config.view, config.followed)
            if config.columns and self.images.csv is None:
                raise InputError(
                    f"attacks.{attack}.target: column {config.columns[0]} is one of a CSV; give images.labels"
                )
        for view in self.views:
            self._check_view("views", view, self.targets)
        for name in (*(each.name for each in self.defenses), *(spec.name for spec in self.specs)):
            if len(quote(name, safe="")) > _LONGEST_NAME:
                raise InputError(f"{name}: too long to name a folder; leave out a part of the composition")
        return self

    @model_validator(mode="after")
    def _in_range(self) -> "Experiment":
        """Parameters that are wrong for canvases of this size are refused before any work is done."""
        for spec in self.specs:
            try:
                spec.build().check(self.canvas.crop)
            except InputError as error:
                raise InputError(f"attacks.{spec.name}: {error}") from None
        for where, defense in (
            *(("defenses.", each) for each in self.defenses),
            *((f"attacks.{name}.defense: ", each.defense) for name, each in self.attacks.items()),
        ):
            try:
                defense.check(self.canvas.crop)
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
        try:
            unused = config.without_draws(self.defenses)
        except InputError as error:
            raise InputError(f"attacks.{attack}.{error}; or list those that it is to know under adaptive:") from None
        if unused is not None:
            raise InputError(f"attacks.{attack}.{unused} has no effect, because none of the defences is random")
        known = config.adaptive if isinstance(config.adaptive, tuple) else self.defenses
        if config.backward == "smooth" and not any(map(has_choice, known)):
            raise InputError(f"attacks.{attack}.backward: smooth has no effect on any of the defences")
        if config.verdict != "mean" and not any(each.random for each in known):
            raise InputError(
                f"attacks.{attack}.verdict: {config.verdict} has no effect, because none of the defences is random"
            )

    def _check_gradients(self, attack: str, config: AttackConfig) -> None:
        black_boxes = [name for name in config.followed if not self.models[name].resolved.differentiable]
        made = recipe(config.recipe)
        if black_boxes and made.gradients and made.kind != "other":
            source = self.models[black_boxes[0]].source
            raise InputError(
                f"attacks.{attack}.surrogates: {black_boxes[0]} ({source}) gives no gradients, which {config.recipe} "
                "follows; take it as a target, or attack it by square"
            )

    def _check_view(self, where: str, view: str, models: Sequence[str]) -> None:
        canvas = self.canvas.spec
        for name in models:
            preprocessing = self.models[name].resolved.preprocessing
            found = problem(view, canvas.crop, preprocessing.window(canvas.crop, canvas.field_of_view))
            if found and preprocessing.field_of_view == 1:
                found = f"{view} looks at parts, and this model was evaluated on whole pictures"
            if found:
                raise InputError(f"{where}: for {name}, {found}")

    @property
    def used_models(self) -> dict[str, ModelConfig]:
        """The models that are targets, surrogates or victims, or give labels, by name."""
        used = {*self.targets, *(name for attack in self.specs for name in attack.models), self.images.labeller}
        return {name: config for name, config in self.models.items() if name in used}

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Columns of the labels CSV that attacks take their targets from."""
        return tuple(dict.fromkeys(name for attack in self.attacks.values() for name in attack.columns))

    @property
    def specs(self) -> tuple[AttackSpec, ...]:
        """The attacks, as the pipeline takes them."""
        return tuple(spec for name, config in self.attacks.items() for spec in config.specs(name, self.defenses))

    @property
    def defenses_of(self) -> dict[str, tuple[Defense, ...]]:
        """Behind which defences the canvases of each attack are looked at, and the clean ones: behind none and all of
        them; those of an attack's variant that knows one, behind none and that one."""
        every = (NO_DEFENSE, *self.defenses)
        own = {spec.name: (NO_DEFENSE, spec.defense) if spec.variant_of else every for spec in self.specs}
        return {CLEAN: every, **own}


def load_experiment(path: str, changes: Sequence[str] = ()) -> Experiment:
    """Reads and validates an experiment.

    Args:
        path: a YAML file (1.2).
        changes: `key.key=value` each, values in YAML, applied before validation.

    Raises:
        InputError: no such file, not YAML, or not an experiment; one line that names the key and the value.
    """
    section = read_yaml(_text(path), printable(path))
    if not isinstance(section, dict):
        raise InputError(f"{printable(path)}: an experiment is a YAML mapping (name:, images:, models:, ...)")
    doubts = [doubt for change in changes if (doubt := _apply(section, change))]
    try:
        return Experiment.model_validate(section)
    except ValidationError as error:
        raise InputError("; ".join([f"{printable(path)}: {first_problem(error)}", *doubts])) from None


def _text(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(
                f"larger than {MAX_BYTES:,} bytes; a long list of images goes into a file, see images.select"
            )
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"experiment {path!r} is no text in UTF-8, as YAML is") from None
    except (OSError, ValueError) as error:
        raise InputError(f"experiment {path!r} cannot be read: {error}") from None


def _apply(section: dict[str, Any], change: str) -> str | None:
    """Makes a change; doubts it where it adds to a section of names one that is nearly another."""
    doubt = None
    where = f"--set {printable(repr(change), 200)}"
    path, equals, text = change.partition("=")
    *parents, last = path.split(".")
    if not equals or not last:
        raise InputError(f"{where}: write it as key.key=value")
    for depth, parent in enumerate(parents):
        if depth and parent not in section and (close := get_close_matches(parent, section, n=1)):
            doubt = f"{where} begins {printable(parent)}; did you mean {close[0]!r}?"
        inner = section.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"{where}: {printable(parent)} is {printable(repr(inner), 100)}, not a section")
        section = inner
    section[last] = read_yaml(text, where)
    return doubt
