"""Rows of `predictions`: what a model says of canvases behind a defence."""

from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.data.classes import class_name
from transforms.data.outcomes import Answered
from transforms.data.pixels import CanvasBatch

if TYPE_CHECKING:
    from transforms.defenses.defense import Defense


def prediction_rows(
    batch: CanvasBatch, answered: Answered, defense: "Defense", *, all_probabilities: bool
) -> list[dict[str, Any]]:
    """Rows of `predictions`, for the images of which the model's answer is finite.

    `margin` is log p(label) - log p(the most probable other class), natural logarithm: negative where the model is
    wrong. Behind `smoothing` the votes decide what is predicted, and an abstention is not correct.

    Args:
        batch: the canvases that were attacked, with the targets of a targeted attack.
        all_probabilities: whether rows hold them for every class.
    """
    logarithms, probabilities, choices = answered.log_probabilities, answered.probabilities, answered.choices
    spread = answered.label_confidence_std
    certified = None if defense.smoothing is None else defense.smoothing.certify(choices)
    rows = []
    for item in np.flatnonzero(answered.finite).tolist():
        label, top = batch.labels[item], answered.top[item]
        target = None if batch.targets is None else batch.targets[item]
        predicted = int(top[0] if certified is None else certified.predicted[item])
        abstained = None if certified is None else bool(certified.abstained[item])
        rows.append(
            {
                "image_id": batch.image_ids[item],
                "label": label,
                "predicted": predicted,
                "predicted_name": class_name(predicted),
                "confidence": float(probabilities[item, predicted]),
                "label_confidence": float(probabilities[item, label]),
                "target": target,
                "target_confidence": None if target is None else float(probabilities[item, target]),
                "margin": float(logarithms[item, label] - np.delete(logarithms[item], label).max()),
                "correct": predicted == label and not abstained,
                "top5_labels": top.tolist(),
                "top5_confidences": probabilities[item, top].tolist(),
                "label_confidence_std": None if spread is None else float(spread[item]),
                "votes": None if len(choices) == 1 else choices[:, item].tolist(),
                "agreement": None if len(choices) == 1 else float((choices[:, item] == predicted).mean()),
                "abstained": abstained,
                "certified_radius": None if certified is None else float(certified.radius[item]),
                "probabilities": probabilities[item].tolist() if all_probabilities else None,
            }
        )
    return rows
