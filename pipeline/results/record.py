"""The record of a run, `run.json`: what its rows were made from. Frozen; a changed record is a new one."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config.base import different, first_problem
from transforms.errors import InputError
from transforms.rows.parts import CLEAN, Keys, TableFile, experiments_name, table_file, targeted_name
from transforms.rows.tables import TABLES
from transforms.storage.store import Store

RUN_JSON = "run.json"
Json = dict[str, Any]
_UNDEFENDED = "none"
_MOST = 10**7
"""Images, pixels: no run has more."""


class _Frozen(BaseModel):
    """Keys that this version does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def replace(self, **changes: Any) -> Self:
        """The same but for some keys."""
        return self.model_copy(update=changes)


class CanvasSize(_Frozen):
    """The resolution of an experiment: the short side after resizing, and the side of the centre crop, pixels."""

    resize: int = Field(ge=1, le=_MOST)
    crop: int = Field(ge=1, le=_MOST)


class Segment(_Frozen):
    """How many image refs came to a run directory together, usable or not, and the SHA-256 of their ids and labels.

    Attributes:
        targets: of each column of the labels CSV that attacks took their targets from, the SHA-256 of ids and targets.
    """

    count: int = Field(ge=0, le=_MOST)
    sha256: str
    targets: dict[str, str] = {}


class Images(Segment):
    """All image refs that a run is made of.

    Attributes:
        segments: of a run that has grown, in the order in which they came; of any other, none.
        labelled_by: the model whose predictions the labels are; None where they were given.
    """

    labelled_by: str | None = None
    segments: tuple[Segment, ...] = ()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.segments and sum(each.count for each in self.segments) != self.count:
            raise ValueError("count is not the sum of those of the segments")
        return self

    @property
    def parts(self) -> tuple[Segment, ...]:
        """The segments, one or several."""
        return self.segments or (Segment(count=self.count, sha256=self.sha256, targets=self.targets),)

    def extends(self, others: "Images") -> bool:
        """Whether the others came first, and perhaps further ones after them."""
        here, there = ([(each.count, each.sha256) for each in images.parts] for images in (self, others))
        return here[: len(there)] == there


class Model(_Frozen):
    """What gives a model's name its meaning.

    Attributes:
        source: as the experiment spells it.
        weights_sha256: of the weights file.
        preprocessing: as resolved from source and experiment.
        engine: the one that predicts, as resolved on the device of the first run.
        gradients: the one whose gradients are followed, likewise; auto as long as no attack has followed the model.
    """

    source: str
    weights_sha256: str
    preprocessing: Json = {}
    engine: str = "torch"
    gradients: str = "torch"

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, model: Any) -> Any:
        """Up to version 0.1.0, `black_box` said whether ONNX Runtime predicts."""
        if not isinstance(model, Mapping) or "black_box" not in model:
            return model
        rest = {key: value for key, value in model.items() if key != "black_box"}
        return {"engine": "onnxruntime" if model["black_box"] else "torch", **rest}


class Definitions(_Frozen):
    """Everything that gives a name in the tables its meaning.

    Attributes:
        attacks: each with every key that its rows depend on.
        micro_batch: images that a model is shown at once; 0 in a run of version 0.1.0, which did not record it.
        numerics: exact or fast.
        lpips: the network of that column and the digest of its weights; None where it is empty.
    """

    seed: int
    chunk_size: int = Field(ge=1, le=_MOST)
    canvas: CanvasSize
    all_probabilities: bool
    images: Images
    models: dict[str, Model]
    attacks: dict[str, Json]
    micro_batch: int = Field(default=0, ge=0, le=_MOST)
    numerics: Literal["exact", "fast"] = "exact"
    lpips: Json | None = None

    @property
    def chunks(self) -> int:
        """How many chunks the run has; the last one of each segment may be shorter."""
        return sum(math.ceil(each.count / self.chunk_size) for each in self.images.parts)


class Named(_Frozen):
    """What an experiment names, in its order; as far as readers of a run go by it."""

    models: dict[str, Json] = {}
    attacks: dict[str, Any] = {}
    targets: Annotated[list[str], AfterValidator(different)] = []
    views: Annotated[list[str], AfterValidator(different)] = []
    defenses: Annotated[list[str], AfterValidator(different)] = []

    @property
    def attack_names(self) -> list[str]:
        """As rows have them: an attack with several targets has a name for each."""
        lists = {name: each.get("target") if isinstance(each, dict) else None for name, each in self.attacks.items()}
        return [
            each
            for name, target in lists.items()
            for each in ([targeted_name(name, str(one)) for one in target] if isinstance(target, list) else [name])
        ]


class RunRecord(_Frozen):
    """What `run.json` says.

    Attributes:
        experiment: the last one that was run, as YAML would have it, every key written out.
        definitions: of everything in the directory, whichever experiment brought it there.
        versions: of the libraries on which the last bits of rows depend.
        proofs: of each model, how many clean images it got right before the first attack, and of how many.
        published: of each model of which it is known, its top-1 accuracy as published, in [0, 1].
        published_robust: likewise under AutoAttack at 4/255 in L∞.
        costs: of each run that computed anything: tasks by kind, passes, seconds, device, versions.
    """

    experiment: Json
    definitions: Definitions
    versions: dict[str, str]
    proofs: dict[str, tuple[int, int]]
    published: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    published_robust: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    costs: tuple[Json, ...]

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        self.named()
        return self

    def named(self) -> Named:
        """What the experiment names."""
        return Named.model_validate(self.experiment, strict=True)


def differing(one: Definitions, other: Definitions) -> Iterator[tuple[str, str, str]]:
    """Keys that two runs give different values, and these as JSON; names that only one of them has are passed over.

    The images are not looked at: who compares them looks at their bytes.
    """
    skipped = {"images", "chunk_size", "micro_batch"}
    here, there = (each.model_dump(mode="json", exclude=skipped) for each in (one, other))
    yield from _differing(here, there, "")


def _differing(one: Any, other: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one:
            if key in other:
                yield from _differing(one[key], other[key], f"{path}.{key}" if path else key)
    elif one != other:
        yield path, json.dumps(one), json.dumps(other)


def own_files(definitions: Definitions, paths: Iterable[str]) -> set[str]:
    """Those files that hold rows of what is defined, by their names; whatever else lies there is somebody else's.

    Args:
        paths: relative to the run directory.
    """
    chunks = definitions.chunks
    attacks, models = {CLEAN, *definitions.attacks}, {CLEAN, *definitions.models}

    @cache
    def are_defined(table: str, several: tuple[Keys, ...]) -> bool:
        for keys in several:
            partitions = dict(zip(TABLES[table].partitions, keys, strict=True))
            attack, model = partitions.get("attack", CLEAN), partitions.get("model", CLEAN)
            if experiments_name(attack) not in attacks or model not in models:
                return False
        return True

    def is_own(file: TableFile | None) -> bool:
        return file is not None and file.chunks.start < chunks and are_defined(file.table, file.keys)

    return {path for path in paths if is_own(table_file(path))}


def strangers(paths: Iterable[str], own: Collection[str]) -> set[str]:
    """Parquet files in the folders of tables that are not among a run's own: copies, and what other programs left."""
    below = tuple(f"{table}/" for table in TABLES)
    return {path for path in paths if path.startswith(below) and path.endswith(".parquet") and path not in own}


def unfinished(record: RunRecord, paths: Iterable[str]) -> str | None:
    """Which predictions a run lacks, in words; None where it has all: it is still at work, was killed, or lost files.

    Args:
        paths: the run's own files, without superseded ones.
    """
    chunks, named = record.definitions.chunks, record.named()
    attacks = (CLEAN, *named.attack_names)
    wanted = {(*keys, _UNDEFENDED) for keys in product(attacks, named.targets, named.views)}
    there: Counter[Keys] = Counter(dict.fromkeys(wanted, 0))
    counts: Counter[tuple[Keys, ...]] = Counter()
    for file in filter(None, map(table_file, paths)):
        if file.table == "predictions":
            counts[file.keys] += min(file.chunks.stop, chunks) - file.chunks.start
    for several, count in counts.items():
        there.update(dict.fromkeys(several, count))
    lacking = sorted(keys for keys, count in there.items() if count < chunks)
    if not lacking:
        return None
    first = " ".join(f"{key}={value}" for key, value in zip(TABLES["predictions"].partitions, lacking[0], strict=True))
    some = f"{len(lacking)} of {len(there)} sets of predictions lack images, {first} among them"
    return f"{some}; rates are of those that are there. The command that made the run makes the rest"


def read_record(store: Store) -> RunRecord | None:
    """What `run.json` says; None where there is none.

    Raises:
        InputError: it is not one of ours.
    """
    if not store.exists(RUN_JSON):
        return None
    try:
        return RunRecord.model_validate_json(store.read_bytes(RUN_JSON), strict=True)
    except ValidationError as error:
        reason = f" ({first_problem(error)})"
    except (ValueError, RecursionError):
        reason = ""
    raise InputError(f"{store.root}/{RUN_JSON} is damaged{reason}; give another --output, or restore it")


def write_record(store: Store, record: RunRecord) -> None:
    """Publishes `run.json`."""
    store.publish_bytes(RUN_JSON, (json.dumps(record.model_dump(mode="json"), indent=2) + "\n").encode())
