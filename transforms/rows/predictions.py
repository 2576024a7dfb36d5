"""Predictions: what models say of defended canvases, as rows."""

from typing import Any

import torch

from transforms.data.classes import class_name
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import Defense
from transforms.models.answers import Answers, highest
from transforms.rows.tables import TOP


def prediction_rows(
    batch: CanvasBatch, answers: Answers, defense: Defense, target: int | None, *, all_probabilities: bool
) -> list[dict[str, Any]]:
    """Rows of `predictions`, for the images of which the model's answer is finite.

    `margin` is log p(label) - log p(the most probable other class), natural logarithm: negative where the model is
    wrong. `target` is the class that the attack wanted, if any. Behind `smoothing` the votes decide what is predicted,
    and an abstention is not correct.
    """
    log_probabilities = answers.log_probabilities
    probabilities = log_probabilities.exp()
    # Of logarithms, because small probabilities are all zero.
    top = highest(log_probabilities, TOP)
    certified = None if defense.smoothing is None else defense.smoothing.certify(answers.choices)
    rows = []
    for item in answers.finite.nonzero().flatten().tolist():
        label = batch.labels[item]
        predicted = int(top[item, 0] if certified is None else certified.predicted[item])
        abstained = None if certified is None else bool(certified.abstained[item])
        others = log_probabilities[item].clone()
        others[label] = -torch.inf
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
                "margin": float(log_probabilities[item, label] - others.max()),
                "correct": predicted == label and not abstained,
                "top5_labels": top[item].tolist(),
                "top5_confidences": probabilities[item, top[item]].tolist(),
                "label_confidence_std": answers.spread(item),
                "agreement": answers.agreement(item, predicted),
                "abstained": abstained,
                "certified_radius": None if certified is None else float(certified.radius[item]),
                "probabilities": probabilities[item].tolist() if all_probabilities else None,
            }
        )
    return rows
