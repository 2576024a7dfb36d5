"""Checks of a run directory by doing some of its work again: images are read, and models asked, once more."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from pipeline.results.tables import Run
from pipeline.run.definitions import conditions
from pipeline.verify.tables import CLOSE, TIE, Check, Row, picture
from transforms.data.chunks import ImageRef
from transforms.data.decode import BadImage, CanvasSpec
from transforms.data.pixels import CanvasBatch, Pixels
from transforms.defenses.grid import parse
from transforms.errors import InputError, StoppedError
from transforms.models.answers import ask, most_probable
from transforms.models.conditions import Conditions
from transforms.models.device import Numerics
from transforms.models.pin import ModelPin, pin
from transforms.rows.parts import CLEAN
from transforms.rows.predictions import prediction_rows
from transforms.steps.held_models import HeldModels
from transforms.storage.images import read_image

_CHOICES = ("predicted", "correct", "abstained")
_CONFIDENCES = ("confidence", "label_confidence", "target_confidence", "label_confidence_std", "agreement")

_Stored = Mapping[tuple[str, str], Pixels]
"""Canvases by image id and attack."""


def check_images(run: Run, sample: int) -> Check:
    """Reads some images again, where they are still to be had."""
    check = Check("clean canvases, drawn at random, are what their images become")
    rows = _drawn(run, "images", sample)
    canvases = stored(run, [(row["image_id"], CLEAN) for row in rows])
    for row in rows:
        image_id = row["image_id"]
        if (image_id, CLEAN) not in canvases:
            continue  # That it is missing was said before.
        try:
            data, decoded = read_image(ImageRef(image_id, row["uri"], row["label"]), _canvas(run))
        except (BadImage, StoppedError) as error:
            check.unknown.append(f"{image_id}: {error}")
            continue
        if sha256(data).hexdigest() != row["bytes_sha256"]:
            check.unknown.append(f"{image_id}: {row['uri']} is another file now")
            continue
        check.looked_at += 1
        if not np.array_equal(decoded.canvas, canvases[image_id, CLEAN]):
            check.wrong.append(f"{image_id}: {row['uri']} becomes another canvas")
    return check


def check_labels(run: Run, sample: int, device: str) -> Check:
    """Asks the model that labelled the images again about some of them, where labels are predictions."""
    check = Check("labels that a model gave, drawn at random, are what it says")
    rows = [row for row in _drawn(run, "images", sample) if row["labelled_by"] is not None]
    canvases = stored(run, [(row["image_id"], CLEAN) for row in rows])
    asked_under = conditions(run.record.definitions, device)
    for name, of_model in groupby(rows, key=lambda row: str(row["labelled_by"])):
        there = [row for row in of_model if (row["image_id"], CLEAN) in canvases]
        try:
            model = HeldModels({name: pinned(run, name)}, device, asked_under.numerics).target(name)
        except InputError as error:
            check.unknown.append(f"{name}: {error}")
            continue
        pixels = np.stack([canvases[row["image_id"], CLEAN] for row in there])
        check.looked_at += len(there)
        for row, label in zip(there, most_probable(model, pixels, asked_under), strict=True):
            if label != row["label"]:
                check.wrong.append(f"{row['image_id']}: its label is {row['label']}, and {name} says {label}")
    return check


def check_predictions(run: Run, sample: int, device: str) -> Check:
    """Asks models again about some canvases, where their weights are to be had."""
    check = Check("predictions, drawn at random, are made again alike")
    asked_under = conditions(run.record.definitions, device)
    rows = sorted(_drawn(run, "predictions", sample), key=lambda row: str(row["model"]))
    canvases = stored(run, [(row["image_id"], row["attack"]) for row in rows])
    for name, of_model in groupby(rows, key=lambda row: str(row["model"])):
        try:
            models = HeldModels({name: pinned(run, name)}, device, asked_under.numerics)
            models.target(name)
        except InputError as error:
            check.unknown.append(f"{name}: {error}")
            continue
        for row in of_model:
            if (row["image_id"], row["attack"]) in canvases:
                check.looked_at += 1
                again = _made_again(row, canvases[row["image_id"], row["attack"]], models, asked_under)
                if differ := differences(again, row, asked_under.numerics):
                    where = " ".join(str(row[key]) for key in ("image_id", "attack", "model", "view", "defense"))
                    check.wrong.append(f"prediction {where}: made again, {', '.join(differ)} differs")
            else:
                check.unknown.append(f"canvases after {row['attack']} were not kept")
    check.unknown = list(dict.fromkeys(check.unknown))
    return check


def _made_again(row: Row, canvas: Pixels, models: HeldModels, asked_under: Conditions) -> Row:
    wanted = None if row["target"] is None else (row["target"],)
    batch = CanvasBatch((row["image_id"],), (row["label"],), canvas[None], wanted)
    look, defense = (row["model"], row["view"]), parse(row["defense"])
    targets = {look: models.target(row["model"])}
    answers = ask(targets, defense, batch, asked_under)
    (again,) = prediction_rows(batch, answers[look], defense, all_probabilities=False)
    return again


def pinned(run: Run, name: str) -> ModelPin:
    """A model as the run had it; raises InputError where it cannot be had."""
    defined, written = run.record.definitions.models[name], run.record.named().models.get(name, {})
    found = pin(defined.source, written.get("weights"), defined.preprocessing, defined.engine, defined.gradients)
    if found.weights_sha256 != defined.weights_sha256:
        raise InputError("its weights on this machine are not those that the run was made with")
    return found


def _drawn(run: Run, table: str, sample: int) -> list[dict[str, Any]]:
    names, rows = run.rows(f"select * from {table} using sample reservoir({sample} rows)")  # noqa: S608 - our own
    return [dict(zip(names, row, strict=True)) for row in rows]


def stored(run: Run, wanted: Sequence[tuple[str, str]]) -> _Stored:
    """Those of the canvases, by image id and attack, that are there."""
    if not wanted:
        return {}
    ids, attacks = (sorted(set(each)) for each in zip(*wanted, strict=True))
    where = ds.field("image_id").isin(ids) & ds.field("attack").isin(attacks)
    rows = run.dataset("canvases").to_table(["image_id", "attack", "canvas"], filter=where).to_pylist()
    canvases = {
        (row["image_id"], row["attack"]): picture(row["canvas"], run.record.definitions.canvas.crop) for row in rows
    }
    return {key: canvas for key, canvas in canvases.items() if canvas is not None}  # What is none was said before.


def _canvas(run: Run) -> CanvasSpec:
    canvas = run.record.definitions.canvas
    return CanvasSpec(canvas.resize, canvas.crop)


def differences(again: Row, row: Row, numerics: Numerics) -> list[str]:
    """The columns in which a prediction that was made again differs."""
    first, second = row["top5_confidences"][:2]
    choices = _CHOICES if first - second >= TIE[numerics] else ()
    differ = [key for key in choices if again[key] != row[key]]
    return differ + [key for key in _CONFIDENCES if not _close(again[key], row[key], CLOSE[numerics])]


def _close(again: float | None, before: float | None, within: float) -> bool:
    return again == before or (again is not None and before is not None and abs(again - before) <= within)
