"""A run directory's `run.json`: what its rows were made from, and the refusal to mix them with anything else."""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from pipeline.config.base import first_problem
from transforms.data.chunks import Chunk
from transforms.errors import InputError
from transforms.storage.store import Store

if TYPE_CHECKING:  # reading a run needs neither torch nor models
    from pipeline.config.attacks import AttackConfig
    from pipeline.config.experiment import Experiment
    from transforms.models.pin import ModelPin

RUN_JSON = "run.json"
_LIBRARIES = (
    *("megalith", "apache-beam", "numpy", "onnxruntime", "opencv-python-headless", "pillow", "pyarrow", "PyWavelets"),
    *("scikit-image", "torch", "torchvision"),
)
_OPTIONAL = ("adv-lib", "foolbox", "keras", "timm", "torchattacks")
"""Not needed, but where they are installed their attacks and models can be named."""

Json = dict[str, Any]


class _Images(BaseModel):
    count: int
    sha256: str


class _Model(BaseModel):
    source: str
    weights_sha256: str
    preprocessing: Json = {}
    black_box: bool = False


class _Definitions(BaseModel):
    seed: int
    chunk_size: int
    canvas: dict[Literal["resize", "crop"], int]
    all_probabilities: bool
    images: _Images
    models: dict[str, _Model]
    attacks: dict[str, Json]


class _Run(BaseModel):
    """What the code relies on; there may be more."""

    experiment: Json
    definitions: _Definitions
    versions: dict[str, str]
    proofs: dict[str, list[int]]
    costs: list[Json]


def definitions(experiment: "Experiment", chunks: Sequence[Chunk], pins: Mapping[str, "ModelPin"]) -> Json:
    """Everything that gives a name in the tables its meaning, as plain JSON."""
    # Where files are may change, and with it what a problem says.
    refs = [(ref.image_id, ref.label, bool(ref.problem)) for chunk in chunks for ref in chunk.refs]
    written = experiment.model_dump(mode="json")
    found = {
        "seed": experiment.seed,
        "chunk_size": experiment.chunk_size,
        "canvas": written["canvas"],
        "all_probabilities": experiment.all_probabilities,
        "images": {"count": len(refs), "sha256": sha256(json.dumps(refs).encode()).hexdigest()},
        "models": {
            name: {
                "source": pinned.source,
                "weights_sha256": pinned.weights_sha256,
                "preprocessing": asdict(pinned.preprocessing),
                "black_box": pinned.black_box,
            }
            for name, pinned in pins.items()
        },
        "attacks": {name: _defined(attack) for name, attack in experiment.attacks.items()},
    }
    plain: Json = json.loads(json.dumps(found))
    return plain


def _defined(attack: "AttackConfig") -> Json:
    """An attack with every key that its rows depend on."""
    return attack.model_dump(mode="json", exclude={"adaptive"})  # each variant has a name of its own


def read_run(store: Store) -> Json | None:
    """What `run.json` says; None where there is none.

    Raises:
        InputError: it is not one of ours.
    """
    if not store.exists(RUN_JSON):
        return None
    try:
        run: Json = json.loads(store.read_bytes(RUN_JSON))
        _Run.model_validate(run, strict=True)
    except ValidationError as error:
        reason = f" ({first_problem(error)})"
    except (ValueError, RecursionError):
        reason = ""
    else:
        return run
    raise InputError(f"{store.root}/{RUN_JSON} is damaged{reason}; give another --output, or restore it")


def write_run(store: Store, run: Json) -> None:
    """Publishes `run.json`."""
    store.publish_bytes(RUN_JSON, (json.dumps(run, indent=2) + "\n").encode())


def merge_definitions(store: Store, old: Json, new: Json) -> Json:
    """The definitions of a run directory after an experiment is added to it.

    Raises:
        InputError: something is defined differently under an old name; the message names the key and both values.
    """
    if old["images"] != new["images"]:
        then, now = old["images"]["count"], new["images"]["count"]
        raise InputError(
            f"images: {store.root} was made with {then}; the {now} of the experiment are others, "
            "or labelled otherwise; use another --output"
        )
    attacks = {name: _completed(attack, new["attacks"].get(name, {})) for name, attack in old["attacks"].items()}
    for key, before, now in _changes({**old, "attacks": attacks}, new):
        raise InputError(
            f"{key}: {store.root} was made with {json.dumps(before)}, the experiment says {json.dumps(now)}; "
            "use another name, or another --output"
        )
    named = {key: {**old[key], **new[key]} for key in ("models", "attacks")}
    return {**new, **named}


def _completed(old: Json, new: Json) -> Json:
    """An attack of an old run with the keys that attacks have got since. One without a key was made as if the key had
    its default."""
    from pipeline.config.attacks import AttackConfig  # noqa: PLC0415 - reading a run needs neither torch nor models

    found = dict(old)
    for key in new.keys() - old.keys():
        without = {each: value for each, value in new.items() if each != key}
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


def versions() -> dict[str, str]:
    """The versions on which the last bit of a row depends."""
    found = {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
    for name in _OPTIONAL:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
