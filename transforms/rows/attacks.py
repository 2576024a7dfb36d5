"""Rows of `attacks`: what was done to an image, and what its surrogates say of it before and after."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch
from transforms.rows.canvases import canvas_sha256
from transforms.rows.distances import distances

if TYPE_CHECKING:
    from transforms.attacks.spec import AttackSpec


def made_by(spec: "AttackSpec", seed: int) -> dict[str, Any]:
    """The columns that say how an attack was made; the same in all of its rows.

    Args:
        seed: the experiment's.
    """
    return {
        "recipe": spec.recipe,
        "surrogates": list(spec.surrogates),
        "fuse": spec.fuse if len(spec.surrogates) > 1 else None,
        "victim": spec.victim,
        "view": spec.view,
        "through": spec.defense.name,
        "objective": dict(spec.parameters).get("objective"),
        "norm": spec.norm,
        "eps": spec.eps,
        "bounds": spec.bounds,
        "steps": spec.build().steps,
        "seed": seed,
    }


def attack_rows(
    spec: "AttackSpec",
    seed: int,
    batch: CanvasBatch,
    attacked: Attacked,
    lpips: NDArray[np.floating] | None = None,
) -> list[dict[str, Any]]:
    """Rows of `attacks` for the images whose gradients and answers were finite.

    Args:
        seed: the experiment's.
        batch: the clean canvases of the images that were attacked.
        lpips: float (N,), how far the adversarial canvases are from these; None where that is not asked.
    """
    attack = spec.build()
    rows = []
    for item in np.flatnonzero(attacked.finite).tolist():
        canvas, label = attacked.canvases[item], batch.labels[item]
        target = None if attacked.targets is None else int(attacked.targets[item])
        rows.append(
            {
                "image_id": batch.image_ids[item],
                **made_by(spec, seed),
                "label": label,
                "target": target,
                **_answers(attacked, item, label, target),
                "minimal_norm": _unless_nan(attacked.norms[item]),
                **distances(batch.pixels[item], canvas),
                "lpips": None if lpips is None else float(lpips[item]),
                **attack.columns(batch.pixels[item], canvas),
                **dict(zip(attack.measures, attacked.measured[item].tolist(), strict=True)),
                "forwards": int(attacked.forwards[item]),
                "backwards": int(attacked.backwards[item]),
                "queries": int(attacked.queries[item]),
                "canvas_sha256": canvas_sha256(canvas),
            }
        )
    return rows


def _answers(attacked: Attacked, item: int, label: int, target: int | None) -> dict[str, Any]:
    """What the surrogates say; nothing where there are none."""
    clean, adversarial = attacked.clean[item], attacked.adversarial[item]
    if not clean.size:
        return {}
    before, after = int(clean.argmax()), int(adversarial.argmax())
    return {
        "clean_predicted": before,
        "clean_confidence": float(clean[before]),
        "adversarial_predicted": after,
        "adversarial_confidence": float(adversarial[after]),
        "success": after != label if target is None else after == target,
    }


def _unless_nan(value: np.floating) -> float | None:
    return None if math.isnan(value) else float(value)
