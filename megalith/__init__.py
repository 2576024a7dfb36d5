"""The promised names, for notebooks and plug-ins. Each is imported when it is first asked for.

from megalith import open_run

run = open_run("runs/mine")
run.sql("select attack, model, avg(correct::int) from predictions group by all")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.experiment import load_experiment
    from pipeline.results import open_run
    from transforms.attacks.balls import Ball
    from transforms.attacks.objectives import Goal
    from transforms.attacks.protocol import Batch
    from transforms.attacks.recipe import Recipe
    from transforms.attacks.surrogates import Surrogates
    from transforms.defenses.purifier import Purifier
    from transforms.models.classifier import Preprocessing
    from transforms.models.sources.source import ModelSource
    from transforms.randomness import Draws

_HOMES = {
    "Ball": "transforms.attacks.balls",
    "Batch": "transforms.attacks.protocol",
    "Draws": "transforms.randomness",
    "Goal": "transforms.attacks.objectives",
    "ModelSource": "transforms.models.sources.source",
    "Preprocessing": "transforms.models.classifier",
    "Purifier": "transforms.defenses.purifier",
    "Recipe": "transforms.attacks.recipe",
    "Surrogates": "transforms.attacks.surrogates",
    "load_experiment": "pipeline.config.experiment",
    "open_run": "pipeline.results",
}

__all__ = [
    "Ball",
    "Batch",
    "Draws",
    "Goal",
    "ModelSource",
    "Preprocessing",
    "Purifier",
    "Recipe",
    "Surrogates",
    "load_experiment",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"megalith has no {name!r}; it promises {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
