"""stAdv: pixels that come from a little elsewhere, by a flow that is as smooth as fooling allows."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transforms.attacks.drivers.minimal import judged_slope
from transforms.attacks.drivers.shared import sampled
from transforms.attacks.objectives import margin
from transforms.attacks.parts.momentum import adam
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import Budget, Shift
from transforms.data.pixels import WHITE
from transforms.errors import InputError
from transforms.ranges import above, at_least

_BETAS, _STABILIZER = (0.9, 0.999), 1e-8
"""Adam's usual ones."""


def roughness(flow: Tensor) -> Tensor:
    """How much a flow (B, 2, S, S) differs from pixel to pixel, (B,): the sum over all pixels of the distances of its
    vector to those of the four neighbours (eq. 4). Where two are equal, nothing flows back."""
    across, down = flow[..., 1:] - flow[..., :-1], flow[..., 1:, :] - flow[..., :-1, :]
    # Each pair of neighbours is seen from either end.
    return 2 * (_lengths(across).sum(dim=(1, 2)) + _lengths(down).sum(dim=(1, 2)))


def _lengths(vectors: Tensor) -> Tensor:
    squares = vectors[:, 0] ** 2 + vectors[:, 1] ** 2
    apart = squares > 0
    return torch.where(apart, squares, 1).sqrt() * apart


def flowed(canvases: Tensor, flow: Tensor) -> Tensor:
    """Canvases (B, 3, S, S) whose pixels come from where a flow (B, 2, S, S) points, pixels across and down (eq. 1);
    from beyond the border, the border's."""
    places = torch.arange(canvases.shape[-1], device=canvases.device)
    return sampled(canvases, places + flow[:, 0], places[:, None] + flow[:, 1], outside="border")


@dataclass(frozen=True, kw_only=True)
class StAdv(BaseAttack):
    """Minimises max(-margin, -confidence) + tau · roughness of a flow by Adam, from no flow at all. Models are shown
    the canvas rounded to 8 bits, as it would be stored; rounding lets gradients through.

    Of the canvases that reach the goal the one of the smallest loss is kept, of all where none does. An image that
    reaches it when clean stays as it is.

    Attributes:
        max_flow: furthest that a pixel may come from, across and down, pixels.
        tau: weight of the roughness, in logits; flows are in pixels.
        confidence: margin, in logits, beyond which nothing is gained (κ).
        steps: of Adam.
        learning_rate: Adam's.
    """

    max_flow: Budget[Shift] = 2.0
    tau: float = 0.0005
    confidence: float = 0.0
    steps: int = 100
    learning_rate: Shift = 0.05
    measures: ClassVar[tuple[str, ...]] = ("flow",)

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        at_least(0, tau=self.tau, confidence=self.confidence)
        above(0, max_flow=self.max_flow, learning_rate=self.learning_rate)

    def check(self, side: int) -> None:
        if self.max_flow >= side:
            raise InputError(f"max_flow: {self.max_flow:g} bounds nothing on a canvas of {side} pixels; 2 is usual")

    def cost(self, models: int) -> tuple[int, int]:
        """With gradients in fp32; in reduced precision each step takes one more forward pass."""
        return models * (self.steps + 1), models * self.steps

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Xiao et al. 2018, eq. 2."""
        clean, goal = batch.clean, batch.goal
        kept, kept_flow = batch.canvases, torch.zeros_like(clean[:, :2])
        least = torch.full((len(clean),), torch.inf, device=clean.device)
        fooled = torch.zeros_like(least, dtype=torch.bool)
        flow, update = kept_flow, adam(*_BETAS, _STABILIZER)()
        for step in range(self.steps + 1):
            asked = surrogates.counting(least > -self.confidence)  # no loss is smaller
            if asked.idle:
                break
            flow = flow.detach().requires_grad_()
            adversarial, rough = flowed(clean, flow), roughness(flow)
            stored = (adversarial.detach() * WHITE).round()
            if step < self.steps:
                gradient, reached, margins = judged_slope(asked, stored / WHITE, margin, goal)
            else:
                reached, margins = asked.judge(stored / WHITE, margin, goal)
            losses = (-margins).clamp(min=-self.confidence) + self.tau * rough.detach()
            better = (reached & ~fooled) | ((reached | ~fooled) & (losses < least))
            kept = where(better, stored.to(torch.uint8), kept)
            kept_flow = where(better, flow.detach(), kept_flow)
            least, fooled = torch.where(better, losses, least), fooled | reached
            if step < self.steps:
                pull = gradient * per_image(margins < self.confidence)
                (slope,) = torch.autograd.grad([adversarial, rough], flow, [pull, torch.full_like(rough, -self.tau)])
                flow = (flow.detach() + self.learning_rate * update(slope)).clamp(-self.max_flow, self.max_flow)
        return Found(kept, measured={"flow": kept_flow.abs().amax(dim=(1, 2, 3))})


RECIPES = {
    "stadv": Recipe("Xiao et al. 2018, arXiv:1801.02612", [StAdv], norms=(), fusions=LOGIT_FUSIONS),
}
