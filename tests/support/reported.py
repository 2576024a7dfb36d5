"""A run made by hand with something of everything that a page shows: its answers are drawn at random."""

from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.support.made import made_run
from tests.support.runs import Row

SIDE = 16
MODELS = ("a", "b", "c")
VIEWS = ("center", "ten-crop")
DEFENSES = ("none", "lowpass:cutoff=1.0", "lowpass:cutoff=0.5", "jpeg:quality=75")
ATTACKS: dict[str, Row] = {
    "weak": {"recipe": "fgsm", "surrogates": ["a"], "eps": 2 / 255, "steps": 1, "forwards": 1, "backwards": 1},
    "strong": {"recipe": "fgsm", "surrogates": ["a"], "eps": 4 / 255, "steps": 1, "forwards": 1, "backwards": 1},
    "aimed": {"recipe": "mi-fgsm", "surrogates": ["a", "b"], "eps": 4 / 255, "target": 9, "steps": 10},
    "small": {"recipe": "fmn", "surrogates": ["b"], "norm": "l2", "eps": 3.0, "steps": 50},
    "weak@jpeg:quality=75": {"recipe": "fgsm", "surrogates": ["a"], "eps": 2 / 255, "through": "jpeg:quality=75"},
}


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A picture, uint8 (S, S, 3), as a PNG file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def random_run(folder: Path, images: int = 12, seed: int = 0) -> Path:
    """Images of ten classes; models are right more often when clean. Canvases are noise of 16 × 16."""
    draw = np.random.default_rng(seed)
    labels = {f"i{number:02d}": number % 10 for number in range(images)}
    clean = {image: draw.integers(8, 248, (SIDE, SIDE, 3)) for image in labels}
    canvases: list[Row] = [{"image_id": image, "canvas": png(each.astype(np.uint8))} for image, each in clean.items()]
    predictions, attacks = [], []
    for attack, model, view, defense in product(("none", *ATTACKS), MODELS, VIEWS, DEFENSES):
        right = 0.8 if attack == "none" else 0.3 if model in ATTACKS[attack]["surrogates"] else 0.6
        for image, label in labels.items():
            predicted = label if draw.random() < right else int(draw.integers(0, 10))
            sure = {"confidence": float(draw.random()), "label_confidence": float(draw.random())}
            place = {"attack": attack, "model": model, "view": view, "defense": defense}
            predictions.append({"image_id": image, "label": label, "predicted": predicted, **sure, **place})
    for attack, how in ATTACKS.items():
        for image in labels:
            changed = draw.integers(-4, 5, (SIDE, SIDE, 3))
            canvases.append(
                {"image_id": image, "attack": attack, "canvas": png((clean[image] + changed).astype(np.uint8))}
            )
            found = {"minimal_norm": float(draw.random())} if attack == "small" else {}
            attacks.append(
                {
                    **{"image_id": image, "attack": attack, "success": bool(draw.random() < 0.7), **how, **found},
                    **{"linf": how["eps"] if how.get("norm") != "l2" else 0.02, "l2": float(draw.random())},
                }
            )
    return made_run(folder, predictions, attacks, canvases=canvases)
