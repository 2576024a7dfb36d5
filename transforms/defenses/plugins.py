"""Defences of a user's own package, which names them in the entry-point group `megalith.defenses`."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, get_type_hints

import torch
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.defenses.eight_bit import to_8bit
from transforms.defenses.purifier import Purifier
from transforms.errors import InputError
from transforms.plugins import installed, keyed_randomness, loaded, refusing
from transforms.randomness import Draws

_GROUP = "megalith.defenses"
_FORM = "(canvases, *, parameter: int or float, ...) or (canvases, draws, *, ...)"


def plugin_names() -> list[str]:
    """What the installed packages offer."""
    return list(installed(_GROUP, "defense"))


def plugin_defense(name: str) -> Callable[..., Tensor]:
    """By the name of its entry point, a function of the form of the built-in ones.

    Unless it is a `Purifier`, it is called with one canvas at a time, uint8 (1, 3, S, S), so that no image's result
    depends on its neighbours; the generators of torch, NumPy and Python are seeded, for each draw of a random defence
    and always alike for others.

    Raises:
        InputError: no package offers it, it cannot be loaded, or it has another form; when called, whatever it raises,
            in one line, and an answer that is not uint8 of the same shape.
    """
    function = loaded(_GROUP, "defense", name)
    if isinstance(function, Purifier):
        return _rounded(_purifying(name, function))
    _check(name, function)

    @wraps(function)
    def guarded(canvases: Tensor, draws: Draws | None = None, **values: float) -> Tensor:
        answers = [_answer(name, function, canvas, draws and draws.of(n), values) for n, canvas in enumerate(canvases)]
        return torch.stack(answers)

    return guarded


def plugin_purifier(name: str) -> Callable[..., Tensor] | None:
    """By the name of its entry point, a purifier's function on float canvases; None for another kind of defence.

    Raises:
        InputError: as `plugin_defense`; when called, also for values that are not finite.
    """
    found = loaded(_GROUP, "defense", name)
    return _purifying(name, found) if isinstance(found, Purifier) else None


def _purifying(name: str, purifier: Purifier) -> Callable[..., Tensor]:
    function = purifier.function
    _check(name, function)

    def one(canvases: Tensor, draws: Draws | None, seeded_by: Draws | None, values: dict[str, float]) -> Tensor:
        given = () if draws is None else (draws,)
        with refusing(f"defense {name}"), keyed_randomness(_seed(seeded_by), canvases.device):
            answer = function(canvases, *given, **values)
        if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.shape != canvases.shape:
            raise InputError(f"defense {name}: returned {_kind(answer)}, not float {tuple(canvases.shape)}")
        if not answer.isfinite().all():
            raise InputError(f"defense {name}: returned values that are not finite")
        return answer

    @wraps(function)
    def purified(canvases: Tensor, draws: Draws | None = None, **values: float) -> Tensor:
        if purifier.batched or not len(canvases):
            return one(canvases, draws, draws and draws.shared, values)
        own = [draws and draws.of(n) for n in range(len(canvases))]
        return torch.cat([one(canvases[n : n + 1], each, each, values) for n, each in enumerate(own)])

    return purified


def _rounded(purified: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A purifier as a function of 8-bit canvases."""

    @wraps(purified)
    def rounded(canvases: Tensor, *draws: Draws, **values: float) -> Tensor:
        with torch.no_grad():
            return to_8bit(purified(canvases.float() / WHITE, *draws, **values) * WHITE)

    return rounded


def _check(name: str, function: Any) -> None:
    if not callable(function):
        raise InputError(f"defense {name}: is not a function {_FORM}")
    with refusing(f"defense {name}"):
        hints = get_type_hints(function)
    parameters = signature(function).parameters.values()
    given = [each.name for each in parameters if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
    named = [each for each in parameters if each.kind is Parameter.KEYWORD_ONLY]
    if len(given) + len(named) < len(parameters) or not given or given[1:] not in ([], ["draws"]):
        raise InputError(f"defense {name}: {function.__name__}{signature(function)} is not of the form {_FORM}")
    for each in named:
        if hints.get(each.name) not in {int, float} or each.default is not Parameter.empty:
            raise InputError(f"defense {name}: parameter {each.name} must be an int or a float, without a default")
        if each.name == "repeats":
            raise InputError(f"defense {name}: a parameter 'repeats' is what every random defence has; rename it")


def _answer(
    name: str, function: Callable[..., Tensor], canvas: Tensor, draws: Draws | None, values: dict[str, float]
) -> Tensor:
    given = () if draws is None else (draws,)
    with refusing(f"defense {name}"), keyed_randomness(_seed(draws), canvas.device):
        # A copy, because nobody can promise that theirs does not work in place.
        answer = function(canvas[None].clone(), *given, **values)
    if not isinstance(answer, Tensor) or answer.dtype != torch.uint8 or answer.shape != (1, *canvas.shape):
        raise InputError(f"defense {name}: returned {_kind(answer)}, not uint8 {(1, *canvas.shape)}")
    return answer[0].to(canvas.device)


def _seed(draws: Draws | None) -> int:
    """For the generators that belong to the process; 0 where a defence is not random."""
    return 0 if draws is None else int(draws.integers(2**31, (), "global generators"))


def _kind(answer: Any) -> str:
    return f"{answer.dtype} {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
