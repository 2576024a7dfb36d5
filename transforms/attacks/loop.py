"""The attack loop: gradient ascent inside a ball, with exchangeable parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.gradients import FeatureUse, Gradients
from transforms.attacks.inside import layers_of_each
from transforms.attacks.objectives import Goal, Objective, cross_entropy
from transforms.attacks.parts import bands
from transforms.attacks.parts.bands import Band
from transforms.attacks.parts.estimators import AtThePoint, Estimator
from transforms.attacks.parts.momentum import Momentum, no_momentum
from transforms.attacks.parts.updates import Step, steepest
from transforms.attacks.per_image import where
from transforms.attacks.protocol import BaseAttack, Batch, Found, PoolUse, Transformation
from transforms.attacks.surrogates import Surrogates, Transform
from transforms.data.pixels import WHITE, Pixels
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.randomness import Draws
from transforms.ranges import above, at_least

Keep = Literal["last", "best", "first"]
_BAND_ROUNDS = 3


def unfiltered(gradient: Tensor) -> Tensor:
    """Leaves the gradient as it is."""
    return gradient


@dataclass(frozen=True)
class AttackLoop(BaseAttack):
    """Iterated gradient ascent on an objective inside a ball and the pixel box, ending on the 8-bit grid.

    Attributes:
        ball: the budget, and with it the projection.
        steps: iterations per restart, >= 1.
        alpha: length of a step, in the unit of [0, 1] pixels.
        objective: what each step raises.
        transformations: what models are shown in place of the canvas, applied first to last; the gradients of all
            their copies are averaged.
        eot: how often the random parts of a gradient are drawn and averaged (expectation over transformation,
            Athalye et al. 2018, arXiv:1707.07397), >= 1.
        features: what is done inside the surrogates when a gradient is taken; None for nothing.
        estimator: makes a step's gradient out of gradients at one or more points.
        search_steps: steps before the first, from the same start and of length `search_alpha`, of which only the
            momentum is kept.
        lookahead: step length (in the ball's norm) along the momentum at which the gradient is taken (Nesterov).
        gradient_filter: applied to each gradient before momentum.
        momentum: makes a fresh memory of gradients for each restart.
        step: makes a fresh rule from accumulated gradients to a change of pixels for each restart; None for steepest
            ascent by alpha.
        band: where given, the perturbation stays in it, as far as ball and box allow.
        keep: which canvas of a restart is kept: the last, the best, or the first that reaches the goal (and else the
            last). The best and the first are found by judging the 8-bit canvas of each step, at a forward pass each.
        random_start: whether to begin at a random point of the ball instead of the image.
        model_draws: how often the surrogates are drawn to judge a canvas where they are random themselves, as behind a
            random defence; 0 where they are not.
        random_gradients: whether the surrogates' gradients are random by themselves.
        in_turn: whether each step follows one surrogate, in random order, each once before any is followed again (LGV,
            Gubri et al. 2022, arXiv:2207.13129). The order is the same for all images of an experiment, so that a batch
            asks one surrogate; what is kept is judged by all of them.
        restarts: independent runs; of each image the best is kept: one that reaches the goal before one that does
            not, then the one with the highest objective, then the earliest.
    """

    ball: Ball
    steps: int
    alpha: float
    objective: Objective = cross_entropy
    transformations: tuple[Transformation, ...] = ()
    eot: int = 1
    features: FeatureUse | None = None
    estimator: Estimator = AtThePoint()  # noqa: RUF009 - frozen
    search_steps: int = 0
    search_alpha: float = 0.0
    lookahead: float = 0.0
    gradient_filter: Transform = unfiltered
    momentum: Callable[[], Momentum] = no_momentum
    step: Callable[[], Step] | None = None
    band: Band | None = None
    keep: Keep = "last"
    random_start: bool = False
    model_draws: int = 0
    random_gradients: bool = False
    in_turn: bool = False
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, restarts=self.restarts, eot=self.eot)
        above(0, alpha=self.alpha)
        if self.restarts > 1 and not self._random:
            raise InputError(f"restarts: {self.restarts} without anything random would repeat the same run")
        if self.eot > 1 and not self.redraws:
            raise InputError(
                f"eot: {self.eot} without a random transformation or defense would average the same gradient"
            )
        if self.in_turn and self.features is not None:
            raise InputError("fuse: drawn would follow one surrogate, and this recipe the features of all of them")
        if self.in_turn and self.steps == 1:
            raise InputError("fuse: drawn would follow a single surrogate in a single step; take 2 steps or more")
        if self.keep != "last" and self.steps == 1:
            raise InputError(f"keep: {self.keep} has no effect on a single step")

    @property
    def redraws(self) -> bool:
        inside = self.features is not None and self.features.redraws
        drawn = any(each.random for each in self.transformations)
        return inside or self.model_draws > 0 or self.random_gradients or drawn

    @property
    def pool(self) -> PoolUse:
        inside = self.features is not None and self.features.mixes
        mixed = inside or self.estimator.mixes or any(each.mixes for each in self.transformations)
        return "needed" if mixed else "unused"

    @property
    def looks_inside(self) -> bool:
        return self.features is not None

    @property
    def _random(self) -> bool:
        inside = self.features is not None and self.features.random
        return inside or self.random_start or self.estimator.random or self.redraws or self.in_turn

    @property
    def _judges(self) -> bool:
        """Whether candidates have to be compared."""
        return self.keep != "last" or self.restarts > 1

    def cost(self, models: int) -> tuple[int, int]:
        """Forward and backward passes of one network over one window, at most, per image and for so many surrogates."""
        copies = self.eot
        for each in self.transformations:
            copies *= each.copies
        steps, followed = self.search_steps + self.steps, 1 if self.in_turn else models
        forwards, backwards = self.estimator.passes(steps, followed, copies, self.redraws)
        if self.features is not None:
            more = self.features.passes(steps, models, copies, forwards)
            forwards, backwards = forwards + more[0], backwards + more[1]
        judged = self.restarts * (self.steps if self.keep != "last" else 1) if self._judges else 0
        return self.restarts * forwards + judged * models * max(1, self.model_draws), self.restarts * backwards

    def check(self, side: int) -> None:
        """Tries the parts on a black canvas: some of their parameters are wrong for small canvases only."""
        blank, label = torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
        batch = Batch(blank, Goal(label), _Least(0, "check", [""]), blank, label)
        for transformation in self.transformations:
            for copy in range(transformation.copies if transformation.fused else 1):  # fused ones differ in parameters
                transformation(batch.clean, copy, batch.draws, batch)
        if self.band is not None:
            bands.check(self.band, side)

    def check_models(self, classifiers: Sequence[Classifier]) -> None:
        if self.features is not None:
            layers_of_each(classifiers, self.features.layer)

    def columns(self, clean: Pixels, adversarial: Pixels) -> dict[str, float]:
        if self.band is None:
            return {}
        perturbation = torch.from_numpy(adversarial.astype(np.float64) - clean)
        return {"out_of_band": float(bands.leaked(self.band, perturbation[None]))}

    def __call__(self, surrogates: Surrogates, batch: Batch, start: Tensor | None = None) -> Found:
        """Attacks a batch.

        Args:
            start: uint8 (B, 3, S, S) in the ball, where to begin unless at random; None for the images themselves.
        """
        gradients = Gradients(surrogates, self.objective, batch, self.transformations, self.eot, self.features)
        kept = _Kept(self.keep, batch, judges=self._judges)
        for restart in range(self.restarts):
            if kept.finished:
                break
            self._run(gradients, batch.draws.at("restart", restart), kept, start)
        return Found(kept.canvases)

    def _run(self, gradients: Gradients, draws: Draws, kept: "_Kept", begin: Tensor | None) -> None:
        gradients = replace(gradients, surrogates=gradients.surrogates.begun())
        batch = gradients.batch
        clean = batch.clean
        start = clean if begin is None else begin.float() / WHITE
        if self.random_start:
            start = clean + self.ball.project(self.ball.start(batch.canvases, draws), clean)
        adversarial = start
        accumulated = torch.zeros_like(clean)
        estimate, momentum = self.estimator.begin(), self.momentum()
        renew = None if self.features is None else self.features.begin()
        step = steepest(self.ball, self.alpha) if self.step is None else self.step()
        search = steepest(self.ball, self.search_alpha)
        lookahead = self.ball.spread(self.lookahead, clean[0].numel())
        for number in range(-self.search_steps, self.steps):
            if number == 0:
                adversarial = start
            surrogates = self._followed(gradients.surrogates, draws, self.search_steps + number)
            asked = replace(gradients, surrogates=kept.counting(surrogates))
            if renew is not None:
                asked = replace(asked, way=renew(asked, adversarial, draws.at("inside", number)))
            ahead = adversarial + lookahead * accumulated
            gradient = self.gradient_filter(estimate(asked, adversarial, ahead, draws.at("step", number)))
            accumulated = momentum(gradient)
            rule = search if number < 0 else step
            adversarial = self._inside(adversarial + rule(accumulated, adversarial), clean)
            last = number == self.steps - 1
            if last or (self.keep != "last" and number >= 0):
                kept.offer(asked, self.ball.to_grid(batch.canvases, adversarial), last=last)
            if kept.finished:
                return

    def _followed(self, surrogates: Surrogates, draws: Draws, number: int) -> Surrogates:
        """The surrogates of a step, by its number from 0."""
        if not self.in_turn:
            return surrogates
        turn, place = divmod(number, len(surrogates))
        order = draws.at("turn", turn).shared.permutation(len(surrogates), "surrogates")
        return surrogates.following(int(order[0, place]))

    def _inside(self, points: Tensor, clean: Tensor) -> Tensor:
        if self.band is None:
            return self.ball.inside(points, clean)
        perturbation = points - clean
        for _ in range(_BAND_ROUNDS):  # towards the intersection of band, ball and box
            perturbation = self.ball.project(self.band.project(perturbation), clean)
        return clean + perturbation


class _Least(Draws):
    """The smallest of all draws, so that a transformation that is applied with a probability is applied."""

    def uniform(self, shape: Sequence[int], draw: str) -> Tensor:
        return torch.zeros(1, *shape)


class _Kept:
    """The 8-bit canvas of each image that is kept so far: by the rule `keep`, or the last where nothing is judged."""

    def __init__(self, keep: Keep, batch: Batch, *, judges: bool) -> None:
        self._keep = keep
        self._judges = judges
        self.canvases = batch.canvases
        images, device = len(self.canvases), self.canvases.device
        self._reached = torch.zeros(images, dtype=torch.bool, device=device)
        self._value = torch.full((images,), -torch.inf, device=device)

    @property
    def finished(self) -> bool:
        """Whether nothing that comes could be kept."""
        return self._keep == "first" and bool(self._reached.all())

    def counting(self, surrogates: Surrogates) -> Surrogates:
        """The surrogates, counting only for images of which something to come could be kept."""
        return surrogates.counting(~self._reached) if self._keep == "first" else surrogates

    def offer(self, gradients: Gradients, canvases: Tensor, *, last: bool) -> None:
        """Judges a step's canvases, uint8 (B, 3, S, S), and keeps the better ones; `last` of a restart."""
        if not self._judges:
            self.canvases = canvases
            return
        shown, objective, goal = canvases.float() / WHITE, gradients.objective, gradients.batch.goal
        reached, value = gradients.surrogates.judge(shown, objective, goal)
        higher = (reached == self._reached) & (value > self._value)
        if self._keep == "first":
            higher &= ~self._reached if last else torch.zeros_like(higher)
        better = (reached & ~self._reached) | higher
        self.canvases = where(better, canvases, self.canvases)
        self._value = torch.where(better, value, self._value)
        self._reached = self._reached | reached
