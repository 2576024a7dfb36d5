"""An attack's surrogates, each with the modifiers through which its gradients are taken."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from pipeline.config.base import Name, Strict, different
from pipeline.config.parameters import parameter_model, plain_parameters
from transforms.attacks.modifiers.registry import MODIFIERS, ModifierSpec, parameters
from transforms.errors import InputError

_sections: dict[str, Any] = {name: (parameter_model(name, parameters(name)) | None, None) for name in MODIFIERS}
Modify = create_model("Modify", __base__=Strict, **_sections)
"""A section of parameters for each modifier; None where there is none."""


class SurrogateConfig(Strict):
    """A model whose gradients are followed; written as its name where it is not modified.

    Attributes:
        modify: modifiers with their parameters; in an experiment, a name or a list of names will do.
    """

    model: Name
    modify: SerializeAsAny[Modify] = Modify()  # type: ignore[valid-type]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, section: Any) -> Any:
        if isinstance(section, str):
            return {"model": section}
        if isinstance(section, Mapping) and "modify" in section:
            return {**section, "modify": _by_name(section["modify"])}
        return section

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        if not self.modifiers:
            return self.model
        written: dict[str, Any] = handler(self)
        return {**written, "modify": {name: each for name, each in written["modify"].items() if each is not None}}

    @model_validator(mode="after")
    def _go_together(self) -> "SurrogateConfig":
        for each in self.modifiers:
            try:
                each.make()
            except InputError as error:
                raise InputError(f"modify.{each.name}.{error}") from None
        return self

    @property
    def modifiers(self) -> tuple[ModifierSpec, ...]:
        """As the pipeline takes them."""
        sections = {name: getattr(self.modify, name) for name in MODIFIERS}
        return tuple(ModifierSpec(name, plain_parameters(each)) for name, each in sections.items() if each is not None)


def _by_name(written: Any) -> Any:
    """A section for each modifier that is asked for."""
    names = [written] if isinstance(written, str) else written
    if isinstance(names, list | tuple):
        names = dict.fromkeys(different([str(each) for each in names]))
    if isinstance(names, Strict):
        return names
    if not isinstance(names, Mapping) or not names:
        raise InputError(f"modify: {written!r} is neither a name nor a section such as {{sgm: {{gamma: 0.2}}}}")
    return {name: {} if section is None else section for name, section in names.items()}


def _models_differ(surrogates: tuple[SurrogateConfig, ...]) -> tuple[SurrogateConfig, ...]:
    different([each.model for each in surrogates])
    return surrogates


Surrogates = Annotated[tuple[SurrogateConfig, ...], AfterValidator(_models_differ)]
