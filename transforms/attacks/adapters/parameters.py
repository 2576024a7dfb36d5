"""Parameters of functions of other libraries and plug-ins, as an experiment may set them."""

from collections.abc import Callable, Collection, Mapping
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

from transforms.attacks.balls import Ball
from transforms.attacks.protocol import Attack


class Offered(NamedTuple):
    """Type and default of a parameter."""

    kind: type
    default: bool | int | float | str


def offered(function: Callable[..., Any], withheld: Collection[str], reals: Collection[str] = ()) -> dict[str, Offered]:
    """The parameters of a function or class that an experiment may set: those whose default is a plain value.

    Args:
        withheld: parameters that it may not.
        reals: those that are real numbers, though their default is written as a whole one.
    """
    found = {}
    for name, parameter in signature(function).parameters.items():
        default = parameter.default
        if name in withheld or type(default) not in {bool, int, float, str}:
            continue
        real = type(default) is int and (name in reals or parameter.annotation is float)
        found[name] = Offered(float, float(default)) if real else Offered(type(default), default)
    return found


def maker(
    name: str, parameters: Mapping[str, tuple[Any, Any]], make: Callable[[Ball, dict[str, Any]], Attack]
) -> Callable[..., Attack]:
    """A function for a recipe's chain: (ball, *, parameters) -> attack.

    Args:
        parameters: type and default of each, by name.
        make: takes the ball, and a value for every parameter.
    """
    defaults = {each: default for each, (_, default) in parameters.items() if default is not Parameter.empty}

    def made(ball: Ball, **given: Any) -> Attack:
        return make(ball, {**defaults, **given})

    keywords = [
        Parameter(each, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for each, (kind, default) in parameters.items()
    ]
    first = Parameter("ball", Parameter.POSITIONAL_OR_KEYWORD, annotation=Ball)
    made.__name__ = made.__qualname__ = name
    made.__signature__ = Signature([first, *keywords], return_annotation=Attack)  # type: ignore[attr-defined]
    made.__annotations__ = {"ball": Ball, **{each: kind for each, (kind, _) in parameters.items()}, "return": Attack}
    return made
