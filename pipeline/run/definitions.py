"""Definitions: what gives the names in a run directory their meaning, and the refusal to give one name two."""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from pipeline.config.attacks import AttackConfig
from pipeline.config.base import first_problem, one_case
from pipeline.config.experiment import Experiment
from pipeline.results.record import RUN_JSON, Definitions, Images, Json
from transforms.attacks.recipes.names import recipe
from transforms.attacks.units import Drawn
from transforms.data.chunks import UNLABELED, ImageRef
from transforms.data.decode import CanvasSpec
from transforms.errors import InputError
from transforms.models.conditions import Conditions, usual_micro_batch
from transforms.models.device import torch_device
from transforms.models.lpips import Lpips
from transforms.models.pin import ModelPin

_LIBRARIES = (
    *("megalith", "apache-beam", "numpy", "onnxruntime", "opencv-python-headless", "pillow", "pyarrow", "PyWavelets"),
    *("scikit-image", "torch", "torchvision"),
)
_OPTIONAL = ("adv-lib", "foolbox", "keras", "lpips", "timm", "torchattacks")
"""Not needed, but where they are installed their attacks, models and distances can be named."""


def definitions(
    experiment: Experiment,
    segments: Sequence[Sequence[ImageRef]],
    pins: Mapping[str, ModelPin],
    lpips: Lpips | None,
    pictures: Mapping[str, str],
) -> Definitions:
    """Everything that gives a name in the tables its meaning.

    Args:
        pictures: the digest of those of each attack that another tool has made.
    """
    found = {
        "seed": experiment.seed,
        "chunk_size": experiment.chunk_size,
        "canvas": experiment.canvas.model_dump(mode="json"),
        "all_probabilities": experiment.all_probabilities,
        "images": {
            **_segment([ref for segment in segments for ref in segment]),
            "labelled_by": experiment.images.labeller,
            "segments": [_segment(segment) for segment in segments] if len(segments) > 1 else [],
        },
        "models": {
            name: {
                "source": pinned.source,
                "weights_sha256": pinned.weights_sha256,
                "preprocessing": pinned.preprocessing.keys(),
                "engine": pinned.engine,
                "gradients": pinned.gradients,
            }
            for name, pinned in pins.items()
        },
        "attacks": {
            # What pictures there are counts, not where.
            name: _defined(attack) | ({"folder": pictures[name], "attack": None} if name in pictures else {})
            for name, attack in experiment.attacks.items()
        },
        "micro_batch": experiment.micro_batch or 0,
        "numerics": experiment.numerics,
        "lpips": None if lpips is None else {"net": lpips.net, "weights_sha256": lpips.backbone.weights_sha256},
    }
    return Definitions.model_validate_json(json.dumps(found))


def _segment(refs: Sequence[ImageRef]) -> Json:
    # Where files are may change, and with it what a problem says.
    said = [(ref.image_id, ref.label, bool(ref.problem)) for ref in refs]
    columns = dict.fromkeys(column for ref in refs for column, _ in ref.targets)
    wanted = {column: [(ref.image_id, _target(ref, column)) for ref in refs] for column in columns}
    return {"count": len(said), "sha256": _digest(said), "targets": {each: _digest(wanted[each]) for each in columns}}


def _target(ref: ImageRef, column: str) -> int:
    return next((truth.label for name, truth in ref.targets if name == column), UNLABELED)


def _digest(said: Any) -> str:
    return sha256(json.dumps(said).encode()).hexdigest()


def _defined(attack: AttackConfig) -> Json:
    """An attack with every key that its rows depend on."""
    return attack.model_dump(mode="json", exclude={"adaptive"})  # each variant has a name of its own


def merge_definitions(root: str, before: Definitions, now: Definitions) -> Definitions:
    """The definitions of the run directory at `root` after an experiment is added to it.

    Further images may come after those that are there. The micro-batch is the new one, if the experiment gives one:
    like a library's version, it changes last bits only.

    Raises:
        InputError: something is defined differently under an old name; the message names the key and both values.
    """
    if before.images.labelled_by != now.images.labelled_by:
        models = before.images.labelled_by, now.images.labelled_by
        then, today = (f"what {each} says" if each else "given" for each in models)
        raise InputError(f"images.labels: in {root} they are {then}, in the experiment {today}; use another --output")
    if not now.images.extends(before.images):
        raise InputError(
            f"images: {root} was made with {before.images.count}; the {now.images.count} of the experiment are others, "
            "or labelled otherwise; use another --output"
        )
    now = now.replace(images=_with_targets(root, before.images, now.images))
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    old["images"] = new["images"]
    old["micro_batch"] = new["micro_batch"] = new["micro_batch"] or old["micro_batch"]
    try:
        attacks = {name: _completed(attack, new["attacks"].get(name, {})) for name, attack in old["attacks"].items()}
    except ValidationError as error:
        raise InputError(f"{root}/{RUN_JSON} is damaged ({first_problem(error)}); restore it") from None
    for key, then, today in _changes({**old, "attacks": attacks}, new):
        raise InputError(
            f"{key}: {root} was made with {json.dumps(then)}, the experiment says {json.dumps(today)}; "
            "use another name, or another --output"
        )
    named = {key: {**old[key], **new[key]} for key in ("models", "attacks")}
    for key, names in named.items():
        one_case(key, names)
    return Definitions.model_validate_json(json.dumps({**old, **new, **named}))


def _with_targets(root: str, before: Images, now: Images) -> Images:
    """The images, with what is known of columns of targets that this experiment does not name.

    Raises:
        InputError: a column gives other targets to images that are there.
    """
    parts = list(now.parts)
    for number, then in enumerate(before.parts):
        for column in then.targets.keys() & parts[number].targets.keys():
            if then.targets[column] != parts[number].targets[column]:
                raise InputError(f"images: {root} was made with other targets in column {column}; use another --output")
        parts[number] = parts[number].replace(targets={**then.targets, **parts[number].targets})
    return now.replace(segments=tuple(parts)) if now.segments else now.replace(targets=parts[0].targets)


def conditions(defined: Definitions, device: str) -> Conditions:
    """Under which the models of a run are asked, on a device: auto, cpu or cuda.

    Raises:
        InputError: the device is not there.
    """
    field_of_view = CanvasSpec(defined.canvas.resize, defined.canvas.crop).field_of_view
    size = defined.micro_batch or usual_micro_batch(torch_device(device), defined.chunk_size)
    return Conditions(defined.seed, field_of_view, size, device, defined.numerics)


def _completed(old: Json, new: Json) -> Json:
    """An attack of an old run with the keys that attacks have got since. One without a key was made as if the key had
    its default."""
    found = dict(old)
    for key in new.keys() - old.keys():
        # More than one draw may make sense only with the defences of its variants, which are not defined here.
        drawn = recipe(new["recipe"]).marked(Drawn)
        without = {each: 1 if each in drawn else value for each, value in new.items() if each != key}
        found[key] = _defined(AttackConfig.model_validate(without))[key]
    return found


def _changes(old: Json, new: Json, path: str = "") -> list[tuple[str, Any, Any]]:
    """Keys present in both with different values; names that only one side has are no change."""
    found: list[tuple[str, Any, Any]] = []
    for key in old.keys() & new.keys():
        where = f"{path}.{key}".removeprefix(".")
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            found += _changes(old[key], new[key], where)
        elif old[key] != new[key]:
            found.append((where, old[key], new[key]))
    # Another recipe brings other parameters with it, another model other preprocessing: say the cause.
    return sorted(found, key=lambda change: (not change[0].endswith((".recipe", ".source")), change[0]))


@cache
def versions() -> dict[str, str]:
    """The versions on which the last bit of a row depends."""
    found = {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
    for name in _OPTIONAL:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
