"""The gallery: attacked pictures beside their originals, with everything that models said, for the page's script."""

from typing import TYPE_CHECKING

from pipeline.report.canvases import pixels, png_files, thumbnail
from pipeline.report.section import Section, Table, answer, distinct, some_images
from pipeline.results.outcomes import quoted
from pipeline.results.record import Json
from transforms.data.classes import class_name
from transforms.rows.parts import CLEAN

if TYPE_CHECKING:
    from pipeline.results.tables import Run

_PICTURES = 480
"""Attacked pictures, at most."""
_ANSWERS = 80_000
"""Answers of models to them, at most."""
_SIDE = 144
"""Pixels, at most, of a picture."""
_MEASURES = ("linf", "l2", "l1", "l0", "psnr", "ssim")


def gallery(run: "Run") -> Section | None:
    """A bounded number of pictures: the same images, spread evenly over the run, after every attack."""
    attacks = distinct(run, "attack", "attacks")
    cases = answer(run, "select distinct model, view, defense from predictions order by all").rows
    if not attacks:
        return Section("Gallery", ("No attack was run: an experiment with `attacks:` fills this.",))
    attacks = attacks[:_PICTURES]
    room = min(_PICTURES, max(len(attacks), _ANSWERS // max(1, len(cases))))
    images = some_images(run, max(1, room // len(attacks)))
    wanted = f"image_id in ({', '.join(map(quoted, images)) or 'null'})"
    rows = answer(run, _ATTACKED.format(wanted=wanted)).records()
    thumbnails = {attack: _thumbnails(run, attack, images) for attack in (CLEAN, *attacks)}
    answers = _answers(answer(run, _SEEN.format(wanted=wanted)), cases)
    pictures = [
        {
            **{key: row[key] for key in ("image_id", "attack", "label", "target")},
            "measures": [_finite(row[measure]) for measure in _MEASURES],
            "source": thumbnails[row["attack"]][row["image_id"]],
            "clean": answers.get((row["image_id"], CLEAN), {}),
            "answers": answers.get((row["image_id"], row["attack"]), {}),
        }
        for row in rows
        if row["image_id"] in thumbnails.get(row["attack"], {})
    ]
    named = {each for row in pictures for each in (row["label"], row["target"]) if each is not None}
    named |= {said[0] for row in pictures for some in (row["clean"], row["answers"]) for said in some.values()}
    content: Json = {
        "cases": [list(case) for case in cases],
        "measures": list(_MEASURES),
        "originals": thumbnails[CLEAN],
        "pictures": pictures,
        "names": {index: class_name(index) for index in sorted(named)},
    }
    words = (
        f"Images spread evenly over the run, each after every attack: {len(images)} × {len(attacks)}. The page holds "
        f"at most {_PICTURES} attacked pictures and {_ANSWERS:,} answers of models. Pictures are small and lossy here; "
        "the stored ones: `megalith pictures`."
    )
    return Section("Gallery", (words,), gallery=content)


def _thumbnails(run: "Run", attack: str, images: list[str]) -> dict[str, str]:
    return {image: thumbnail(pixels(png), _SIDE) for image, png in png_files(run, attack, images).items()}


def _answers(found: Table, cases: tuple[tuple[str, ...], ...]) -> dict[tuple[str, str], dict[int, list[float]]]:
    """What was said of each image and attack, by the place of the case: class, its probability, the label's, right."""
    places = {case: place for place, case in enumerate(cases)}
    said: dict[tuple[str, str], dict[int, list[float]]] = {}
    for image, attack, model, view, defense, predicted, confidence, label_confidence, correct in found.rows:
        by_case = said.setdefault((image, attack), {})
        numbers = [predicted, round(confidence, 4), round(label_confidence, 4), int(correct)]
        by_case[places[model, view, defense]] = numbers
    return said


def _finite(value: float) -> float | None:
    return round(value, 5) if abs(value) < float("inf") else None


_ATTACKED = """
select image_id, attack, label, target, linf, l2, l1, l0, psnr, ssim from attacks
where {wanted} order by image_id, attack
"""

_SEEN = """
select image_id, attack, model, view, defense, predicted, confidence, label_confidence, correct from predictions
where {wanted} order by all
"""
