"""Estimators: a step's gradient, estimated from gradients at one or more points."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.gradients import Gradients
from transforms.attacks.parts.momentum import mean_normalized
from transforms.attacks.per_image import per_image
from transforms.randomness import Draws
from transforms.ranges import above, at_least, within
from transforms.spectrum import with_spectrum

Sampling = Literal["linear", "uniform", "gaussian"]

Estimate = Callable[[Gradients, Tensor, Tensor, Draws], Tensor]
"""(gradients, adversarial canvases, points, the step's draws) -> the gradient that the step follows.

All are (B, 3, S, S), in the unit of [0, 1] pixels. The points are where the gradient is wanted: the canvases, or ahead
of them.
"""


class Estimator(Protocol):
    """Makes an estimate for one run of the loop; what it remembers between steps dies with it.

    Attributes:
        random: whether anything is drawn.
        mixes: whether the batch's pool is mixed in.
    """

    @property
    def random(self) -> bool: ...

    @property
    def mixes(self) -> bool: ...

    def begin(self) -> Estimate: ...

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        """Forward and backward passes of one network over one window that a run of so many steps takes per image.

        Args:
            models: surrogates.
            copies: what each gradient is averaged over.
            redraws: whether the gradient at a point is another one each time.
        """


class BaseEstimator:
    """Defaults for estimators: without other pictures."""

    mixes: ClassVar[bool] = False


def for_each_copy(gradients: int, models: int, copies: int) -> tuple[int, int]:
    """A forward and a backward pass of every model for each copy."""
    return gradients * models * copies, gradients * models * copies


@dataclass(frozen=True)
class AtThePoint(BaseEstimator):
    """The gradient where the canvas is."""

    random: ClassVar[bool] = False

    def begin(self) -> Estimate:
        return lambda gradients, _, points, draws: gradients.at(points, draws)

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps, models, copies)


@dataclass(frozen=True)
class _Neighbourhood(BaseEstimator):
    """What estimators have in common that draw points around the canvas.

    Attributes:
        ball: the budget; lengths are those of its norm.
        neighbors: how many points.
        radius: half the side of the cube they are drawn from: in L∞ in the unit of [0, 1] pixels, in other norms the
            length of half its diagonal.
    """

    ball: Ball
    neighbors: int
    radius: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, neighbors=self.neighbors)

    def _around(self, points: Tensor, draws: Draws) -> Tensor:
        noise = draws.uniform(points.shape[1:], "neighbor").to(points)
        return points + self.ball.spread(self.radius, points[0].numel()) * (2 * noise - 1)

    def _mean_gradient(self, gradients: Gradients, points: Tensor, draws: Draws) -> Tensor:
        total = torch.zeros_like(points)
        for number in range(self.neighbors):
            path = draws.at("neighbor", number)
            total = total + gradients.at(self._around(points, path), path)
        return total / self.neighbors


@dataclass(frozen=True)
class VarianceTuning(_Neighbourhood):
    """The gradient, plus how the mean gradient around the canvas differed from it one step before
    (Wang & He 2021, arXiv:2103.15571, algorithm 1)."""

    def begin(self) -> Estimate:
        before: tuple[Tensor, Tensor, Draws] | None = None

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            nonlocal before
            gradient = gradients.at(points, draws)
            tuned = gradient
            if before is not None:  # not at the end of the step before, where the last would be for nothing
                its_canvases, its_gradient, its_draws = before
                tuned = gradient + self._mean_gradient(gradients, its_canvases, its_draws) - its_gradient
            before = canvases, gradient, draws
            return tuned

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps + (steps - 1) * self.neighbors, models, copies)


@dataclass(frozen=True)
class EnhancedMomentum(BaseEstimator):
    """The mean gradient along the direction of the step before (Wang et al. 2021, arXiv:2103.10609).

    Attributes:
        ball: the budget; lengths are those of its norm.
        samples: points.
        reach: how far away the farthest are in either direction, for a gradient whose values are of one magnitude.
        sampling: whether points are evenly spaced, or drawn uniformly, or from a normal distribution whose standard
            deviation is a third of the reach, at which it is cut off.
    """

    ball: Ball
    samples: int
    reach: float
    sampling: Sampling

    @property
    def random(self) -> bool:
        return self.sampling != "linear"

    def __post_init__(self) -> None:
        at_least(2, samples=self.samples)  # a line has two ends

    def begin(self) -> Estimate:
        before: Tensor | None = None

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            nonlocal before
            if before is None and not gradients.redraws:  # all samples would be one
                gradient = gradients.at(points, draws)
            else:
                gradient = self._along(torch.zeros_like(points) if before is None else before, gradients, points, draws)
            before = mean_normalized(gradient)
            return gradient

        return estimate

    def _along(self, direction: Tensor, gradients: Gradients, points: Tensor, draws: Draws) -> Tensor:
        total = torch.zeros_like(points)
        reach = self.ball.spread(self.reach, points[0].numel())
        for number in range(self.samples):
            path = draws.at("sample", number)
            factors = per_image(self._factors(reach, number, path)).to(points)
            total = total + gradients.at(points + factors * direction, path)
        return total / self.samples

    def _factors(self, reach: float, number: int, draws: Draws) -> Tensor:
        """How far away a point is, of each image or of all: (B,) or (1,)."""
        if self.sampling == "uniform":
            return reach * (2 * draws.uniform((), "place") - 1)
        if self.sampling == "gaussian":
            return reach * (draws.normal((), "place") / 3).clamp(-1, 1)
        return torch.linspace(-reach, reach, self.samples)[number : number + 1]

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        first = self.samples if redraws else 1
        return for_each_copy(first + (steps - 1) * self.samples, models, copies)


@dataclass(frozen=True)
class GradientRelevance(_Neighbourhood):
    """The gradient and the mean gradient of the neighbourhood, weighed by how alike they are
    (Zhu et al. 2023, "Boosting Adversarial Transferability via Gradient Relevance Attack", ICCV)."""

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            gradient = gradients.at(points, draws)
            around = self._mean_gradient(gradients, points, draws)
            alike = _likeness(gradient, around)
            return alike * gradient + (1 - alike) * around

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * (1 + self.neighbors), models, copies)


@dataclass(frozen=True)
class FrequencyRelevance(_Neighbourhood):
    """FGSRA: the gradient and the sum of those of neighbours, weighed by how alike they are. A neighbour's cosine
    coefficients are multiplied by random numbers about 1, its gradient by how alike it is to the canvas (Wang et al.
    2024, "Improving Adversarial Transferability via Frequency-Guided Sample Relevance Attack", CIKM).

    Attributes:
        spread: coefficients are multiplied by numbers from [1 - spread, 1 + spread].
    """

    spread: float

    def __post_init__(self) -> None:
        super().__post_init__()
        within("[0, 1]", rho=self.spread)

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            gradient, total = gradients.at(points, draws), torch.zeros_like(points)
            for number in range(self.neighbors):
                path = draws.at("neighbor", number)
                factors = 1 + self.spread * (2 * path.uniform(points.shape[1:], "spectrum").to(points) - 1)
                seen = with_spectrum(self._around(points, path), factors)
                total = total + _likeness(points, seen) * with_spectrum(gradients.at(seen, path), factors)
            alike = _likeness(gradient, total)
            return alike * gradient + (1 - alike) * total

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * (1 + self.neighbors), models, copies)


def _likeness(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of each image's values, (B, 1, 1, 1); 0 where all are 0."""
    # Normalized, because the squares of a confident model's gradients would vanish.
    flat = [mean_normalized(each).flatten(1) for each in (one, other)]
    return per_image(F.cosine_similarity(flat[0], flat[1], dim=1, eps=0.0).nan_to_num())


@dataclass(frozen=True)
class GradientNormPenalty(_Neighbourhood):
    """Around each neighbour, the gradient there mixed with the one a step downhill from it, which penalises steep
    places (Ge et al. 2023, arXiv:2306.05225, algorithm 1).

    Attributes:
        balance: weight of the second, in (0, 1].
        alpha: length of the step downhill, for a gradient whose values are of one magnitude.
    """

    balance: float
    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        within("(0, 1]", balance=self.balance)

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            total = torch.zeros_like(points)
            alpha = self.ball.spread(self.alpha, points[0].numel())
            for number in range(self.neighbors):
                path = draws.at("neighbor", number)
                near = self._around(points, path)
                first = gradients.at(near, path)
                second = gradients.at(near - alpha * mean_normalized(first), path.at("downhill"))
                total = total + (1 - self.balance) * first + self.balance * second
            return total / self.neighbors

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(2 * steps * self.neighbors, models, copies)


@dataclass(frozen=True)
class DirectionTuning(BaseEstimator):
    """DTA: the mean direction of a few short steps, each taken at the end of what is remembered there
    (Yang et al. 2023, arXiv:2303.15109, algorithm 1 as in the authors' code).

    Attributes:
        ball: the budget.
        alpha: length of all short steps together.
        reach: how far ahead of the canvas the points are, for a memory whose values are of magnitude 1.
        inner_steps: short steps.
        inner_decay: of the memory within a step, which begins with the loop's.
    """

    ball: Ball
    alpha: float
    reach: float
    inner_steps: int
    inner_decay: float
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(1, inner_steps=self.inner_steps)
        at_least(0, inner_decay=self.inner_decay)

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            total, tuned = torch.zeros_like(points), canvases
            reach, alpha = self.ball.spread(self.reach, points[0].numel()), self.alpha / self.inner_steps
            memory = (points - canvases) / reach
            for number in range(self.inner_steps):
                gradient = gradients.at(tuned + reach * memory, draws.at("tuning", number))
                memory = self.inner_decay * memory + mean_normalized(gradient)
                total = total + memory
                tuned = self.ball.inside(tuned + alpha * self.ball.direction(memory, tuned), gradients.batch.clean)
            return total / self.inner_steps

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * self.inner_steps, models, copies)


@dataclass(frozen=True)
class PredictionCorrection(BaseEstimator):
    """PC: the gradient and that of a predicted canvas, a step along it further on, each divided by its mean magnitude
    and added (Wan et al. 2023, arXiv:2306.01809, as in the authors' code).

    Attributes:
        ball: the budget, which the predicted canvas keeps, too.
        alpha: length of the step that predicts.
    """

    ball: Ball
    alpha: float
    random: ClassVar[bool] = False

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            gradient = mean_normalized(gradients.at(points, draws))
            predicted = points + self.alpha * self.ball.direction(gradient, points)
            predicted = self.ball.inside(predicted, gradients.batch.clean)
            return gradient + mean_normalized(gradients.at(predicted, draws.at("correction")))

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(2 * steps, models, copies)


@dataclass(frozen=True)
class ReversePerturbation(BaseEstimator):
    """RAP: the gradient where nearby the objective is low, after a few steps downhill from a random point around the
    canvas (Qin et al. 2022, arXiv:2210.05968, algorithm 1).

    Attributes:
        ball: around the canvas.
        alpha: length of a step downhill.
        inner_steps: downhill.
        late_start: steps before the first that looks there.
    """

    ball: Ball
    alpha: float
    inner_steps: int
    late_start: int
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, inner_steps=self.inner_steps)
        at_least(0, late_start=self.late_start)
        above(0, reverse_eps=self.ball.eps, reverse_alpha=self.alpha)

    def begin(self) -> Estimate:
        steps = itertools.count()

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            if next(steps) < self.late_start:
                return gradients.at(points, draws)
            reverse = self.ball.project(self.ball.start(points, draws.at("reverse")), points)
            for number in range(self.inner_steps):
                gradient = gradients.at(points + reverse, draws.at("reverse", number))
                downhill = -self.alpha * self.ball.direction(gradient, points + reverse)
                reverse = self.ball.project(reverse + downhill, points)
            return gradients.at(points + reverse, draws)

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps + self.inner_steps * max(0, steps - self.late_start), models, copies)


@dataclass(frozen=True)
class ExpectedFlatness(_Neighbourhood):
    """MEF: the mean gradient of neighbours, each of which first goes along what its own gradient was one step before,
    less what it had gathered till then (Qiu et al. 2024, arXiv:2405.16181, algorithm 1).

    Attributes:
        reach: how far it goes, for a gradient whose values are of one magnitude.
        inner_decay: of what it had gathered.
    """

    reach: float
    inner_decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        within("[0, 1)", inner_decay=self.inner_decay)

    def begin(self) -> Estimate:
        gathered: dict[int, Tensor] = {}

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            total, reach = torch.zeros_like(points), self.ball.spread(self.reach, points[0].numel())
            for number in range(self.neighbors):
                path, before = draws.at("neighbor", number), gathered.get(number, torch.zeros_like(points))
                gradient = gradients.at(self._around(points, path) + reach * before, path)
                gathered[number] = mean_normalized(gradient) - self.inner_decay * before
                total = total + gradient
            return total / self.neighbors

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * self.neighbors, models, copies)
