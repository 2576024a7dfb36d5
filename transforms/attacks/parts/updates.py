"""Updates: from accumulated gradients to a change of pixels. What remembers earlier steps is made anew for each run."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.parts.bands import Band

Step = Callable[[Tensor, Tensor], Tensor]
"""(accumulated gradient, adversarial canvas in [0, 1]) -> change of the canvas, all (B, 3, S, S)."""


def steepest(ball: Ball, alpha: float) -> Step:
    """As far as `alpha` where the ball's norm is steepest: the sign of the gradient in L∞."""
    return lambda accumulated, adversarial: alpha * ball.direction(accumulated, adversarial)


def as_accumulated(ball: Ball, alpha: float) -> Callable[[], Step]:
    """Proportional to what is accumulated, without another normalisation: of length `alpha` where all is of magnitude
    1."""
    return lambda: lambda accumulated, adversarial: ball.spread(alpha, accumulated[0].numel()) * accumulated


def in_coefficients(ball: Ball, band: Band, alpha: float) -> Callable[[], Step]:
    """The sign of each coefficient of the band: a step of the same energy as one of length `alpha` that changes all
    values alike, in L∞ a sign step."""

    def step(accumulated: Tensor, adversarial: Tensor) -> Tensor:
        signs = band.signs(accumulated)
        power = (signs**2).mean(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(signs.dtype).tiny)
        return ball.spread(alpha, accumulated[0].numel()) * signs / power.sqrt()

    return lambda: step


def hesitant(ball: Ball, alpha: float, decay: float) -> Callable[[], Step]:
    """Steepest, but shorter by `decay` for each time that a value's sign has changed
    (Zhu et al. 2023, "Boosting Adversarial Transferability via Gradient Relevance Attack", ICCV)."""
    return partial(_Hesitant, ball, alpha, decay)


def contradicted(ball: Ball, alpha: float, decay: float, momentum_decay: float) -> Callable[[], Step]:
    """Steepest, at first alpha / decay long, but shorter by `decay` for each time that a value's gradient and momentum
    (whose own decay is `momentum_decay`) differ in sign
    (Wang et al. 2024, "Improving Adversarial Transferability via Frequency-Guided Sample Relevance Attack", CIKM)."""
    return partial(_Contradicted, ball, alpha, decay, momentum_decay)


def patchwise(eps: float, alpha: float, amplification: float, project: float, kernel_size: int) -> Callable[[], Step]:
    """Steps longer than the budget allows, whose cut-off part is passed on to the neighbouring pixels
    (Gao et al. 2020, arXiv:2007.06765, algorithm 1)."""
    return partial(_Patchwise, eps, alpha, amplification, project, kernel_size)


class _Hesitant:
    def __init__(self, ball: Ball, alpha: float, decay: float) -> None:
        self._ball = ball
        self._alpha = alpha
        self._decay = decay
        self._signs: Tensor | None = None
        self._length: Tensor | float = 1.0

    def __call__(self, accumulated: Tensor, adversarial: Tensor) -> Tensor:
        signs = accumulated.sign()
        if self._signs is not None:
            self._length = self._length * torch.where(signs == self._signs, 1.0, self._decay)
        self._signs = signs
        return self._alpha * self._length * self._ball.direction(accumulated, adversarial)


class _Contradicted:
    def __init__(self, ball: Ball, alpha: float, decay: float, momentum_decay: float) -> None:
        self._ball = ball
        self._alpha = alpha
        self._decay = decay
        self._momentum_decay = momentum_decay
        self._before: Tensor | float = 0.0
        self._length: Tensor | float = 1.0 / decay

    def __call__(self, accumulated: Tensor, adversarial: Tensor) -> Tensor:
        gradient = accumulated - self._momentum_decay * self._before
        self._before = accumulated
        self._length = self._length * torch.where(gradient.sign() == accumulated.sign(), 1.0, self._decay)
        return self._alpha * self._length * self._ball.direction(accumulated, adversarial)


class _Patchwise:
    def __init__(self, eps: float, alpha: float, amplification: float, project: float, kernel_size: int) -> None:
        self._eps = eps
        self._step = amplification * alpha
        self._project = project
        kernel = torch.ones(kernel_size, kernel_size)
        kernel[kernel_size // 2, kernel_size // 2] = 0
        self._kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
        self._asked: Tensor | float = 0.0

    def __call__(self, accumulated: Tensor, adversarial: Tensor) -> Tensor:
        step = self._step * accumulated.sign()
        asked = self._asked + step
        cut = (asked.abs() - self._eps).clamp(min=0) * asked.sign()
        passed_on = self._project * F.conv2d(cut, self._kernel.to(cut), padding="same", groups=3).sign()
        self._asked = asked + passed_on
        return step + passed_on
