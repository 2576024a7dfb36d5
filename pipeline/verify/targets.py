"""Checks what class each attack wanted of each image: by the definition, the seed, the CSV, or the surrogates again."""

from collections.abc import Sequence
from random import sample as drawn

import numpy as np
from pydantic import ValidationError

from pipeline.config.base import first_problem
from pipeline.config.experiment import Experiment
from pipeline.images.manifest import list_images
from pipeline.results.outcomes import quoted
from pipeline.results.tables import Run
from pipeline.run.definitions import conditions
from pipeline.verify.replay import pinned, stored
from pipeline.verify.tables import CLOSE, Check, defined_spec
from transforms.attacks.engine import clean_answer
from transforms.attacks.spec import AttackSpec
from transforms.attacks.targets import Column, Ranked, wanted
from transforms.data.pixels import CanvasBatch
from transforms.errors import InputError
from transforms.rows.parts import CLEAN
from transforms.steps.held_models import HeldModels

Wanted = tuple[str, int, int | None]
"""An image's id, its label, and the class that was wanted of it."""


def check_targets(run: Run, sample: int, device: str) -> Check:
    """Compares the targets of rows of `attacks` with what they should be.

    Args:
        sample: of how many images of an attack its surrogates are asked again, where targets follow from their answer.
        device: auto, cpu or cuda.
    """
    check = Check("targets are those that the attacks were to have")
    _, made = run.rows("select distinct attack from attacks order by attack")
    names = [attack for (attack,) in made]
    for attack in names:
        try:
            spec = defined_spec(run.record.definitions, attack, names)
        except ValueError:
            continue  # That was said with the definitions.
        _, found = run.rows(
            f"select image_id, label, target from attacks where attack = {quoted(attack)} order by image_id"  # noqa: S608 - quoted
        )
        rows = [(image_id, label, target) for image_id, label, target in found]
        if isinstance(spec.target, Ranked):
            rows = drawn(rows, min(sample, len(rows)))
        try:
            wrong = _unlike(run, spec, rows, device) if rows else []
        except (InputError, ValidationError) as error:
            said = first_problem(error) if isinstance(error, ValidationError) else error
            check.unknown.append(f"targets of {attack}: {said}")
            continue
        check.looked_at += len(rows)
        check.wrong += [f"{image_id} after {attack}: its target is {target}" for image_id, _, target in wrong]
    return check


def _unlike(run: Run, spec: AttackSpec, rows: Sequence[Wanted], device: str) -> list[Wanted]:
    """The rows that have another target than the attack was to have; raises InputError where that cannot be known."""
    if spec.target is None:
        return [row for row in rows if row[2] is not None]
    if isinstance(spec.target, Ranked):
        return _unlike_answers(run, spec, spec.target, rows, device)
    targets = _given(run, spec.target, rows) if isinstance(spec.target, Column) else None
    batch = CanvasBatch(*_images(rows), np.empty((len(rows), 3, 0, 0), np.uint8), targets)
    expected = wanted(spec.target, batch, run.record.definitions.seed).tolist()
    return [row for row, target in zip(rows, expected, strict=True) if row[2] != target]


def _images(rows: Sequence[Wanted]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(image_id for image_id, *_ in rows), tuple(label for _, label, _ in rows)


def _given(run: Run, column: Column, rows: Sequence[Wanted]) -> tuple[int, ...]:
    """What the labels CSV, read again, gives to the images."""
    experiment = Experiment.model_validate(run.record.experiment)
    refs, _ = list_images(experiment.images, experiment.seed, [column.name])
    given = {ref.image_id: truth.label for ref in refs for name, truth in ref.targets if name == column.name}
    if missing := [image_id for image_id, *_ in rows if image_id not in given]:
        raise InputError(f"images.labels does not name {missing[0]} any more")
    return tuple(given[image_id] for image_id, *_ in rows)


def _unlike_answers(run: Run, spec: AttackSpec, target: Ranked, rows: Sequence[Wanted], device: str) -> list[Wanted]:
    """Asks the surrogates again; of two classes that are as likely, either may be wanted on another machine."""
    asked_under = conditions(run.record.definitions, device)
    models = HeldModels({name: pinned(run, name) for name in spec.surrogates}, device, asked_under.numerics)
    classifiers = models.surrogates(spec)
    canvases = stored(run, [(image_id, CLEAN) for image_id, *_ in rows])
    if missing := [image_id for image_id, *_ in rows if (image_id, CLEAN) not in canvases]:
        raise InputError(f"the clean canvas of {missing[0]} is gone")
    pixels = np.stack([canvases[image_id, CLEAN] for image_id, *_ in rows])
    batch = CanvasBatch(*_images(rows), pixels)
    logits = clean_answer(spec, classifiers, batch, asked_under)
    best = wanted(target, batch, asked_under.seed, lambda: logits).tolist()
    within = CLOSE[asked_under.numerics]
    return [
        (image_id, label, had)
        for (image_id, label, had), expected, of_image in zip(rows, best, logits.tolist(), strict=True)
        if had is None or had == label or abs(of_image[expected] - of_image[had]) > within
    ]
