"""Named attacks: what an experiment may write as `recipe:`, and how a name is resolved.

A *base* makes a loop from a ball; a *part* changes a loop. Both name their parameters as the papers do. Any base and
parts combine: `mi-di-ti`. Most recipes are such combinations under the literature's name; the others are drivers.
"""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from transforms.attacks.adapters.registry import adapted, plugin_names
from transforms.attacks.balls import Ball
from transforms.attacks.drivers import (
    apgd,
    carlini_wagner,
    ddn,
    deepfool,
    ensemble_search,
    fmn,
    pictures,
    spatial,
    square,
    stadv,
)
from transforms.attacks.drivers.candidates import Candidates
from transforms.attacks.loop import AttackLoop
from transforms.attacks.objectives import ObjectiveName
from transforms.attacks.recipe import Recipe
from transforms.attacks.recipes import autoattack
from transforms.attacks.recipes.bases import BASES, pc_i_fgsm, region_fitting, tenths
from transforms.attacks.recipes.common import common
from transforms.attacks.recipes.parts import PARTS
from transforms.errors import InputError, unknown

_CANDIDATES = ("mi-fgsm", "di-fgsm", "si-fgsm", "vmi-fgsm", "bsr")


def combined(base: str | Recipe, *parts: str, source: str = "", **defaults: Any) -> Recipe:
    """A base with parts. The transformation named last is applied first: in `vmi-di-si`, `di` is shown each scale."""
    made = BASES[base] if isinstance(base, str) else base
    sources = dict.fromkeys([*(PARTS[part].source for part in parts), made.source])
    return replace(
        made,
        source=source or "; ".join(sources),
        chain=(*made.chain, *(function for part in reversed(parts) for function in PARTS[part].links), common),
        defaults={**made.defaults, **defaults},
    )


def _long_and_targeted(
    source: str, objective: ObjectiveName, *parts: str, diversity: str = "di", **defaults: Any
) -> Recipe:
    """Hundreds of steps with diverse inputs and a small translation kernel."""
    usual = {
        "steps": 300,
        "alpha": 2 / 255,
        "diversity_probability": 0.7,
        "kernel_size": 5,
        "objective": objective,
    }
    made = combined("mi", *parts, diversity, "ti", source=source, **{**usual, **defaults})
    return replace(made, norms=("linf",), goals="targeted")


def candidates(ball: Ball, *, recipes: tuple[str, ...] = _CANDIDATES, queries: int = 10) -> Candidates:
    """What several recipes make of an image with their defaults, each a candidate about which the victim is asked.

    Args:
        recipes: of the loop, in the order in which they are asked about.
        queries: of the victim for an image, at most.

    Raises:
        InputError: a recipe is none of the loop, or is targeted or for several surrogates only.
    """
    for name in recipes:
        made = recipe(name)
        if made.chain[-1] is not common or made.goals != "any" or made.models > 1:
            raise InputError(f"recipes: {name} is no candidate; recipes of the loop for any goal are (mi-fgsm, say)")
    return Candidates(ball, attacks=tuple(recipe(name).make(ball) for name in recipes), queries=queries)


RECIPES: dict[str, Recipe] = {
    "fgsm": combined("fgsm"),
    "bim": combined("bim"),
    "pgd": combined("pgd"),
    "adam-pgd": combined("adam"),
    "mi-fgsm": combined("mi"),
    "ni-fgsm": combined("ni"),
    "gi-fgsm": combined("gi"),
    "pi-fgsm": combined("pi"),
    "vmi-fgsm": combined("vmi"),
    "vni-fgsm": combined("vni"),
    "emi-fgsm": combined("emi"),
    "gra": combined("gra"),
    "pgn": combined("pgn"),
    "mef": combined("mef"),
    "rap": combined("rap"),
    "fgsra": combined("fgsra"),
    "dta": combined("dta"),
    "ops": combined("ops"),
    "mumodig": combined("mumodig"),
    "decowa": combined("decowa"),
    "pc-i-fgsm": combined(Recipe(BASES["pc"].source, (pc_i_fgsm,))),
    "pc-mi-fgsm": combined("pc"),
    "l2t": combined("l2t"),
    "di-fgsm": combined("mi", "di"),
    "ti-fgsm": combined("mi", "ti"),
    "si-fgsm": combined("mi", "si"),
    "si-ni-fgsm": combined("ni", "si"),
    "dem": combined(Recipe(PARTS["dem"].source, (region_fitting,)), "dem"),
    "admix": combined("mi", "admix"),
    "usmm": combined("mi", "usmm"),
    "ssa": combined("mi", "ssa"),
    "mfi": combined("mi", "mfi"),
    "sia": combined("mi", "sia"),
    "bsr": combined("mi", "bsr"),
    "anda": combined("mi", "anda", normalized=False),
    "lf-fgsm": combined("mi", "lf"),
    "fia": combined("mi", "fia"),
    "rpa": combined("mi", "rpa"),
    "naa": combined("mi", "naa"),
    "bfa": combined("mi", "bfa"),
    "p2fa": combined(Recipe(PARTS["p2fa"].source, (tenths,)), "p2fa"),
    "ila": combined("bim", "ila"),
    "ilpd": replace(combined("bim", "ilpd", steps=100, alpha=1 / 255), norms=("linf",)),
    "svre": combined("svre"),
    "adaea": combined("adaea"),
    "smer": combined("smer"),
    "cwa": combined("cwa"),
    "logit": _long_and_targeted("Zhao et al. 2021, arXiv:2012.11207", "logit", normalized=False),
    # Its gradient is divided by a margin that may be tiny: as it is, a single step could outweigh all others.
    "logit-margin": _long_and_targeted("Weng et al. 2023, arXiv:2303.03680", "logit-margin", normalized=True),
    # Byun et al. enlarge each input, by 340 to 299; so do Liang et al.
    **{
        name: _long_and_targeted(PARTS[name].source, "logit", name, resize_rate=340 / 299, diversity_probability=1.0)
        for name in ("cfm", "ftm")
    },
    "su": _long_and_targeted(PARTS["su"].source, "logit", "su"),
    "everywhere": _long_and_targeted(PARTS["everywhere"].source, "logit", "everywhere", normalized=False),
    "odi": _long_and_targeted(PARTS["odi"].source, "logit", diversity="odi"),
    **carlini_wagner.RECIPES,
    **deepfool.RECIPES,
    **ddn.RECIPES,
    **fmn.RECIPES,
    **apgd.RECIPES,
    **square.RECIPES,
    **autoattack.RECIPES,
    **spatial.RECIPES,
    **stadv.RECIPES,
    **pictures.RECIPES,
    **ensemble_search.RECIPES,
    "candidates": Recipe("candidates of surrogates, tried on the victim", [candidates], asks=True, kind="cascade"),
}


def recipe(name: str) -> Recipe:
    """Resolves what an experiment calls a recipe.

    Args:
        name: one of `RECIPES`; a base and parts, as in `vmi-di-ti-si`; an attack of another library, as in
            `foolbox/L2FMNAttack`; or a plug-in's (see `adapters`).

    Raises:
        InputError: there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if is_adapted(name):
        return adapted(name)
    base, *parts = name.split("-")
    if base not in BASES or not parts or not set(parts) <= set(PARTS):
        raise _unknown(name)
    if again := _twice(parts):
        raise InputError(f"recipe: {name!r} has {again!r} twice")
    return combined(base, *parts)


def is_adapted(name: str) -> bool:
    """Whether a recipe is another library's or a plug-in's."""
    return name not in RECIPES and ("/" in name or name in plugin_names())


def with_changing(made: Recipe, why: str, **surrogates: Any) -> Recipe:
    """A recipe whose surrogates change from one step to the next.

    Args:
        why: a recipe without the loop cannot take them, to which the error adds which ones can.
        surrogates: attributes of `AttackLoop` that say how they change.

    Raises:
        InputError: it has no loop.
    """
    if made.chain[-1] is not common:
        raise InputError(f"{why}; recipes of the loop do (pgd, say)")

    def changing(loop: AttackLoop) -> AttackLoop:
        return replace(loop, **surrogates)

    return replace(made, chain=(*made.chain[:-1], changing, common))


def _twice(parts: Sequence[str]) -> str | None:
    """The link that more than one of the parts has; `si` is a link of `admix`."""
    functions = [function.__name__ for part in parts for function in PARTS[part].links]
    return next((each for each in functions if functions.count(each) > 1), None)


def _unknown(name: str) -> InputError:
    """Suggests the same words in the right order, a longer name, or one that is spelled alike."""
    words = [word for word in name.split("-") if word != "fgsm"]
    parts = [word for word in words if word in PARTS]
    bases = [word for word in words if word in BASES]
    if parts and len(bases) <= 1 and len(words) == len(bases) + len(parts) and not _twice(parts):
        return InputError(f"unknown recipe {name!r}; did you mean '{'-'.join([*(bases or ['mi']), *parts])}'?")
    longer = [each for each in RECIPES if each.startswith(f"{name}-")]
    if longer:
        return InputError(f"unknown recipe {name!r}; did you mean {' or '.join(longer)}?")
    base, *rest = name.split("-")
    if base in BASES and rest and not get_close_matches(name, RECIPES, cutoff=0.8):
        return unknown(f"part of recipe {name!r}:", next(part for part in rest if part not in PARTS), PARTS)
    return unknown("recipe", name, [*RECIPES, *plugin_names()])
