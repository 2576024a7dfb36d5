"""DeepFool: steps to the nearest boundary of the model made linear."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.minimal import SETTLING, Best, dual_norm, settle
from transforms.attacks.drivers.shared import best_others, bounded_in
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError
from transforms.ranges import at_least


@dataclass(frozen=True, kw_only=True)
class DeepFool(BaseAttack):
    """Adds up the shortest ways to the nearest linearised boundary until the image, overshot a little, crosses one.

    Defaults are the authors'; with 1,000 classes, the ten likeliest stand for all.

    Attributes:
        ball: L∞ or L2.
        steps: at most.
        overshoot: by how much the sum is lengthened, as a part of it.
        candidates: classes whose boundaries are looked at: the true one and the likeliest others.
    """

    ball: Ball = field(kw_only=False)
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def __post_init__(self) -> None:
        bounded_in(self.ball, ["linf", "l2"])
        at_least(1, steps=self.steps)
        at_least(2, candidates=self.candidates)
        at_least(0, overshoot=self.overshoot)

    def cost(self, models: int) -> tuple[int, int]:
        """With gradients in fp32; in reduced precision each step takes one more forward pass."""
        return models * (1 + 2 * self.steps + SETTLING), models * self.candidates * self.steps

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        if batch.goal.targets is not None:
            raise InputError("target: deepfool takes none; it looks for the nearest wrong class")
        clean, labels, best = batch.clean, batch.goal.labels, Best.none(batch.clean)
        total = torch.zeros_like(clean)
        logits = surrogates.logits(clean)
        best.offer(total, torch.zeros_like(best.norms), batch.goal.reached(logits))
        others = best_others(logits, labels, min(self.candidates, logits.shape[1]) - 1)
        classes = torch.cat([labels[:, None], others], dim=1)
        for _ in range(self.steps):
            active = best.norms.isinf()
            asked = surrogates.counting(active)
            if asked.idle:
                break
            # The sum is not cut off at the box: for a linear model, the sum cut off is then the nearest point.
            step = self._shortest(asked, (clean + total).clamp(0, 1), classes)
            total = where(active, total + step, total)
            adversarial = (clean + (1 + self.overshoot) * total).clamp(0, 1)
            reached = batch.goal.reached(asked.logits(adversarial))
            best.offer(adversarial - clean, self.ball.length(adversarial - clean), active & reached)
        return settle(surrogates, batch, self.ball, best, batch.goal.reached)

    def _shortest(self, surrogates: Surrogates, adversarial: Tensor, classes: Tensor) -> Tensor:
        """The step onto the nearest boundary between the first of `classes`, int64 (B, K), and the others.

        The boundary with class k is |f_k| / |w_k|_q away, with f_k and w_k the difference of logits and of their
        gradients, and q dual to the norm (Moosavi-Dezfooli et al. 2016, algorithm 2 and eq. 12).
        """
        logits, gradients = surrogates.jacobian(adversarial, classes)
        if not surrogates.exact:  # a gap that rounds to nothing would be no way to go
            logits = surrogates.logits(adversarial)
        chosen = logits.gather(1, classes)
        gaps, slopes = chosen[:, 1:] - chosen[:, :1], gradients[:, 1:] - gradients[:, :1]
        away = gaps.abs() / dual_norm(self.ball.norm, slopes).clamp(min=1e-12)
        nearest = away.argmin(dim=1)
        rows = torch.arange(len(nearest), device=nearest.device)
        distance, slope = per_image(away[rows, nearest]), slopes[rows, nearest]
        if self.ball.norm == "linf":
            return distance * slope.sign()
        return distance * slope / per_image(self.ball.length(slope)).clamp(min=1e-12)


RECIPES = {
    "deepfool": Recipe(
        "Moosavi-Dezfooli et al. 2016, arXiv:1511.04599",
        [DeepFool],
        kind="minimal-norm",
        norms=("linf", "l2"),
        goals="untargeted",
        fusions=LOGIT_FUSIONS,
    )
}
