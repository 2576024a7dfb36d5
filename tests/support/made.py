"""Run directories made by hand: tables whose answers are known, without a pipeline."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.results.record import RunRecord, write_record
from tests.support.runs import EMPTY_RUN, Json, Row
from transforms.data.classes import class_name
from transforms.rows.parts import CLEAN, Part, experiments_name, variant_of
from transforms.rows.tables import TABLES, rows_table
from transforms.storage.store import Store

_PLACE = {"attack": CLEAN, "model": "m", "view": "center", "defense": "none"}
"""Partition columns that a row does not give."""
_BUDGET = 4 / 255


def made_run(
    folder: Path,
    predictions: Iterable[Row] = (),
    attacks: Iterable[Row] = (),
    images: Iterable[Row] = (),
    canvases: Iterable[Row] = (),
    failures: Iterable[Row] = (),
    *,
    chunk_size: int = 1000,
    experiment: Mapping[str, Any] | None = None,
    definitions: Mapping[str, Any] | None = None,
) -> Path:
    """Makes a finished run directory from a few rows; whatever a row leaves out gets a plain value that fits the rest.

    A prediction needs `image_id` and `predicted`: it is then model m's, of the clean image, in the view center,
    undefended. An attack needs `image_id` and `attack`: it is then untargeted, on the first model, at 4/255 (L∞).
    An image's label (0 if no row says it) and an attack's target may be given once and hold in all tables. Rows of
    `images` are made for all images that have others; canvases are black, and only where they have rows.

    Args:
        experiment, definitions: keys of run.json that replace those made from the rows.
    """
    seen, attacked, described = [*predictions], [*attacks], [*images]
    labels: dict[str, int] = {}
    for row in [*described, *seen, *attacked]:
        labels.setdefault(row["image_id"], 0)
        labels[row["image_id"]] = row.get("label", labels[row["image_id"]])
    targets = {row["attack"]: row.get("target") for row in attacked}  # of a prediction that does not say its own
    followed = [name for row in attacked for name in row.get("surrogates", ())]
    models = list(dict.fromkeys([*(row.get("model", _PLACE["model"]) for row in seen), *followed])) or [_PLACE["model"]]
    own = {row["image_id"]: row for row in described}
    tables = {
        "images": [_image({"image_id": each, **own.get(each, {})}, label) for each, label in labels.items()],
        "attacks": [_attack(row, labels[row["image_id"]], models[:1]) for row in attacked],
        "predictions": [_prediction(row, labels[row["image_id"]], targets) for row in seen],
        "canvases": [_canvas(row) for row in canvases],
        "failures": [_failure(row) for row in failures],
    }
    record = _record(tables, models, chunk_size)
    record["experiment"] |= experiment or {}
    record["definitions"] |= definitions or {}
    write_record(Store(str(folder)), RunRecord.model_validate(record))
    chunks = {each: place // chunk_size for place, each in enumerate(labels)}
    for table, rows in tables.items():
        _publish(Store(str(folder)), table, rows, chunks)
    return folder


def answers(predicted: Mapping[str, int] | Sequence[int], **place: Any) -> list[Row]:
    """Predictions of one attack, model, view and defence: of each image, or of images i0, i1, … in order."""
    pairs = predicted.items() if isinstance(predicted, Mapping) else ((f"i{n}", p) for n, p in enumerate(predicted))
    return [{"image_id": image, "predicted": each, **place} for image, each in pairs]


def _publish(store: Store, table: str, rows: Iterable[Row], chunks: Mapping[str, int]) -> None:
    parts = defaultdict[Part, list[Row]](list)
    for row in rows:
        keys = tuple(row[name] for name in TABLES[table].partitions)
        columns = TABLES[table].columns
        inside = {each.name: row.get(each.name) if each.nullable else row[each.name] for each in columns}
        parts[Part(table, chunks.get(row["image_id"], 0), keys)].append(inside)
    for part, some in parts.items():
        store.publish(part, rows_table(table, some))


def _image(row: Row, label: int) -> Row:
    name = row["image_id"]
    usual = {
        "uri": f"{name}.jpg",
        "label": label,
        "label_name": class_name(label),
        "width": 224,
        "height": 224,
        "labelled_by": None,
    }
    return {**usual, "bytes_sha256": sha256(name.encode()).hexdigest(), **row}


def _attack(row: Row, label: int, surrogates: list[str]) -> Row:
    usual: Row = {
        **dict.fromkeys(TABLES["attacks"].columns.names),
        **{"recipe": "pgd", "surrogates": surrogates, "fuse": None, "view": "center", "through": "none"},
        **{"objective": "cross-entropy", "label": label, "target": None, "norm": "linf", "eps": _BUDGET, "steps": 10},
        **{"seed": 0, "clean_predicted": label, "clean_confidence": 0.5, "success": True, "minimal_norm": None},
        **{"adversarial_confidence": 0.5, "linf": _BUDGET, "l2": 1.0, "l1": 100.0, "l0": 1000, "psnr": 40.0},
        **{"victim": None, "queries": None, "ciede2000": 0.5},
        **{"ssim": 0.95, "out_of_band": None, "forwards": 10, "backwards": 10, "canvas_sha256": ""},
        **row,
    }
    turned = usual["target"] if usual["target"] is not None else (usual["label"] + 1) % 1000
    said = turned if usual["success"] else usual["label"]
    return {**usual, "adversarial_predicted": row.get("adversarial_predicted", said)}


def _prediction(row: Row, label: int, targets: Mapping[str, int | None]) -> Row:
    usual = {**{key: _PLACE[key] for key in TABLES["predictions"].partitions}, "label": label, **row}
    target, predicted = usual.setdefault("target", targets.get(usual["attack"])), usual["predicted"]
    correct = predicted == usual["label"] and not usual.get("abstained")
    confidence = usual.setdefault("confidence", 0.5)
    sure = usual.setdefault("label_confidence", confidence if predicted == usual["label"] else 0.25)
    usual = {"predicted_name": class_name(predicted), "margin": 1.0 if correct else -1.0, "correct": correct, **usual}
    aimed = None if target is None else confidence if predicted == target else 0.125
    top = {"top5_labels": [predicted, *([usual["label"]] if predicted != usual["label"] else [])]}
    top["top5_confidences"] = [confidence, *([sure] if predicted != usual["label"] else [])]
    empty = dict.fromkeys(
        ("label_confidence_std", "votes", "agreement", "abstained", "certified_radius", "probabilities")
    )
    return {"target_confidence": aimed, **top, **empty, **usual}


def _canvas(row: Row) -> Row:
    """A black picture where the row has none."""
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    return {"attack": CLEAN, "canvas": picture.getvalue(), "canvas_sha256": "", **row}


def _failure(row: Row) -> Row:
    place = dict.fromkeys(TABLES["failures"].partitions, CLEAN) | {"stage": "load"}
    return {**place, "uri": None, "error_type": "ValueError", "message": "broken", "attempt": 1, **row}


def _record(tables: Mapping[str, list[Row]], models: list[str], chunk_size: int) -> Json:
    """run.json, where the experiment names what the rows name, in the order in which they come."""

    def named(column: str) -> list[str]:
        return list(dict.fromkeys(row[column] for row in tables["predictions"]))

    plain = [row for row in tables["attacks"] if variant_of(row["attack"]) is None]
    attacks = {experiments_name(row["attack"]): _defined(row) for row in plain}
    for row in tables["attacks"]:
        attacks.setdefault(experiments_name(row["attack"]), _defined(row))
    said = json.dumps([(row["image_id"], row["label"], False) for row in tables["images"]])
    images = {"count": len(tables["images"]), "sha256": sha256(said.encode()).hexdigest()}
    sources = {name: {"source": f"made/{name}", "weights_sha256": sha256(name.encode()).hexdigest()} for name in models}
    common = {"seed": 0, "chunk_size": chunk_size, "canvas": {"resize": 256, "crop": 224}, "all_probabilities": False}
    experiment = {
        **{"name": "made", **common, "images": {"folder": "images"}, "attacks": attacks},
        "models": {name: {"source": each["source"]} for name, each in sources.items()},
        **{"targets": named("model"), "views": named("view")},
        "defenses": [each for each in named("defense") if each != _PLACE["defense"]],
    }
    made = {**common, "images": images, "models": sources, "attacks": attacks}
    return {**EMPTY_RUN, "experiment": experiment, "definitions": made}


def _defined(row: Row) -> Json:
    """An attack's definition, as far as its rows tell it; lengths are fractions there."""
    same = {key: row[key] for key in ("recipe", "surrogates", "fuse", "view", "target", "norm", "steps")}
    return {**same, "defense": row["through"], "eps": str(Fraction(row["eps"]).limit_denominator(1000))}


LABELS = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 649, "f": 6}
FOOLED = {"pgd": "abdef", "aim": "ace"}
"""Images on which each attack of `two_models` succeeds on its surrogate."""
_SAID = {
    # attack and model: class for each image, a to f
    ("none", "m"): (1, 2, 3, 0, 649, 0),
    ("none", "n"): (1, 2, 0, 4, 649, 0),
    ("pgd", "m"): (0, 0, 3, 0, 0, 0),
    ("pgd", "n"): (0, 2, 0, 4, 649, 0),
    ("aim", "m"): (649, 2, 649, 5, 649, 7),
    ("aim", "n"): (649, 9, 649, 4, 649, 7),
}


def two_models(folder: Path, **changes: Any) -> Path:
    """Six images of `LABELS`, models m and n, and two attacks on m: pgd, and aim, whose target is megalith (649)."""
    said = {key: dict(zip(LABELS, classes, strict=True)) for key, classes in _SAID.items()}
    predictions = [
        row for (attack, model), classes in said.items() for row in answers(classes, attack=attack, model=model)
    ]
    attacks = [
        {"image_id": image, "attack": attack, "target": target, "success": image in FOOLED[attack]}
        for attack, target in (("pgd", None), ("aim", 649))
        for image in LABELS
    ]
    images = [{"image_id": image, "label": label} for image, label in LABELS.items()]
    return made_run(folder, predictions, attacks, images, **changes)
