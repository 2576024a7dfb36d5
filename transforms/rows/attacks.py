"""Rows of `attacks`: what was done to an image, and what its surrogates say of it before and after."""

import math
from typing import Any

import torch

from transforms.attacks.engine import Attacked
from transforms.attacks.objectives import Goal
from transforms.attacks.spec import AttackSpec
from transforms.data.pixels import CanvasBatch
from transforms.rows.canvases import canvas_sha256
from transforms.rows.distances import distances


def attack_rows(spec: AttackSpec, seed: int, batch: CanvasBatch, attacked: Attacked) -> list[dict[str, Any]]:
    """Rows of `attacks` for the images whose gradients were finite."""
    goal = Goal(torch.tensor(batch.labels), None if spec.target is None else torch.tensor(spec.target))
    reached = goal.reached(attacked.adversarial).tolist()
    clean_confidence, clean_predicted = attacked.clean.max(dim=1)
    confidence, predicted = attacked.adversarial.max(dim=1)
    attack = spec.build()
    rows = []
    for item in attacked.finite.nonzero().flatten().tolist():
        canvas = attacked.canvases[item].numpy()
        norm = float(attacked.norms[item])
        rows.append(
            {
                "image_id": batch.image_ids[item],
                "recipe": spec.recipe,
                "surrogates": list(spec.surrogates),
                "fuse": spec.fuse if len(spec.surrogates) > 1 else None,
                "view": spec.view,
                "through": spec.defense.name,
                "objective": dict(spec.parameters).get("objective"),
                "label": batch.labels[item],
                "target": spec.target,
                "norm": spec.norm,
                "eps": spec.eps,
                "steps": attack.steps,
                "seed": seed,
                "clean_predicted": int(clean_predicted[item]),
                "clean_confidence": float(clean_confidence[item]),
                "adversarial_predicted": int(predicted[item]),
                "adversarial_confidence": float(confidence[item]),
                "success": reached[item],
                "minimal_norm": None if math.isnan(norm) else norm,
                **distances(batch.pixels[item], canvas),
                **attack.columns(torch.from_numpy(batch.pixels[item]), attacked.canvases[item]),
                "forwards": int(attacked.forwards[item]),
                "backwards": int(attacked.backwards[item]),
                "canvas_sha256": canvas_sha256(canvas),
            }
        )
    return rows
